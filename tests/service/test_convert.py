"""`supple convert`: a module in the working directory becomes a bundle that is described, exported and registered."""

import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient
from PIL import Image
from safetensors.torch import save_file

from service.bundles.images import add_images
from service.context import Context
from service.supernets.register import register_supernet
from supernet.bundle import Bundle, BundleError
from supernet.export.parity import run_onnx
from tests.support import command_line
from tests.support.command_line import Ran
from tests.support.trainable import write_trainable

Run = Callable[..., Ran]

MODULE = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(16, width, 1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1, groups=width), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, 16, 1), nn.BatchNorm2d(16))

    def forward(self, x):
        return x + self.body(x)

def small(channels=3):
    return nn.Sequential(nn.Conv2d(channels, 16, 3, 2, 1), nn.ReLU(), Block(32), Block(24),
                         nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))

def grey():
    return small(1)

def two():
    return nn.Sequential(*list(small())[:-1], nn.Linear(16, 2))

class Holder:
    small = staticmethod(small)

def broken():
    raise KeyError("no such thing")

def with_argument(width):
    return small()

def concatenated():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1)
        def forward(self, x):
            return torch.cat([self.a(x), self.b(x)], 1)
    return Net()

number = 3
network = small()
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, with a module of the user's."""
    (tmp_path / "mynets.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mynets", raising=False)
    return tmp_path


