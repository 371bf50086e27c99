"""Named datasets and image folders, decoded once to uint8; resizing, normalisation, augmentation.

Images are kept at the space's largest resolution and resized from there, in training, evaluation and export alike.
"""

import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from supernet.config import FORBID_EXTRA, require

LARGEST_CACHE_BYTES = 16 * 2**30
UNLABELLED = -1
CROP = (
    0.875  # of the shorter side: what Once-for-All, like most of the field, keeps of an ImageNet image to evaluate it
)


@dataclass(frozen=True, slots=True)
class Images:
    """Decoded images. pixels: (N, C, R, R) uint8; labels: (N,) int64."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> "Images":
        return Images(self.pixels[index], self.labels[index])


@dataclass(frozen=True, slots=True)
class Normalization:
    """Per channel, on pixels in [0, 1]: (pixel - mean) / std."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, pixels: Tensor, resolution: int) -> Tensor:
        """(N, C, R, R) uint8, or float in [0, 255], to (N, C, resolution, resolution) float, resized and normalised."""
        resized = resize(pixels, resolution) / 255
        mean, std = (torch.tensor(values, device=pixels.device).view(1, -1, 1, 1) for values in (self.mean, self.std))
        return (resized - mean) / std

    @classmethod
    def of(cls, images: Images) -> "Normalization":
        """Mean and standard deviation of images, over at most 10,000 of them."""
        pixels = images.pixels[:: max(1, len(images) // 10_000)].double() / 255
        mean, std = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3)).clamp(min=1e-3)
        return cls(*(tuple(round(value, 4) for value in values.tolist()) for values in (mean, std)))


@dataclass(frozen=True, slots=True)
class Dataset:
    """A classification dataset in disjoint splits.

    train: for weights and batch-norm statistics. holdout: carved from the training data, for predictors and search.
    test: touched once, for the final report; None when the source has none.
    """

    name: str
    classes: tuple[str, ...]
    train: Images
    holdout: Images
    test: Images | None
    normalization: Normalization

    @property
    def hash(self) -> str:
        """64 hexadecimal digits that name the training and held-out images, in their order."""
        digest = hashlib.sha256()
        for images in (self.train, self.holdout):
            for tensor in (images.pixels, images.labels):
                digest.update(repr(tuple(tensor.shape)).encode())
                digest.update(memoryview(tensor.contiguous().numpy()).cast("B"))
        return digest.hexdigest()


def resize(pixels: Tensor, side: int) -> Tensor:
    """(N, C, R, R) uint8 or float to (N, C, side, side) float, antialiased bilinear; values keep their range."""
    pixels = pixels.float()
    if pixels.shape[-1] == side:
        return pixels
    return F.interpolate(pixels, (side, side), mode="bilinear", antialias=True, align_corners=False)


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Random changes to training images.

    shift: at most, as a share of the side. rotate: degrees at most. scale: share at most. flip: mirror half of them.
    """

    shift: float = 0.0
    rotate: float = 0.0
    scale: float = 0.0
    flip: bool = False

    __pydantic_config__ = FORBID_EXTRA

    def __post_init__(self) -> None:
        require("augmentation.shift", self.shift, 0, 0.5)
        require("augmentation.rotate", self.rotate, 0, 180)
        require("augmentation.scale", self.scale, 0, below=1)

    def __call__(self, pixels: Tensor, generator: torch.Generator) -> Tensor:
        """(N, C, R, R) uint8 to (N, C, R, R) float in [0, 255]; every image draws its own change."""
        count, device = len(pixels), pixels.device
        pixels = pixels.float()

        def draw(most: float) -> Tensor:
            return ((torch.rand(count, generator=generator) * 2 - 1) * most).to(device)

        angle, scale = torch.deg2rad(draw(self.rotate)), 1 + draw(self.scale)
        mirror = torch.where(draw(1.0) < 0, -1.0, 1.0) if self.flip else torch.ones(count, device=device)
        cos, sin = angle.cos() * scale, angle.sin() * scale
        row_x = torch.stack((mirror * cos, -sin, draw(2 * self.shift)), 1)
        row_y = torch.stack((mirror * sin, cos, draw(2 * self.shift)), 1)
        grid = F.affine_grid(torch.stack((row_x, row_y), 1), list(pixels.shape), align_corners=False)
        return F.grid_sample(pixels, grid, mode="bilinear", padding_mode="border", align_corners=False)


def load(source: str, resolution: int, *, seed: int, holdout: int, root: Path, channels: int | None = None) -> Dataset:
    """Load a dataset and split it.

    source: `digits`, `cifar10`, `cifar100`, or a folder with `train/CLASS/*` and, where there is one, `test/CLASS/*` or
    `val/CLASS/*`. resolution: side, pixels, of the decoded images. holdout: how many training images to hold out.
    root: where downloads go. channels: 1 or 3, for folders (default 3).

    Raises:
        ValueError: an unknown source, a folder not laid out so, a holdout that leaves no training images, or images
            that do not fit into memory.
    """
    loaders: dict[str, Callable[[], tuple[tuple[str, ...], Images, Images | None]]] = {
        "digits": lambda: _digits(resolution, seed),
        "cifar10": lambda: _torchvision("CIFAR10", root, resolution),
        "cifar100": lambda: _torchvision("CIFAR100", root, resolution),
    }
    if channels is not None and (source in loaders or channels not in (1, 3)):
        raise ValueError(f"channels is {channels}; it is 1 or 3, for folders of images, and {source} has its own")
    if source in loaders:
        classes, train, test = loaders[source]()
    elif Path(source).is_dir():
        classes, train, test = _image_folder(Path(source), resolution, channels or 3)
    else:
        raise ValueError(f"no dataset {source!r}: neither a folder nor one of {', '.join(loaders)}")
    if not 0 < holdout < len(train):
        raise ValueError(f"holdout is {holdout} images; {source} has {len(train)} for training, so at most one less")
    order = torch.from_numpy(np.random.default_rng([seed, 1]).permutation(len(train)))
    kept, held = train[order[holdout:]], train[order[:holdout]]
    return Dataset(source, classes, kept, held, test, Normalization.of(kept))


def _digits(resolution: int, seed: int) -> tuple[tuple[str, ...], Images, Images]:
    """scikit-learn's 1,797 handwritten digits, 8 x 8 in 17 grey levels; a fifth is the test split."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = torch.from_numpy(digits.images).float().mul_(255 / 16)[:, None]
    images = Images(resize(pixels, resolution).round().to(torch.uint8), torch.from_numpy(digits.target).long())
    order = torch.from_numpy(np.random.default_rng([seed, 0]).permutation(len(images)))
    cut = len(images) // 5
    return tuple(map(str, digits.target_names)), images[order[cut:]], images[order[:cut]]


