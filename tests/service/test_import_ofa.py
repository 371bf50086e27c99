"""`supple import-ofa`, from published files to an answer and an ONNX file, on generated weights and made-up times."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

from supernet.bundle import Bundle
from supernet.export.parity import run_onnx
from supernet.families import preset
from tests.support.command_line import Ran, refused
from tests.support.published import (
    architecture,
    entries,
    fixture,
    generated_state,
    image,
    milliseconds,
    predictor_state,
    resnet_predictor_state,
    tolerance,
    write_proxyless_table,
    write_tables,
)

Run = Callable[..., Ran]

SPACE = preset("mbv3-imagenet-w1.0")
PUBLISHED = fixture("ofa_mbv3_w10_parity.json")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a checkpoint, a predictor, tables of two resolutions and a few images."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("published")
    torch.save({"state_dict": generated_state(PUBLISHED["state_dict_shapes"])}, folder / "checkpoint.pth")
    torch.save(predictor_state(), folder / "predictor.pth")
    torch.save(resnet_predictor_state(), folder / "resnet.pth")
    write_proxyless_table(folder / "mobile_trim.yaml", "proxyless-imagenet-w1.0")
    write_tables(folder / "tables", SPACE.name, (128, 160))
    (folder / "images").mkdir()
    rng = np.random.default_rng(0)
    for number in range(6):
        Image.fromarray(rng.integers(0, 256, (60, 80, 3), np.uint8)).save(folder / "images" / f"{number}.png")
    return folder


def imported(run: Run, files: Path, output: Path, options: str) -> Ran:
    """Run the import. FILES in the options stands for the folder of files."""
    return run("import-ofa", *options.replace("FILES", str(files)).split(), "-o", str(output))


SEARCHABLE = "--predictor FILES/predictor.pth --latency-tables FILES/tables --device phone --width 1.0"


@pytest.fixture(scope="module")
def bundle(files: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the checkpoint alone."""
    from service.bundles.import_ofa import import_once_for_all

    return import_once_for_all(tmp_path_factory.mktemp("bundle") / "weights", checkpoint=files / "checkpoint.pth").path


@pytest.mark.slow
def test_a_bundle_without_weights_is_searched_and_not_exported(files: Path, tmp_path: Path, run: Run) -> None:
    ran = imported(run, files, tmp_path / "b", SEARCHABLE)
    assert ran.code == 0, ran.stderr
    assert "search: under limits on FLOPs, parameters, latency on phone (resolutions 128, 160; " in ran.stdout
    assert "export: no, there is no checkpoint; add one with --checkpoint FILE.pth" in ran.stdout
    assert "the predictor was published for mbv3-imagenet-w1.2; its error on mbv3-imagenet-w1.0 is unk" in ran.stdout

    def search(*options: str) -> Ran:
        return run("search", str(tmp_path / "b"), "--evaluations", "300", "--json", *options)

    ran = search("--device", "phone", "--max-latency-ms", "9")
    assert ran.code == 0, ran.stderr
    best = json.loads(ran.stdout)["best"]
    arch = architecture(best)
    latency_ms = best["predicted_latency_ms"]["phone"]
    assert latency_ms == pytest.approx(sum(milliseconds(arch.resolution, x) for x in entries(SPACE.name, arch)))
    assert latency_ms <= 9
    unknown = json.loads(search("--device", "phone", "--max-flops", "1G", "--resolution", "224").stdout)["best"]
    assert unknown["predicted_latency_ms"] == {}  # the tables lack this resolution, and nothing limits the latency
    refused(search("--max-latency-ms", "9"), 2, r"needs --device: .*, or a device inside the bundle \(phone\)")
    refused(
        search("--device", "tablet", "--max-latency-ms", "9"),
        2,
        r"--device is tablet: No such file or directory; .*, or a device inside the bundle \(phone\)",
    )
    ran = run("search", str(tmp_path / "b"), "--device", "phone", "--max-latency-ms", "9", "--resolution", "224")
    assert ran.code == 2
    assert "latency_ms@phone cannot be predicted for any architecture" in ran.stderr
    for batch_norm in ("stored", "recalibrated"):
        output = tmp_path / "x.onnx"
        ran = run("export", str(tmp_path / "b"), "--arch", "smallest", "-o", str(output), "--batch-norm", batch_norm)
        refused(ran, 2, "made without a checkpoint, so it can be searched but no subnet .* with a checkpoint")
        assert not output.exists()


