"""A bundle is whole, checked, portable, and never half-written."""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from supernet.bundle import Bundle, BundleError
from supernet.bundle_writing import with_predictor
from supernet.data import Normalization
from supernet.evaluation.views import Views
from supernet.families import supernet_class
from supernet.networks.supernet import Supernet
from tests.support.bundles import SPACE, images, write


def test_a_bundle_opens_to_what_was_written_and_can_be_moved(tmp_path: Path) -> None:
    written = write(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    opened = Bundle.open(tmp_path / "b")
    assert opened.hash == written.hash
    assert opened.space == SPACE
    assert opened.classes == list("0123456789")
    assert opened.normalization == Normalization((0.3,), (0.4,))
    assert opened.predictor_path is None
    expected: Supernet = supernet_class(SPACE.family)(SPACE, torch.Generator().manual_seed(0))
    actual = opened.supernet().state_dict()
    assert all(torch.equal(value, actual[key]) for key, value in expected.state_dict().items())
    calibration = opened.calibration()
    assert calibration is not None
    assert torch.equal(calibration.pixels, images(40).pixels)
    assert opened.has_weights
    assert opened.devices == {}


def test_the_same_content_has_the_same_hash_and_other_content_another(tmp_path: Path) -> None:
    hashes = [write(tmp_path / name, **changes).hash for name, changes in (("a", {}), ("b", {}), ("c", {"name": "x"}))]
    assert hashes[0] == hashes[1] != hashes[2]


def test_the_evaluator_scores_the_views_that_the_manifest_names(tmp_path: Path) -> None:
    evaluator = write(tmp_path / "a").evaluator()
    arch = SPACE.smallest()
    scored = evaluator.evaluate(evaluator.subnet(arch), arch.resolution)
    assert scored is not None
    assert scored.images == 40
    assert 0 <= scored.accuracy <= 1
    assert scored.log_likelihood < 0


def test_without_a_holdout_there_is_no_evaluation(tmp_path: Path) -> None:
    bundle = write(tmp_path / "a", holdout=None)
    evaluator = bundle.evaluator()
    assert bundle.holdout() is None
    assert evaluator.evaluate(evaluator.subnet(SPACE.smallest()), 8) is None


def _flip_last_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def _add_file(bundle: Path, name: str) -> None:
    files = json.loads((bundle / "manifest.json").read_text())["files"]
    _edit(bundle / "manifest.json", files={**files, name: "0"})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda b: _flip_last_byte(b / "weights.safetensors"),
            r"weights.safetensors was altered: its SHA-256 is .* says",
        ),
        (lambda b: (b / "holdout.npz").unlink(), "incomplete: holdout.npz is missing"),
        (lambda b: (b / "manifest.json").unlink(), "is not a bundle: it has no manifest.json"),
        (lambda b: (b / "manifest.json").write_text("{"), "manifest.json cannot be read"),
        (lambda b: (b / "manifest.json").write_text("[]"), "manifest.json cannot be read"),
        (lambda b: _edit(b / "manifest.json", format=99), "has format 99; this version reads format 1"),
        (lambda b: _edit(b / "manifest.json", space_hash="0"), "space_hash is not the hash of the space"),
        (lambda b: _add_file(b, "../x"), "names a file outside the bundle"),
        (lambda b: _edit(b / "manifest.json", files={}), "does not list report.json"),
        (lambda b: _edit(b / "manifest.json", files=[]), "does not list"),
        (lambda b: _edit(b / "manifest.json", classes=["a"]), "classes or normalisation do not fit the space"),
        (lambda b: _edit(b / "manifest.json", views={"number": 3}), "manifest.json cannot be read"),
        (lambda b: _edit(b / "manifest.json", normalization=None), "manifest.json cannot be read"),
        (lambda b: _edit(b / "manifest.json", classes=[*"012345678", "caf\udce9"]), r"a name that is not UTF-8.*caf"),
        (lambda b: _edit(b / "manifest.json", space={**SPACE.to_json(), "depths": [[]]}), "not a search space"),
    ],
)
def test_a_damaged_bundle_is_refused_and_named(damage: Any, message: str, tmp_path: Path) -> None:
    write(tmp_path / "a")
    damage(tmp_path / "a")
    with pytest.raises(BundleError, match=message):
        Bundle.open(tmp_path / "a")


