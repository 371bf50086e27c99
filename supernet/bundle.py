"""The supernet bundle: one directory with everything that a search, a verification and an export need. No pickles.

Torch loads when weights or images are asked for, not when a bundle is opened or searched.
"""

import hashlib
import io
import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from supernet.evaluation.views import Views
from supernet.families import space_from_json, supernet_class
from supernet.files import sha256, sync, write_synced
from supernet.space import SearchSpace

if TYPE_CHECKING:
    from supernet.data import Images, Normalization
    from supernet.evaluation.evaluate import Evaluator
    from supernet.networks.supernet import Supernet

FORMAT = 1
MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
CALIBRATION = "calibration.npz"
REQUIRED = {"report.json"}
DEVICE = re.compile(r"device-(.+)\.json")
NO_WEIGHTS = (
    "the bundle was made without a checkpoint, so it can be searched but nothing can be extracted from it; "
    "`supple import-ofa --checkpoint FILE.pth ... -o BUNDLE` makes one that can be exported"
)


class BundleError(ValueError):
    """A bundle is missing, incomplete, altered or of another format, or was made without what is asked of it."""


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk, checked against its hashes when opened.

    manifest: space, classes, normalisation, dataset, seeds, versions, and the SHA-256 of every other file.
    hash: SHA-256 of the manifest's bytes, which names the bundle.

    >>> bundle = Bundle.open(Path("runs/digits/bundle"))
    >>> bundle.space.name, len(bundle.classes), bundle.has_weights
    ('mbv3-digits', 10, True)
    """

    path: Path
    manifest: Mapping[str, Any]
    hash: str

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a bundle and verify every file.

        Raises:
            BundleError: naming the file that is missing, or both hashes where they differ.
        """
        path = Path(path)
        try:
            data = (path / MANIFEST).read_bytes()
            manifest = json.loads(data)
            if manifest.get("format") != FORMAT:
                raise BundleError(f"{path} has format {manifest.get('format')}; this version reads format {FORMAT}")
            files: dict[str, str] = dict(manifest["files"])
            space = space_from_json(manifest["space"])
            bundle = cls(path, manifest, hashlib.sha256(data).hexdigest())
            channels = {len(manifest["normalization"][name]) for name in ("mean", "std")}
            if len(bundle.classes) != space.classes or channels != {space.in_channels}:
                raise BundleError(f"{path / MANIFEST}: classes or normalisation do not fit the space")
            Views(**manifest["views"])
            str(manifest["name"]), str(manifest["space_hash"])
        except BundleError:
            raise
        except FileNotFoundError as error:
            old = _aside(path)
            hint = f". Its replacement was cut short: what was there is {old}, rename that" if old.exists() else ""
            raise BundleError(f"{path} is not a bundle: it has no {MANIFEST}{hint}") from error
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BundleError(f"{path / MANIFEST} cannot be read: {error!r}") from error
        if missing := REQUIRED - files.keys():
            raise BundleError(f"{path / MANIFEST} does not list {', '.join(sorted(missing))}")
        for name, expected in files.items():
            if Path(name).name != name:
                raise BundleError(f"{path / MANIFEST} names a file outside the bundle: {name!r}")
            if not (path / name).is_file():
                raise BundleError(f"{path} is incomplete: {name} is missing")
            actual = sha256(path / name)
            if actual != expected:
                raise BundleError(f"{path / name} was altered: its SHA-256 is {actual}, the manifest says {expected}")
        if space.hash != manifest["space_hash"]:
            raise BundleError(f"{path / MANIFEST}: space_hash is not the hash of the space beside it")
        return bundle

    @cached_property
    def space(self) -> SearchSpace:
        """The search space whose architectures the weights hold."""
        return space_from_json(self.manifest["space"])

    @property
    def name(self) -> str:
        """A name for people; the hash names the bundle exactly."""
        return str(self.manifest["name"])

    @property
    def classes(self) -> list[str]:
        """Class names, in the order of the logits."""
        return list(self.manifest["classes"])

    @property
    def normalization(self) -> "Normalization":
        """How pixels become inputs."""
        from supernet.data import Normalization

        values = self.manifest["normalization"]
        return Normalization(tuple(values["mean"]), tuple(values["std"]))

    @property
    def has_weights(self) -> bool:
        """Whether subnets can be extracted."""
        return WEIGHTS in self.manifest["files"]

    @property
    def predictor_path(self) -> Path | None:
        """The accuracy predictor's arrays, None where the bundle has none."""
        return self._optional("predictor.npz")

    @cached_property
    def report(self) -> dict[str, Any]:
        """Corner accuracies and training curves."""
        return dict(json.loads((self.path / "report.json").read_text()))

    @cached_property
    def devices(self) -> dict[str, dict[str, Any]]:
        """By name, devices whose latency models came with the supernet: what `write_bundle` was given.

        Raises:
            BundleError: one of them is not JSON.
        """
        files = {match[1]: self.path / match[0] for match in map(DEVICE.fullmatch, self.manifest["files"]) if match}
        try:
            return {name: dict(json.loads(path.read_text())) for name, path in sorted(files.items())}
        except (ValueError, TypeError) as error:
            raise BundleError(f"{self.path}: a file of a device cannot be read: {error}") from error

    def supernet(self) -> "Supernet":
        """The supernet with its weights, in evaluation mode.

        Raises:
            BundleError: the bundle was made without weights.
        """
        import torch
        from safetensors.torch import load_file

        if not self.has_weights:
            raise BundleError(f"{self.path}: {NO_WEIGHTS}")
        supernet: Supernet = supernet_class(self.space.family)(self.space)
        supernet.load_state_dict(load_file(self.path / WEIGHTS))
        return supernet.to(memory_format=torch.channels_last).eval()

    def calibration(self) -> "Images | None":
        """Images for batch norm and INT8, at the largest resolution; None without any."""
        return self._images(CALIBRATION)

    def holdout(self) -> "Images | None":
        """Images of the search split as they are, at the largest resolution; None without any."""
        return self._images("holdout.npz")

    def evaluator(self, calibration: "Images | None" = None) -> "Evaluator":
        """Extracts, recalibrates and scores this bundle's subnets, on the views of the holdout the manifest names.

        calibration: images to recalibrate with instead of the bundle's own.

        Raises:
            BundleError: the bundle was made without weights.
        """
        from supernet.evaluation.evaluate import Evaluator, perturbed

        holdout = self.holdout()
        if holdout is not None:
            holdout = perturbed(holdout, Views(**self.manifest["views"]))
        if calibration is None:
            calibration = self.calibration()
        return Evaluator(self.supernet(), self.normalization, calibration, holdout)

    def _images(self, name: str) -> "Images | None":
        path = self._optional(name)
        return None if path is None else _load_images(path)

    def _optional(self, name: str) -> Path | None:
        return self.path / name if name in self.manifest["files"] else None


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
    devices: Mapping[str, Mapping[str, Any]] | None = None,
) -> Bundle:
    """Write a bundle beside `path` and rename it into place, so that `path` is never half a bundle.

    supernet: None makes a bundle that can be searched alone. views: how held-out images are perturbed for evaluation.
    predictor: the bytes of predictor.npz. provenance: dataset, seeds, versions and whatever else made the weights.
    devices: by name, `runtime`, `threads`, `batch_size` and `latency_model`, all JSON-able.
    An earlier bundle at `path` is replaced.

    Raises:
        OSError: the disk is full or the folder cannot be written; `path` is then as it was.
    """
    from safetensors.torch import save

    contents = {"report.json": json.dumps(report, indent=1).encode()}
    if supernet is not None:
        contents[WEIGHTS] = save({key: value.contiguous() for key, value in supernet.state_dict().items()})
    for file, images in ((CALIBRATION, calibration), ("holdout.npz", holdout)):
        if images is not None:
            contents[file] = _npz(pixels=images.pixels.numpy(), labels=images.labels.numpy())
    for device, values in (devices or {}).items():
        contents[f"device-{device}.json"] = json.dumps(values, indent=1).encode()
    if predictor is not None:
        contents["predictor.npz"] = predictor
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