@pytest.mark.slow
def test_training_starts_from_its_weights(bundle: Path, tmp_path: Path) -> None:
    from service.bundles.config import DatasetConfig, TrainingConfig, load_data
    from service.bundles.train import start_of
    from supernet.training.loop import TrainingState
    from supernet.training.schedule import Phase, Schedule

    rng = np.random.default_rng(0)
    for path in (tmp_path / "img" / name / f"{number}.png" for name in ("cat", "dog") for number in range(3)):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).save(path)
    schedule = Schedule((Phase("elastic", 1, 0.01, sampler="sandwich"),), 4)
    config = TrainingConfig("x", "", DatasetConfig(str(tmp_path / "img"), 2), schedule, init=str(bundle))
    dataset, space = load_data(config, tmp_path)
    assert dataset.normalization == Bundle.open(bundle).normalization
    state = TrainingState.fresh(space, schedule)
    start = start_of(config, state, dataset)
    assert start is not None
    assert start["new"] == ["head.4.bias", "head.4.weight"]
    published = Bundle.open(bundle).supernet().state_dict()
    assert all(torch.equal(state.supernet.state_dict()[name], published[name]) for name in start["taken"])


@pytest.mark.slow
def test_the_predictor_of_the_resnet_is_searched_with(files: Path, tmp_path: Path, run: Run) -> None:
    ran = imported(run, files, tmp_path / "b", "--predictor FILES/resnet.pth --space resnet50d-imagenet")
    assert ran.code == 0, ran.stderr
    assert "predictions are interpolated, with an unknown error, at resolutions 208" in ran.stdout
    assert "its error on" not in ran.stdout
    options = ["--max-flops", "2G", "--choices", "stem.width=0.65", "--evaluations", "300", "--json"]
    best = json.loads(run("search", str(tmp_path / "b"), *options).stdout)["best"]
    assert best["flops"] <= 2e9
    assert best["arch"]["stem.width"] == 0.65


@pytest.mark.slow
def test_all_resolutions_of_once_for_all_are_searched(files: Path, tmp_path: Path, run: Run) -> None:
    options = (
        "--predictor FILES/predictor.pth --latency-tables FILES/tables --device phone --space mbv3-imagenet-w1.0-r25"
    )
    ran = imported(run, files, tmp_path / "b", f"{options} --checkpoint FILES/checkpoint.pth")
    assert ran.code == 0, ran.stderr
    assert "predictions are interpolated, with an unknown error, at resolutions 132, 136, 140, 148" in ran.stdout
    assert "(resolutions 128, 160; published" in ran.stdout
    bundle = Bundle.open(tmp_path / "b")
    assert bundle.space == preset("mbv3-imagenet-w1.0-r25")
    assert bundle.has_weights
    ran = run(
        "search", str(tmp_path / "b"), "--resolution", "140", "--max-flops", "300M", "--evaluations", "100", "--json"
    )
    assert json.loads(ran.stdout)["best"]["arch"]["resolution"] == 140


def test_the_table_of_proxylessnas_is_a_device(files: Path, tmp_path: Path, run: Run) -> None:
    options = "--latency-tables FILES/mobile_trim.yaml --device pixel-1 --space proxyless-imagenet-w1.0"
    ran = imported(run, files, tmp_path / "b", options)
    assert ran.code == 0, ran.stderr
    assert "search: no, there is no accuracy predictor" in ran.stdout
    bundle = Bundle.open(tmp_path / "b")
    card = bundle.devices["pixel-1"]["latency_model"]["card"]
    assert card["resolutions"] == [224]
    assert card["source"] == "latency tables that ProxylessNAS published"
    assert set(bundle.manifest["imported"]) == {"mobile_trim.yaml"}


