"""The README and the documents say what is there."""

import re
import subprocess
import sys
from dataclasses import fields
from importlib.util import find_spec
from pathlib import Path

import pytest
from typer.main import get_command

from service.bundles.config import DatasetConfig, EvaluationConfig, TrainingConfig
from service.cli.main import app
from service.settings import Settings
from supernet.training.augmentation import Augmentation
from supernet.training.sampling import SAMPLERS
from supernet.training.schedule import Phase, Schedule

REPOSITORY = Path(__file__).parents[1]
README = (REPOSITORY / "README.md").read_text()


def test_every_setting_is_documented_and_no_other() -> None:
    named = set(re.findall(r"SUPPLE_[A-Z_]+", README)) - {"SUPPLE_KEY"}  # that one is the client's
    assert named == {f"SUPPLE_{name.upper()}" for name in Settings.model_fields}


def test_the_commands_it_shows_exist_with_their_options() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]
    shown = re.findall(r"supple ((?:db |keys )?[a-z-]+)([^\n`]*)", README)
    assert len(shown) > 8
    for name, rest in shown:
        command = commands[name.split()[0]]
        if " " in name:
            command = command.commands[name.split()[1]]
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        used = re.findall(r"(?<=\s)--?[a-z][a-z-]*", rest.split("#")[0])
        assert set(used) <= known, (name, used)


def test_the_files_it_links_to_exist() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (REPOSITORY / target).exists(), target


def test_every_option_of_a_training_file_is_documented() -> None:
    documented = set(re.findall(r"`([a-z_]+)`", (REPOSITORY / "docs" / "training.md").read_text()))
    for configuration in (TrainingConfig, DatasetConfig, EvaluationConfig, Schedule, Phase, Augmentation):
        missing = {option.name for option in fields(configuration)} - documented
        assert missing - {"dataset", "evaluation", "schedule"} == set(), configuration
    assert set(SAMPLERS) <= documented


def test_the_benchmarks_that_are_shown_exist() -> None:
    texts = [README, *(path.read_text() for path in (REPOSITORY / "benchmarks").rglob("*.md"))]
    shown = {name for text in texts for name in re.findall(r"python -m (benchmarks\.[a-z0-9_]+)", text)}
    assert len(shown) > 8
    for name in shown:
        assert find_spec(name) is not None, name


def test_the_python_it_shows_runs(bundle_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (tmp_path / "supple-data/demo/train").mkdir(parents=True)
    (tmp_path / "supple-data/demo/train/bundle").symlink_to(bundle_path)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "README.md", "exec"), {})
    assert (tmp_path / "best.onnx").stat().st_size > 0


@pytest.mark.parametrize("page", sorted((REPOSITORY / "docs").glob("*.md")), ids=lambda page: page.name)
def test_the_files_that_the_documents_name_exist(page: Path) -> None:
    named = re.findall(
        r"`((?:service|supernet|evolution|tests|configs|benchmarks|docs|supple)/[\w./-]+)`", page.read_text()
    )
    missing = [name for name in named if not (REPOSITORY / name).exists()]
    assert not missing


def test_the_picture_is_what_its_script_draws(tmp_path: Path) -> None:
    drawn = tmp_path / "supernet.svg"
    subprocess.run([sys.executable, REPOSITORY / "docs" / "draw_supernet.py", drawn], check=True)
    assert drawn.read_text() == (REPOSITORY / "docs" / "supernet.svg").read_text()


def test_no_file_holds_the_marks_of_a_merge() -> None:
    folders = ("benchmarks", "configs", "docs", "evolution", "migrations", "service", "supernet", "supple", "tests")
    files = [*REPOSITORY.glob("*.*"), *(path for folder in folders for path in (REPOSITORY / folder).rglob("*"))]
    sources = [
        path for path in files if path.suffix in {".css", ".html", ".js", ".md", ".py", ".toml", ".yaml", ".yml"}
    ]
    assert any(path.suffix == ".html" for path in sources)
    marked = [path for path in sources if re.search(r"^(<{7}|>{7}) ", path.read_text(), re.MULTILINE)]
    assert marked == []