def with_predictor(bundle: Bundle, predictor: bytes, report: Mapping[str, Any]) -> Bundle:
    """Replace the accuracy predictor and the report of a bundle in place; it is then another bundle, of another hash.

    Raises:
        OSError: the disk is full or the folder cannot be written; the bundle is then as it was.
    """
    contents = {file: (bundle.path / file).read_bytes() for file in bundle.manifest["files"]}
    contents |= {"predictor.npz": predictor, "report.json": json.dumps(report, indent=1).encode()}
    return _write(bundle.path, bundle.manifest, contents)


def _write(path: Path, manifest: Mapping[str, Any], contents: Mapping[str, bytes]) -> Bundle:
    """Write files and the manifest that names them beside `path`, and rename the folder into place."""
    files = {file: hashlib.sha256(data).hexdigest() for file, data in contents.items()}
    contents = {**contents, MANIFEST: json.dumps({**manifest, "files": files}, indent=1).encode()}
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)  # of a process that was killed while it wrote
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
    """Move a folder to `path`; an older one there is moved aside first, and back should the move fail."""
    old = _aside(path)
    if path.exists():
        shutil.rmtree(old, ignore_errors=True)  # of a process that was killed between the two renames
        path.rename(old)
    try:
        new.rename(path)
    except OSError:
        if old.exists():
            old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _aside(path: Path) -> Path:
    """Where an older folder is while a new one takes its place."""
    return path.with_name(f".{path.name}.old")


def _npz(**arrays: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def _load_images(path: Path) -> "Images":
    import torch

    from supernet.data import Images

    with np.load(path, allow_pickle=False) as arrays:
        pixels = torch.from_numpy(arrays["pixels"])
        return Images(pixels, torch.from_numpy(arrays["labels"]).long())