@pytest.mark.slow
@pytest.mark.parametrize("number", range(6))
def test_exported_with_stored_statistics_a_subnet_has_the_published_logits(
    number: int, bundle: Path, tmp_path: Path, run: Run
) -> None:
    subnet = PUBLISHED["subnets"][number]
    arch, output = architecture(subnet), tmp_path / "subnet.onnx"
    (tmp_path / "arch.json").write_text(json.dumps(arch.to_json()))
    ran = run("export", str(bundle), "--arch", str(tmp_path / "arch.json"), "-o", str(output), "--batch-norm", "stored")
    assert ran.code == 0, ran.stderr
    logits = run_onnx(output.read_bytes(), image(arch.resolution).numpy())
    assert logits.shape == (2, 1000)
    assert np.abs(logits[:, :10] - subnet["logits"]).max() <= tolerance(subnet)
    assert metadata(output)["batch_norm"] == "stored"


def metadata(path: Path) -> dict[str, str]:
    return {entry.key: entry.value for entry in onnx.load(path).metadata_props}


@pytest.mark.slow
def test_recalibrating_needs_images_from_the_import_or_the_export(
    files: Path, bundle: Path, tmp_path: Path, run: Run
) -> None:
    arch = json.dumps(architecture(PUBLISHED["subnets"][1]).to_json())

    def export(where: Path, name: str, *options: str) -> Ran:
        return run("export", str(where), "--arch", arch, "-o", str(tmp_path / name), *options)

    refused(export(bundle, "none.onnx"), 2, "no calibration images .* at import or at export, or export with stored")
    assert not (tmp_path / "none.onnx").exists()
    ran = imported(run, files, tmp_path / "b", "--checkpoint FILES/checkpoint.pth --calibration FILES/images")
    assert "export: with batch norm recalibrated on 6 images, or as stored" in ran.stdout
    assert "search: no, there is no accuracy predictor; add one with --predictor FILE.pth" in ran.stdout
    refused(run("search", str(tmp_path / "b"), "--max-flops", "1G"), 2, "no accuracy predictor, so it cannot be search")
    assert export(tmp_path / "b", "import.onnx").code == 0
    assert export(bundle, "export.onnx", "--calibration", str(files / "images")).code == 0
    assert export(bundle, "stored.onnx", "--batch-norm", "stored").code == 0
    logits = {
        name: run_onnx((tmp_path / f"{name}.onnx").read_bytes(), image(128).numpy())
        for name in ("import", "export", "stored")
    }
    assert logits["import"] == pytest.approx(logits["export"], abs=1e-5)
    assert np.abs(logits["import"] - logits["stored"]).max() > 0.01
    assert metadata(tmp_path / "import.onnx")["batch_norm"] == "recalibrated"
    for options, message in [
        (
            ["--batch-norm", "stored", "--calibration", str(files / "images")],
            "--batch-norm stored recalibrates nothing",
        ),
        (["--calibration", str(tmp_path / "nowhere")], "--calibration is .*nowhere, which is not a folder"),
        (["--calibration", str(files / "tables")], "tables holds no images"),
    ]:
        refused(export(bundle, "none.onnx", *options), 2, message)


