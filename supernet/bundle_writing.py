"""Writing bundles: each as a whole, beside the folder that it then replaces."""

import hashlib
import io
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from supernet.bundle import CALIBRATION, FORMAT, HOLDOUT, MANIFEST, PAIRS, PREDICTOR, WEIGHTS, Bundle, path_aside
from supernet.evaluation.views import Views
from supernet.files import real, sync, write_synced
from supernet.space import SearchSpace

if TYPE_CHECKING:
    from supernet.data import Images, Normalization
    from supernet.networks.supernet import Supernet


def write_bundle(
    path: Path,
    *,
    name: str,
    space: SearchSpace,
    supernet: "Supernet | None",
    classes: tuple[str, ...],
    normalization: "Normalization",
    calibration: "Images | None",
    holdout: "Images | None",
    views: Views,
    predictor: bytes | None,
    report: Mapping[str, Any],
    provenance: Mapping[str, Any],
    pairs: bytes | None = None,
    devices: Mapping[str, Mapping[str, Any]] | None = None,
) -> Bundle:
    """Write a bundle beside `path`, then rename it into place, so that `path` is never half a bundle.

    An earlier bundle at `path` is replaced.

    supernet: None makes a bundle that can only be searched. views: how held-out images are perturbed for evaluation.
    predictor, pairs: the bytes of predictor.npz, and of pairs.npz with what it was fitted on. provenance: dataset,
    seeds, versions and other facts about the weights.
    devices: by name, each device's `runtime`, `threads`, `batch_size` and `latency_model`, all JSON-able.

    Raises:
        OSError: the disk is full or the folder cannot be written; `path` is then as it was.
    """
    from safetensors.torch import save

    contents = {"report.json": json.dumps(report, indent=1).encode()}
    if supernet is not None:
        contents[WEIGHTS] = save({key: value.contiguous() for key, value in supernet.state_dict().items()})
    for file, images in ((CALIBRATION, calibration), (HOLDOUT, holdout)):
        if images is not None:
            contents[file] = _packed(images)
    for device, values in (devices or {}).items():
        contents[_device_file(device)] = json.dumps(values, indent=1).encode()
    for file, data in ((PREDICTOR, predictor), (PAIRS, pairs)):
        if data is not None:
            contents[file] = data
    manifest = {
        "format": FORMAT,
        "name": name,
        "space": space.to_json(),
        "space_hash": space.hash,
        "classes": list(classes),
        "normalization": {"mean": normalization.mean, "std": normalization.std},
        **provenance,
        "views": asdict(views),
    }
    return _write(path, manifest, contents)


def with_predictor(bundle: Bundle, predictor: bytes, pairs: bytes, report: Mapping[str, Any]) -> Bundle:
    """Replace a bundle's accuracy predictor, its pairs and the report, in place. The returned bundle has another hash.

    Raises:
        OSError: the disk is full or the folder cannot be written; the bundle is then as it was.
    """
    contents = {PREDICTOR: predictor, PAIRS: pairs, "report.json": json.dumps(report, indent=1).encode()}
    return _write(bundle.path, bundle.manifest, _contents(bundle) | contents)


def with_device(bundle: Bundle, name: str, values: Mapping[str, Any]) -> Bundle:
    """Add a device to a bundle, or replace it, in place. The returned bundle has another hash.

    values: as `write_bundle` takes them.

    Raises:
        OSError: the disk is full or the folder cannot be written; the bundle is then as it was.
    """
    contents = _contents(bundle) | {_device_file(name): json.dumps(values, indent=1).encode()}
    return _write(bundle.path, bundle.manifest, contents)


def _device_file(name: str) -> str:
    return f"device-{name}.json"


def with_stand_alone(bundle: Bundle, name: str, weights: bytes, card: Mapping[str, Any]) -> Bundle:
    """Add a network that was trained alone to a bundle, in place. The returned bundle has another hash.

    name: from `stand_alone_name`; an earlier network of this name is replaced. weights: a safetensors file under the
    names of `supernet.training.standalone.static_network`.

    Raises:
        OSError: the disk is full or the folder cannot be written; the bundle is then as it was.
    """
    contents = {f"{name}.safetensors": weights, f"{name}.json": json.dumps(card, indent=1).encode()}
    return _write(bundle.path, bundle.manifest, _contents(bundle) | contents)


def with_images(
    bundle: Bundle, classes: tuple[str, ...], calibration: "Images", holdout: "Images", source: str
) -> Bundle:
    """Give a bundle images and the names of their classes, in place. The returned bundle has another hash.

    source: where the images come from, for the manifest.

    Raises:
        OSError: the disk is full or the folder cannot be written; the bundle is then as it was.
    """
    contents = _contents(bundle) | {CALIBRATION: _packed(calibration), HOLDOUT: _packed(holdout)}
    counts = {"calibration": len(calibration), "holdout": len(holdout)}
    manifest = {**bundle.manifest, "classes": list(classes), "images": {**counts, "source": source}}
    return _write(bundle.path, manifest, contents)


def _contents(bundle: Bundle) -> dict[str, bytes]:
    return {file: (bundle.path / file).read_bytes() for file in bundle.manifest["files"]}


def _write(path: Path, manifest: Mapping[str, Any], contents: Mapping[str, bytes]) -> Bundle:
    """Write files and the manifest that names them beside `path`, and rename the folder into place.

    A symbolic link to a bundle stays a link: the bundle that it leads to is replaced.
    """
    path = real(path)
    files = {file: hashlib.sha256(data).hexdigest() for file, data in contents.items()}
    contents = {**contents, MANIFEST: json.dumps({**manifest, "files": files}, indent=1).encode()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # left by a process that was killed while writing
    try:
        temporary.mkdir()
        for file, data in contents.items():
            write_synced(temporary / file, data)
        sync(temporary)
        _replace_folder(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    sync(path.parent)
    return Bundle.open(path)


def _replace_folder(new: Path, path: Path) -> None:
    """Move a folder to `path`. An older folder there is moved aside first, and back if the move fails."""
    old = path_aside(path)
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)  # left by a process that was killed between the two renames
        path.rename(old)
    try:
        new.rename(path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _packed(images: "Images") -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, pixels=images.pixels.numpy(), labels=images.labels.numpy())
    return buffer.getvalue()
