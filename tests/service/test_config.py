"""A training file is read strictly: what is misspelt, given twice or no text is named and refused."""

from pathlib import Path

import pytest

from service.bundles.config import read_config

CONFIG = """name: x
space: mbv3-digits
dataset: {source: digits, holdout: 300}
schedule:
  batch_size: 8
  phases:
    - {name: all, epochs: 1, learning_rate: 0.1}
"""


def test_a_training_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(CONFIG)
    assert read_config(tmp_path / "a.yaml").schedule.phases[0].name == "all"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("batch_size: 8", "batch_size: 8\n  batch_size: 16", r"batch_size is given in line 5 and again.*line 6"),
        ("source: digits", "source: digits, 'source': other", r"the key source is given in line 3 and again.*line 3"),
        ("space: mbv3-digits", "space: mbv3-digits\nname: y", r"the key name is given in line 1 and again.*line 3"),
        ("source: digits", "sauce: digits", "sauce: Unexpected keyword argument"),
        ("name: x", "name: \xff", "is not a text file in UTF-8"),
    ],
)
def test_a_fault_in_a_training_file_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    (tmp_path / "a.yaml").write_bytes(CONFIG.replace(old, new).encode("latin-1"))
    with pytest.raises(ValueError, match=f"(?s)a.yaml.*{message}"):
        read_config(tmp_path / "a.yaml")


def test_yaml_may_still_merge_a_mapping_and_change_a_key(tmp_path: Path) -> None:
    merged = CONFIG.replace("- {", "- &all {") + "    - {<<: *all, name: more}\n"
    (tmp_path / "a.yaml").write_text(merged)
    assert [phase.name for phase in read_config(tmp_path / "a.yaml").schedule.phases] == ["all", "more"]