def test_a_bundle_says_what_it_was_made_from(files: Path, tmp_path: Path, run: Run) -> None:
    ran = imported(
        run, files, tmp_path / "b", f"--checkpoint FILES/checkpoint.pth {SEARCHABLE} --calibration FILES/images"
    )
    assert ran.code == 0, ran.stderr
    bundle = Bundle.open(tmp_path / "b")
    assert bundle.space == SPACE
    assert bundle.name == "once-for-all mbv3-imagenet-w1.0"
    assert len(bundle.classes) == 1000
    assert set(bundle.manifest["imported"]) == {
        "checkpoint.pth", "predictor.pth", "128_lookup_table.yaml", "160_lookup_table.yaml"
    }  # fmt: skip
    assert list(bundle.devices) == ["phone"]
    assert bundle.report["predictor"]["rmse"] is None
    calibration = bundle.calibration()
    assert calibration is not None
    assert calibration.pixels.shape == (6, 3, 224, 224)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--width 1.0", "there is nothing to import; give --checkpoint, --predictor or --latency-tables"),
        ("--predictor FILES/predictor.pth", "--width is missing, and .* give 1.0 or 1.2"),
        ("--predictor FILES/predictor.pth --width 1.1", "--width is 1.1; Once-for-All's MobileNetV3 has 1.0 and 1.2"),
        ("--checkpoint FILES/checkpoint.pth --width 1.2", "--width is 1.2, but .*.pth holds mbv3-imagenet-w1.0"),
        ("--predictor FILES/predictor.pth --space x", "--space is x; files were published for mbv3-imagenet-w1.0, mb"),
        ("--predictor FILES/predictor.pth --width 1.0 --space fairnas-imagenet", "--width is 1.0 and --space is fairn"),
        ("--checkpoint FILES/checkpoint.pth --space resnet50d-imagenet", "--space is resnet50d-imagenet, but .* holds"),
        ("--predictor FILES/resnet.pth --width 1.0", "resnet.pth: Once-for-All's predictor is of its ResNet-50, which"),
        ("--latency-tables FILES/mobile_trim.yaml --device a --width 1.0", "mobile_trim.yaml is one file, in Proxyl"),
        ("--latency-tables FILES/tables --width 1.0", "--latency-tables and --device belong together"),
        ("--predictor FILES/predictor.pth --device phone --width 1.0", "--latency-tables and --device belong together"),
        ("--latency-tables FILES/tables --device a/b --width 1.0", "--device is 'a/b': String should match pattern"),
        ("--latency-tables FILES/tables --device phone --width 1.2", "128_lookup_table.yaml lacks .* or not for mbv3"),
        ("--latency-tables FILES --device phone --width 1.2", "holds no RESOLUTION_lookup_table.yaml"),
        ("--predictor FILES/predictor.pth --calibration FILES/images --width 1.0", "--calibration is .*, but without"),
        ("--checkpoint FILES/checkpoint.pth --calibration FILES/none", "--calibration is .*none, which is not a"),
        ("--checkpoint FILES/none.pth", "--checkpoint is .*none.pth: No such file"),
        ("--checkpoint FILES/predictor.pth", "predictor.pth is none of Once-for-All's checkpoints; .* unknown: 0.bias"),
        ("--predictor FILES/checkpoint.pth --width 1.0", "checkpoint.pth is not Once-for-All's accuracy pred"),
    ],
)  # fmt: skip
def test_what_contradicts_itself_or_is_something_else_is_refused(
    options: str, message: str, files: Path, tmp_path: Path, run: Run
) -> None:
    ran = imported(run, files, tmp_path / "b", options)
    assert ran.code == 2
    refused(ran, 2, message)
    assert not list(tmp_path.iterdir())


def test_a_failed_import_leaves_what_was_there(files: Path, tmp_path: Path, run: Run, monkeypatch: Any) -> None:
    (tmp_path / "notes").mkdir()
    refused(
        imported(run, files, tmp_path / "notes", SEARCHABLE), 2, "--output is .*notes, which exists and is not a bundle"
    )
    assert imported(run, files, tmp_path / "b", SEARCHABLE).code == 0
    before = Bundle.open(tmp_path / "b").hash

    def full(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    refused(imported(run, files, tmp_path / "b", f"{SEARCHABLE} --name other"), 1, "No space left on device")
    assert Bundle.open(tmp_path / "b").hash == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "notes"]