def trained_state(folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The state dict of a network with weights of its own."""
    monkeypatch.syspath_prepend(folder)
    import mynets  # type: ignore[import-not-found]

    torch.manual_seed(7)
    network = mynets.small()
    network[2].body[1].running_mean.normal_()
    return dict(network.state_dict())


def refused(ran: Ran, message: str) -> None:
    command_line.refused(ran, 2, re.escape(message))


def convert(run: Run, *options: str, factory: str = "mynets:small") -> Ran:
    return run("convert", factory, "--image-size", "32", "-o", "start", *options)


@pytest.mark.parametrize("file", ["weights.safetensors", "weights.pth"])
def test_a_network_with_its_weights_is_converted_described_and_exported(
    file: str, folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = trained_state(folder, monkeypatch)
    save_file(state, folder / file) if file.endswith("safetensors") else torch.save(state, folder / file)
    before = list(sys.path)
    ran = convert(run, "--weights", file)
    assert ran.code == 0, ran.stderr
    assert sys.path == before
    lines = ran.stdout.splitlines()
    assert lines[0].startswith("small: the largest subnet is the network (logits differ by ")
    assert "resolutions  16, 20, 24, 28, 32" in lines
    assert "stage 1      1 or 2 blocks; kept width of block 1: 0.25, 0.5, 0.75, 1; block 2: 0.25, 0.75, 1" in lines
    assert "80 subnets" in lines  # 5 resolutions x (4 + 4 x 3)
    # By hand: the stem, two blocks of 32 and 24 channels or one of 8, on maps of 16 or 8 pixels, and the classifier.
    largest = 16**2 * (16 * 27 + (16 + 9 + 16) * (32 + 24)) + 16 * 5
    smallest = 8**2 * (16 * 27 + (16 + 9 + 16) * 8) + 16 * 5
    assert f"FLOPs        {smallest:,} to {largest:,} multiply-adds" in lines
    assert "left whole, in a sum: 0" in lines
    assert "images: mean 0.485, 0.456, 0.406, standard deviation 0.229, 0.224, 0.225" in lines

    described = json.loads(run("describe", "start", "--arch", "largest", "--json").stdout)
    assert described["flops"] == largest
    ran = run("export", "start", "--arch", "largest", "--batch-norm", "stored", "-o", "largest.onnx")
    assert ran.code == 0, ran.stderr
    images = np.random.default_rng(0).standard_normal((3, 3, 32, 32)).astype(np.float32)
    network = sys.modules["mynets"].small().eval()
    network.load_state_dict(state)
    with torch.no_grad():
        expected = network(torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(run_onnx((folder / "largest.onnx").read_bytes(), images), expected, atol=1e-5)

    manifest = Bundle.open(folder / "start").manifest
    assert manifest["converted"]["factory"] == "mynets:small"
    assert list(manifest["converted"]["weights"]) == [file]


def test_a_converted_bundle_is_registered(folder: Path, run: Run, context: Context, client: TestClient) -> None:
    assert convert(run, factory="mynets:Holder.small").code == 0
    with context.database.writing() as session:
        supernet = register_supernet(session, context.store, folder / "start").id
    shown = client.get(f"/v1/supernets/{supernet}").json()
    assert shown["name"] == "Holder.small"
    assert "Holder.small" in client.get("/").text


def photographs(folder: Path, *classes: str) -> Path:
    """15 noisy photographs of each class."""
    rng = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(15):
            Image.fromarray(rng.integers(0, 256, (36, 32, 3), np.uint8)).save(folder / name / f"{number}.png")
    return folder


@pytest.mark.slow
def test_a_fresh_bundle_is_searched_after_a_fit_on_the_users_images(folder: Path, run: Run) -> None:
    assert convert(run, factory="mynets:two").code == 0
    search = ("search", "start", "--max-flops", "1G", "--evaluations", "20", "--json")
    refused(run(*search), "start has no accuracy predictor, so it cannot be searched; write `init: start` into a")
    refused(run(*search), "run `supple fit start --images FOLDER` with images of its classes")
    refused(
        run("fit", "start"), "start has no held-out images to measure subnets on; run `supple fit start --images FOLD"
    )
    photographs(folder / "photos", "cat", "dog")
    fit = ("fit", "start", "--subnets", "12", "--holdout", "10", "--images")
    photographs(folder / "three", "cat", "dog", "owl")
    assert "three with 3 classes; start has 2, and the names must be the same" in run(*fit, "three").stderr
    before = Bundle.open(folder / "start").manifest["files"]["weights.safetensors"]
    ran = run(*fit, "photos", "--json")
    assert ran.code == 0, ran.stderr
    assert json.loads(ran.stdout)["pairs"] == 12
    bundle = Bundle.open(folder / "start")
    assert bundle.classes == ["cat", "dog"]
    assert bundle.manifest["files"]["weights.safetensors"] == before
    held_out, calibration = bundle.holdout(), bundle.calibration()
    assert held_out is not None
    assert calibration is not None
    assert (len(held_out), len(calibration)) == (10, 20)
    assert held_out.labels.bincount().tolist() == [5, 5]
    ran = run(*search)
    assert ran.code == 0, ran.stderr
    assert run("export", "start", "--arch", "smallest", "-o", "smallest.onnx").code == 0
    (folder / "photos" / "cat").rename(folder / "photos" / "ant")
    assert "they differ in ant, cat" in run(*fit, "photos").stderr


def test_the_images_of_classes_with_names_are_matched_by_name(folder: Path, run: Run) -> None:
    (folder / "names.txt").write_text("dog\ncat\n")
    assert convert(run, "--classes", "names.txt", factory="mynets:two").code == 0
    photos = photographs(folder / "photos", "cat", "dog")
    (photos / "dog" / "0.png").unlink()
    bundle = Bundle.open(folder / "start")
    options: dict[str, Any] = {"holdout": 10, "calibration": 100, "seed": 0, "data_root": folder}
    filled = add_images(bundle, str(photos), **options)
    held_out, calibration = filled.holdout(), filled.calibration()
    assert held_out is not None
    assert calibration is not None
    assert filled.classes == ["dog", "cat"]
    assert torch.cat([held_out.labels, calibration.labels]).bincount().tolist() == [14, 15]


def test_a_trained_bundle_keeps_its_own_held_out_images(tmp_path: Path) -> None:
    bundle = write_trainable(tmp_path / "bundle")
    with pytest.raises(BundleError, match="has held-out images that it was not trained on"):
        add_images(bundle, "photos", holdout=1, calibration=2, seed=0, data_root=tmp_path)


def test_images_of_one_channel_need_their_mean(folder: Path, run: Run) -> None:
    refused(convert(run, factory="mynets:grey"), "--mean and --std are missing; the images have 1 channels")
    ran = convert(run, "--mean", "0.5", "--std", "0.25", factory="mynets:grey")
    assert ran.code == 0, ran.stderr
    assert Bundle.open(folder / "start").normalization.mean == (0.5,)


def test_the_classes_have_names(folder: Path, run: Run) -> None:
    (folder / "names.txt").write_text("ant\nbee\ncat\ndog\nelk\n")
    ran = convert(run, "--classes", "names.txt")
    assert ran.code == 0, ran.stderr
    assert Bundle.open(folder / "start").classes == ["ant", "bee", "cat", "dog", "elk"]
    (folder / "names.txt").write_text("ant\nbee\nbee\n\nelk\n")
    refused(convert(run, "--classes", "names.txt"), "--classes is names.txt with 3 different names on 5 lines")


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("mynets", "--factory is 'mynets'; write MODULE:FACTORY, such as torchvision.models:resnet18"),
        ("nothing_here:small", "module 'nothing_here' cannot be imported: ModuleNotFoundError"),
        ("mynets:large", "module 'mynets' has no 'large'; name a function that returns a network"),
        ("mynets:number", "mynets:number is int; name a function or class that returns a network"),
        ("mynets:network", "mynets:network is Sequential; name a function or class that returns a network"),
        ("mynets:broken", "mynets:broken() failed: KeyError('no such thing')"),
        ("mynets:with_argument", "name a function that needs no arguments and returns a network"),
        ("builtins:dict", "builtins:dict() returns dict; it must return a torch.nn.Module"),
        ("mynets:concatenated", "node 'cat' (cat) is not covered; concatenated channels cannot be elastic"),
    ],
)
def test_a_factory_that_gives_no_network_is_refused(factory: str, message: str, folder: Path, run: Run) -> None:
    refused(convert(run, factory=factory), message)
    assert not (folder / "start").exists()
    assert not list(folder.glob(".start*"))


def test_weights_that_do_not_fit_are_refused_by_name(folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    state = trained_state(folder, monkeypatch)
    wrong = {name: tensor for name, tensor in state.items() if name != "0.bias"} | {"extra": torch.ones(1)}
    wrong["6.weight"] = torch.zeros(10, 16)
    torch.save(wrong, "wrong.pth")
    ran = convert(run, "--weights", "wrong.pth")
    refused(
        ran, "--weights is wrong.pth, which does not fit Sequential: missing: 0.bias; unknown: extra; of another shape"
    )
    refused(ran, "6.weight (10, 16) instead of (5, 16)")

    torch.save({"epoch": 3, "state_dict": state}, "run.pth")
    refused(convert(run, "--weights", "run.pth"), "holds a dict of epoch, state_dict; save network.state_dict() alone")
    torch.save(sys.modules["mynets"].small(), "pickled.pth")
    refused(convert(run, "--weights", "pickled.pth"), "neither safetensors nor a state dict that torch reads without")
    (folder / "text.safetensors").write_text("text")
    refused(convert(run, "--weights", "text.safetensors"), "neither safetensors nor a state dict that torch reads")
    refused(convert(run, "--weights", "none.pth"), "--weights is none.pth: No such file")
    assert not (folder / "start").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--mean", "0.5,0.5,0.5"), "--mean and --std belong together; give both or none"),
        (("--mean", "0.5", "--std", "1"), "--mean is [0.5]; a number for each of 3 channels is needed"),
        (("--mean", "0,0,0", "--std", "1,1,0"), "--std is [1.0, 1.0, 0.0]; a positive number for each of 3 channels"),
        (("--mean", "a,b,c", "--std", "1,1,1"), "--mean is 'a,b,c'; write numbers between commas"),
        (("--image-size", "30"), "the image size is 30; a multiple of 4"),
        (("--resolutions", "large"), "--resolutions is 'large'; write whole numbers between commas, such as 128,192"),
    ],
)
def test_options_that_cannot_be_used_are_refused(
    options: tuple[str, ...], message: str, folder: Path, run: Run
) -> None:
    refused(convert(run, *options), message)
    assert not (folder / "start").exists()


def test_a_folder_that_is_no_bundle_is_not_replaced(folder: Path, run: Run) -> None:
    (folder / "start").mkdir()
    (folder / "start" / "mine.txt").write_text("mine")
    refused(convert(run), "--output is start, which exists and is not a bundle; choose a new folder")
    assert (folder / "start" / "mine.txt").read_text() == "mine"
