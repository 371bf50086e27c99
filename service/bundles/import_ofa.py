"""`supple import-ofa`: files that Once-for-All published become a bundle."""

from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from evolution.costs import CostTables
from evolution.predictors.accuracy import AccuracyPredictor
from evolution.predictors.latency import LatencyModel
from evolution.predictors.once_for_all import from_once_for_all
from service.devices.schemas import DeviceIn
from service.errors import InputError
from supernet import ofa
from supernet.bundle import MANIFEST, Bundle
from supernet.bundle_writing import write_bundle
from supernet.data import Images, Normalization, sample_folder
from supernet.evaluation.views import Views
from supernet.families import preset, supernet_class
from supernet.files import sha256
from supernet.networks.supernet import Supernet
from supernet.space import SearchSpace

WIDTHS = {"1.0": "mbv3-imagenet-w1.0", "1.2": "mbv3-imagenet-w1.2"}
ALL_RESOLUTIONS = "-r25"  # ends the names of the same networks at 25 resolutions
SPACES = (  # that something was published for
    *(name + ending for name in WIDTHS.values() for ending in ("", ALL_RESOLUTIONS)),
    "proxyless-imagenet-w1.3",
    "proxyless-imagenet-w1.0",
    "fairnas-imagenet",
    "resnet50d-imagenet",
)
PREDICTOR_SPACES = {"mobilenetv3": WIDTHS["1.2"], "resnet": "resnet50d-imagenet"}  # of the published predictors
IMAGENET = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CALIBRATION_IMAGES = 2_000  # as in Once-for-All's recalibration of batch norm
CALIBRATION_SEED = 0
RUNTIME = "as in the published latency tables"  # the tables name neither runtime nor threads


def import_once_for_all(
    output: Path,
    *,
    checkpoint: Path | None = None,
    predictor: Path | None = None,
    latency_tables: Path | None = None,
    device: str | None = None,
    width: str | None = None,
    space: str | None = None,
    calibration: Path | None = None,
    name: str | None = None,
) -> Bundle:
    """Write a bundle of the given files, completely or not at all.

    latency_tables: a folder of Once-for-All's tables, or a file in the form of ProxylessNAS's. device: a name for
    their device. width: a key of `WIDTHS`; space: one of `SPACES`. Without a checkpoint one of the two is needed.
    calibration: a folder of images for batch-norm recalibration.

    Raises:
        InputError: there is nothing to import, arguments contradict each other, or `output` holds something else.
        ValueError: a file has unexpected contents; the message names it. OSError: a file cannot be read.
    """
    if checkpoint is None and predictor is None and latency_tables is None:
        raise InputError(
            "there is nothing to import; give `checkpoint`, `predictor` or `latency_tables`",
            "checkpoint",
            "predictor",
            "latency_tables",
        )
    if (latency_tables is None) != (device is None):
        raise InputError(
            "`latency_tables` and `device` belong together: `device` names the device of the tables",
            "latency_tables",
            "device",
        )
    if calibration is not None and checkpoint is None:
        raise InputError(
            f"`calibration` is {calibration}, but without `checkpoint` there is nothing to calibrate",
            "calibration",
            "checkpoint",
        )
    if output.exists() and not (output / MANIFEST).is_file():
        raise InputError(f"`output` is {output}, which exists and is not a bundle; choose a new folder", "output")
    read = None if checkpoint is None else ofa.read_checkpoint(checkpoint)
    made_of = _space(width, space, read, checkpoint)
    accuracy = None if predictor is None else _accuracy_predictor(predictor, made_of)
    devices = {} if device is None or latency_tables is None else {device: _device(device, latency_tables, made_of)}
    images = None if calibration is None else calibration_images(calibration, made_of)
    tables = [] if latency_tables is None else _table_files(latency_tables, made_of)
    return write_bundle(
        output,
        name=name or f"once-for-all {made_of.name}",
        space=made_of,
        supernet=None if read is None else _supernet(read, made_of),
        classes=_imagenet_classes(),
        normalization=IMAGENET,
        calibration=images,
        holdout=None,
        views=Views(),
        predictor=None if accuracy is None else accuracy.to_bytes(),
        report={"corners": {}, "predictor": None if accuracy is None else dict(accuracy.card)},
        provenance={
            "dataset": "ImageNet, by Once-for-All (arXiv:1908.09791)",
            "images": {"calibration": 0 if images is None else len(images)},
            "imported": {path.name: sha256(path) for path in (checkpoint, predictor, *tables) if path is not None},
            "seed": CALIBRATION_SEED,
            "versions": {package: version(package) for package in ("supple", "torch", "numpy")},
        },
        devices=devices,
    )


def calibration_images(folder: Path, space: SearchSpace) -> Images:
    """A sample of at most 2,000 images of a folder, at the space's largest resolution.

    Raises:
        InputError: it is not a folder. ValueError: it holds no images, or an image that cannot be decoded.
    """
    if not folder.is_dir():
        raise InputError(
            f"`calibration` is {folder}, which is not a folder; choose a folder of images like the training images",
            "calibration",
        )
    return sample_folder(
        folder,
        max(space.resolutions),
        limit=CALIBRATION_IMAGES,
        seed=CALIBRATION_SEED,
        channels=space.in_channels,
    )


