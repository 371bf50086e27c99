"""A supernet bundle: one folder with everything that search, verification and export need. It holds no pickles.

torch loads when weights or images are loaded, not when a bundle is opened or searched.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from supernet.evaluation.views import Views
from supernet.families import space_from_json, supernet_class
from supernet.files import real, sha256
from supernet.space import Architecture, SearchSpace

if TYPE_CHECKING:
    from torch import nn

    from supernet.data import Images, Normalization
    from supernet.evaluation.evaluate import Evaluator
    from supernet.networks.supernet import Supernet

FORMAT = 1
Training = Literal["fine-tuned", "from-scratch"]  # how a network was trained alone: from the supernet's weights, or not
MANIFEST = "manifest.json"
WEIGHTS = "weights.safetensors"
CALIBRATION = "calibration.npz"
HOLDOUT = "holdout.npz"
PREDICTOR = "predictor.npz"
PAIRS = "pairs.npz"  # what the predictor was fitted on
REQUIRED = {"report.json"}
DEVICE = re.compile(r"device-(.+)\.json")
ALONE = re.compile(r"((?:fine-tuned|from-scratch)-[0-9a-f]+)\.json")
NO_WEIGHTS = (
    "the bundle was made without a checkpoint, so it can be searched but no subnet can be extracted; to export "
    "subnets, make a bundle with a checkpoint"
)


class BundleError(ValueError):
    """A bundle is missing, incomplete, altered or of another format, or lacks what a caller needs."""


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk. Opening it compares every file with its hash.

    manifest: space, classes, normalisation, dataset, seeds, versions, and the SHA-256 of every other file.
    hash: the SHA-256 of the manifest's bytes. It identifies the bundle.

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
            BundleError: the folder is not a whole, unaltered bundle; the message names the file and, where hashes
                differ, both.
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
            json.dumps(
                manifest, ensure_ascii=False
            ).encode()  # a name that is no text would break every list of bundles
        except BundleError:
            raise
        except FileNotFoundError as error:
            old = path_aside(real(path))
            hint = f". Its replacement was interrupted; rename the old bundle, {old}, to {path.name}"
            raise BundleError(f"{path} is not a bundle: it has no {MANIFEST}{hint if old.exists() else ''}") from error
        except UnicodeEncodeError as error:
            text = error.object[max(0, error.start - 20) : error.end]
            raise BundleError(
                f"{path / MANIFEST} holds a name that is not UTF-8, such as of a class: ...{text!r}; rename it and "
                "train again"
            ) from error
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

    def beside(self, suffix: str) -> Path:
        """A path next to the folder, for what commands keep about this bundle; `suffix` ends its name."""
        folder = real(self.path)
        return folder.parent / f"{folder.name}{suffix}"

    @cached_property
    def space(self) -> SearchSpace:
        """The search space: every architecture that the supernet contains."""
        return space_from_json(self.manifest["space"])

    @property
    def name(self) -> str:
        """A name for people. `hash` identifies the bundle."""
        return str(self.manifest["name"])

    @property
    def classes(self) -> list[str]:
        """Class names, in the order of the logits."""
        return list(self.manifest["classes"])

    @property
    def normalization(self) -> "Normalization":
        """How pixels become the network's inputs."""
        from supernet.data import Normalization

        values = self.manifest["normalization"]
        return Normalization(tuple(values["mean"]), tuple(values["std"]))

    @property
    def has_weights(self) -> bool:
        """Whether subnets can be extracted."""
        return WEIGHTS in self.manifest["files"]

    @property
    def predictor_path(self) -> Path | None:
        """The file of the accuracy predictor; None if the bundle has no predictor."""
        return self._optional(PREDICTOR)

    @property
    def pairs_path(self) -> Path | None:
        """The file of the measured pairs that the predictor was fitted on; None if the bundle has none."""
        return self._optional(PAIRS)

    @cached_property
    def report(self) -> dict[str, Any]:
        """Accuracies of the largest and the smallest subnet, and the training curves."""
        return dict(json.loads((self.path / "report.json").read_text()))

    @cached_property
    def devices(self) -> dict[str, dict[str, Any]]:
        """By name, the devices whose latency models come with the supernet, as `write_bundle` describes them.

        Raises:
            BundleError: the file of a device is not JSON.
        """
        files = {match[1]: self.path / match[0] for match in map(DEVICE.fullmatch, self.manifest["files"]) if match}
        try:
            return {name: dict(json.loads(path.read_text())) for name, path in sorted(files.items())}
        except (ValueError, TypeError) as error:
            raise BundleError(f"{self.path}: the file of a device cannot be read: {error}") from error

    @cached_property
    def stand_alone(self) -> dict[str, dict[str, Any]]:
        """The cards of the networks that were trained alone, by `stand_alone_name`."""
        names = sorted(match[1] for match in map(ALONE.fullmatch, self.manifest["files"]) if match)
        return {name: dict(json.loads((self.path / f"{name}.json").read_text())) for name in names}

    def stand_alone_network(self, arch: Architecture, training: Training) -> "nn.Sequential":
        """A network that was trained alone, in evaluation mode.

        Raises:
            BundleError: the bundle has no such network.
        """
        from safetensors.torch import load_file

        from supernet.training.standalone import static_network

        name = stand_alone_name(self.space, arch, training)
        if name not in self.stand_alone:
            raise BundleError(
                f"{self.path} has no {training} network of the architecture {self.space.id(arch)}; it has "
                f"{', '.join(self.stand_alone) or 'none'}. Run `supple finetune`"
            )
        network = static_network(self.space, arch)
        network.load_state_dict(load_file(self.path / f"{name}.safetensors"))
        return network.eval()

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
        """Images for batch-norm recalibration, at the largest resolution; None if the bundle has none."""
        return self._images(CALIBRATION)

    def holdout(self) -> "Images | None":
        """Held-out images, not perturbed, at the largest resolution; None if the bundle has none."""
        return self._images(HOLDOUT)

    def evaluator(self, calibration: "Images | None" = None) -> "Evaluator":
        """An `Evaluator` of this bundle's subnets. It scores on the held-out images, perturbed as the manifest says.

        calibration: images for recalibration, instead of the bundle's own.

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


def stand_alone_name(space: SearchSpace, arch: Architecture, training: Training) -> str:
    """The name under which a bundle has a network that was trained alone."""
    return f"{training}-{space.id(arch)}"


def path_aside(path: Path) -> Path:
    """Where the older folder lies while the new one is moved into place."""
    return path.parent / f".{path.name}.old"


def _load_images(path: Path) -> "Images":
    import torch

    from supernet.data import Images

    with np.load(path, allow_pickle=False) as arrays:
        pixels = torch.from_numpy(arrays["pixels"])
        return Images(pixels, torch.from_numpy(arrays["labels"]).long())