def test_a_full_disk_leaves_the_earlier_bundle_and_no_rubbish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = write(tmp_path / "a")

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left on device"):
        write(tmp_path / "a", name="second")
    monkeypatch.undo()
    assert Bundle.open(tmp_path / "a").hash == before.hash
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert write(tmp_path / "a", name="second").name == "second"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_a_killed_writer_left_is_gone_after_the_next(tmp_path: Path) -> None:
    write(tmp_path / "a").path.rename(tmp_path / ".a.old")  # killed between the two renames
    (tmp_path / ".a.tmp").mkdir()
    (tmp_path / ".a.tmp" / "weights.safetensors").write_bytes(b"half")
    with pytest.raises(BundleError, match=r"a is not a bundle: .* rename the old bundle, .*\.a\.old, to a$"):
        Bundle.open(tmp_path / "a")
    assert write(tmp_path / "a", name="again").name == "again"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("way", ["link", "folder/../a", "a/../a", "."])
def test_whatever_way_leads_to_a_bundle_it_is_replaced_where_it_lies(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "a")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("a")
    monkeypatch.chdir(tmp_path / "a" if way == "." else tmp_path)
    for number in range(3):
        replaced = with_predictor(Bundle.open(Path(way)), b"predictor", b"pairs", {"number": number})
        assert replaced.report == {"number": number}
        assert Bundle.open(tmp_path / "a").hash == replaced.hash
        monkeypatch.chdir(tmp_path / "a" if way == "." else tmp_path)
    assert (tmp_path / "link").is_symlink()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "folder", "link"]
    assert replaced.beside(".pairs.jsonl") == tmp_path / "a.pairs.jsonl"


def test_an_empty_folder_is_no_bundle_whatever_way_leads_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for way in (Path(), Path("/"), Path("..")):
        with pytest.raises(BundleError, match=r"is not a bundle: it has no manifest\.json$"):
            Bundle.open(way)


def test_one_image_more_than_a_batch_is_still_recalibrated_and_scored(tmp_path: Path) -> None:
    evaluator = write(tmp_path / "a", calibration=images(513), holdout=images(513), views=Views()).evaluator()
    scored = evaluator.evaluate(evaluator.subnet(SPACE.smallest()), 8)
    assert scored is not None
    assert scored.images == 513


def test_no_file_of_a_bundle_is_a_pickle(tmp_path: Path) -> None:
    write(tmp_path / "a")
    suffixes = {path.suffix for path in (tmp_path / "a").iterdir()}
    assert suffixes == {".json", ".npz", ".safetensors"}


DEVICE = {"runtime": "some", "threads": 1, "batch_size": 1, "latency_model": {"card": {}}}


def test_a_bundle_may_lack_weights_and_images_and_hold_devices(tmp_path: Path) -> None:
    bundle = write(tmp_path / "a", supernet=None, calibration=None, holdout=None, devices={"phone.x": DEVICE})
    assert not bundle.has_weights
    assert bundle.calibration() is bundle.holdout() is None
    assert bundle.devices == {"phone.x": DEVICE}
    assert set(bundle.manifest["files"]) == {"report.json", "device-phone.x.json"}
    for use in (bundle.supernet, bundle.evaluator):
        with pytest.raises(BundleError, match=r"made without a checkpoint, so it can be searched .* with a checkpoint"):
            use()


def test_a_broken_device_is_named(tmp_path: Path) -> None:
    bundle = write(tmp_path / "a", devices={"phone": DEVICE})
    (bundle.path / "device-phone.json").write_text("{")
    with pytest.raises(BundleError, match="the file of a device cannot be read"):
        _ = Bundle(bundle.path, bundle.manifest, bundle.hash).devices
    with pytest.raises(BundleError, match=r"device-phone\.json was altered"):
        Bundle.open(bundle.path)


def test_stored_statistics_need_no_images(tmp_path: Path) -> None:
    evaluator = write(tmp_path / "a", calibration=None, holdout=None).evaluator()
    arch = SPACE.smallest()
    with pytest.raises(ValueError, match=r"no calibration images .* at export, or export with stored statistics"):
        evaluator.subnet(arch)
    sample = evaluator.sample(8)
    assert sample.shape == (16, 1, 8, 8)
    assert torch.equal(sample, evaluator.sample(8))
    with torch.inference_mode():
        stored = evaluator.subnet(arch, "stored")(sample)
        assert torch.allclose(stored, evaluator.supernet(sample, arch), atol=1e-5)


def test_other_calibration_images_take_the_place_of_the_bundles_own(tmp_path: Path) -> None:
    bundle = write(tmp_path / "a", holdout=None)
    arch, sample = SPACE.smallest(), bundle.evaluator().sample(8)
    with torch.inference_mode():
        own, same, other = (
            bundle.evaluator(calibration).subnet(arch)(sample) for calibration in (None, images(40), images(30))
        )
    assert torch.equal(own, same)
    assert not torch.allclose(own, other, atol=1e-3)