def _torchvision(name: str, root: Path, resolution: int) -> tuple[tuple[str, ...], Images, Images]:
    from torchvision import datasets

    splits = []
    for train in (True, False):
        dataset = getattr(datasets, name)(root, train=train, download=True)
        pixels = torch.from_numpy(dataset.data).permute(0, 3, 1, 2)
        pixels = pixels if pixels.shape[-1] == resolution else resize(pixels, resolution).round().to(torch.uint8)
        splits.append(Images(pixels.contiguous(), torch.tensor(dataset.targets)))
    return tuple(dataset.classes), splits[0], splits[1]


def _image_folder(folder: Path, resolution: int, channels: int) -> tuple[tuple[str, ...], Images, Images | None]:
    from torchvision.datasets import ImageFolder

    if not (folder / "train").is_dir():
        raise ValueError(f"{folder} has no folder train/; images belong in train/CLASS/ and test/CLASS/ or val/CLASS/")
    train = ImageFolder(str(folder / "train"))
    test_folder = next((folder / name for name in ("test", "val") if (folder / name).is_dir()), None)
    if test_folder is None:
        return tuple(train.classes), _decode(train, resolution, channels), None
    test = ImageFolder(str(test_folder))
    if test.classes != train.classes:
        odd = ", ".join(sorted(set(test.classes) ^ set(train.classes))[:5])
        raise ValueError(f"{folder}: train/ and {test_folder.name}/ must have the same classes; they differ in {odd}")
    return tuple(train.classes), _decode(train, resolution, channels), _decode(test, resolution, channels)


def sample_folder(folder: Path, resolution: int, *, most: int, seed: int) -> Images:
    """A sample of the photographs in a folder, at any depth, in colour and without labels: for calibration.

    As Once-for-All evaluates: the shorter side resized to resolution / 0.875, the centre cropped.

    Raises:
        ValueError: there are none, or one cannot be decoded; the message names it.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS

    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMG_EXTENSIONS and path.is_file())
    if not paths:
        raise ValueError(f"{folder} holds no images; it may be laid out as DIR/CLASS/* or hold images itself")
    chosen = np.sort(np.random.default_rng(seed).permutation(len(paths))[:most])
    pixels = _decode_files([paths[i] for i in chosen], resolution, 3, -(-resolution * 1000 // round(1000 * CROP)))
    return Images(pixels, torch.full((len(pixels),), UNLABELLED))


def _decode(folder: Any, resolution: int, channels: int) -> Images:
    """Every image of an ImageFolder: the shorter side resized to `resolution`, the centre cropped, uint8."""
    size = len(folder.samples) * channels * resolution**2
    if size > LARGEST_CACHE_BYTES:
        raise ValueError(
            f"{folder.root}: {len(folder.samples)} images at {resolution} pixels take {size / 2**30:.1f} GiB decoded; "
            f"the limit is {LARGEST_CACHE_BYTES / 2**30:.0f} GiB. Use a smaller largest resolution or fewer images"
        )
    pixels = _decode_files([Path(path) for path, _ in folder.samples], resolution, channels, resolution)
    return Images(pixels, torch.tensor(folder.targets))


def _decode_files(paths: Sequence[Path], resolution: int, channels: int, shorter_side: int) -> Tensor:
    """(N, channels, resolution, resolution) uint8: the shorter side resized, then the centre cropped.

    Raises:
        ValueError: a file that cannot be decoded.
    """
    from PIL import Image
    from torchvision.transforms import v2

    transform = v2.Compose([v2.Resize(shorter_side, antialias=True), v2.CenterCrop(resolution), v2.PILToTensor()])
    pixels = torch.empty(len(paths), channels, resolution, resolution, dtype=torch.uint8)
    mode = "L" if channels == 1 else "RGB"

    def decode(index: int) -> None:
        try:
            with Image.open(paths[index]) as image:
                pixels[index] = transform(image.convert(mode))
        except OSError as error:
            raise ValueError(
                f"{paths[index]} cannot be read as an image; replace it or take it away: {error}"
            ) from error

    with ThreadPoolExecutor() as pool:
        list(pool.map(decode, range(len(pixels))))
    return pixels