def abilities(bundle: Bundle) -> list[str]:
    """What an imported bundle can and cannot do, one line each."""
    costs = ["FLOPs", "parameters"]
    for name, device in bundle.devices.items():
        resolutions = ", ".join(map(str, device["latency_model"]["card"]["resolutions"]))
        costs.append(f"latency on {name} (resolutions {resolutions}; published, its error is unknown)")
    lines = [
        f"search: under limits on {', '.join(costs)}"
        if bundle.predictor_path
        else "search: no, there is no accuracy predictor; add one with --predictor FILE.pth"
    ]
    if bundle.predictor_path:
        lines += _warnings(bundle)
    if not bundle.has_weights:
        return [*lines, "export: no, there is no checkpoint; add one with --checkpoint FILE.pth"]
    count = bundle.manifest["images"]["calibration"]
    lines.append(
        f"export: with batch norm recalibrated on {count:,} images, or as stored"
        if count
        else "export: with --batch-norm stored; recalibration needs images: --calibration DIR, now or at export"
    )
    return [*lines, "verified accuracy: none, since there are no held-out images"]


def _warnings(bundle: Bundle) -> list[str]:
    """Where the error of a published predictor is unknown."""
    lines, name = [], bundle.space.name
    published = PREDICTOR_SPACES[bundle.space.family]
    if name.removesuffix(ALL_RESOLUTIONS) != published:
        lines.append(f"the predictor was published for {published}; its error on {name} is unknown")
    if between := bundle.report["predictor"].get("interpolated_resolutions"):
        resolutions = ", ".join(map(str, between))
        lines.append(f"predictions are interpolated, with an unknown error, at resolutions {resolutions}")
    return lines


def _space(width: str | None, space: str | None, read: ofa.Checkpoint | None, checkpoint: Path | None) -> SearchSpace:
    if width is not None and width not in WIDTHS:
        raise InputError(f"`width` is {width}; Once-for-All's MobileNetV3 has {' and '.join(WIDTHS)}", "width")
    if space is not None and space not in SPACES:
        raise InputError(f"`space` is {space}; files were published for {', '.join(SPACES)}", "space")
    if width is not None and space is not None:
        raise InputError(f"`width` is {width} and `space` is {space}; omit `width`", "width", "space")
    if read is None:
        if width is None and space is None:
            raise InputError(
                f"`width` is missing, and no checkpoint shows it; give {' or '.join(WIDTHS)}, or `space`",
                "width",
                "space",
            )
        return preset(space or WIDTHS[width or ""])
    if width is not None and WIDTHS[width] != read.space.name:
        raise InputError(f"`width` is {width}, but {checkpoint} holds {read.space.name}; omit `width`", "width")
    if space is None:
        return read.space
    if space.removesuffix(ALL_RESOLUTIONS) != read.space.name:
        raise InputError(f"`space` is {space}, but {checkpoint} holds {read.space.name}; omit `space`", "space")
    return preset(space)


def _supernet(read: ofa.Checkpoint, space: SearchSpace) -> Supernet:
    supernet: Supernet = supernet_class(space.family)(space)
    supernet.load_state_dict({name: torch.from_numpy(array) for name, array in read.weights.items()})
    return supernet


def _table_files(latency_tables: Path, space: SearchSpace) -> list[Path]:
    if latency_tables.is_file():
        return [latency_tables]
    return list(ofa.latency_table_files(latency_tables, space).values())


def _accuracy_predictor(path: Path, space: SearchSpace) -> AccuracyPredictor:
    card = {
        "kind": "mlp",
        "pairs": None,
        "target": "accuracy",
        "validation": "none: published without one",
        "rmse": None,
        "kendall_tau": None,
        "kendall_tau_accuracy": None,
        "source": f"Once-for-All's predictor of ImageNet top-1 on {PREDICTOR_SPACES.get(space.family)}",
    }
    layers = ofa.read_predictor(path)
    try:
        return from_once_for_all(space, layers, card)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _device(name: str, latency_tables: Path, space: SearchSpace) -> dict[str, Any]:
    """A device as a bundle stores it: the settings that identify it, and its latency model."""
    try:
        device = DeviceIn.model_validate({"name": name, "runtime": RUNTIME})
    except ValidationError as error:
        raise InputError(f"`device` is {name!r}: {error.errors()[0]['msg']}", "device") from error
    tables = ofa.read_latency_tables(latency_tables, space)
    source = "ProxylessNAS" if latency_tables.is_file() else "Once-for-All"
    model = LatencyModel.from_published(CostTables(space), tables, f"latency tables that {source} published")
    return {**device.model_dump(exclude={"name"}), "latency_model": model.to_json()}


def _imagenet_classes() -> tuple[str, ...]:
    """ImageNet's 1,000 class names, in the order of the logits."""
    from torchvision.models import MobileNet_V3_Large_Weights

    return tuple(MobileNet_V3_Large_Weights.IMAGENET1K_V1.meta["categories"])
