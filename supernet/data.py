"""Named datasets and image folders as uint8 images, in memory where they fit; resizing and normalisation.

Images are kept at the space's largest resolution and resized from there, in training, evaluation and export alike.
"""

import hashlib
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from supernet.streams import Stream, random_generator

CACHE_BYTES = 4 * 2**30
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

    def take(self, index: Tensor) -> "Images":
        """Some of the images, in the order of `index`."""
        return self[index]

    @property
    def channels(self) -> int:
        """1 or 3."""
        return int(self.pixels.shape[1])

    @property
    def hash(self) -> str:
        """64 hexadecimal digits that name the images and their order."""
        digest = hashlib.sha256()
        for tensor in (self.pixels, self.labels):
            digest.update(repr(tuple(tensor.shape)).encode())
            digest.update(memoryview(tensor.contiguous().numpy()).cast("B"))
        return digest.hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class ImageFiles:
    """Images on disk, decoded whenever they are asked for. paths: (N,) below `root`, encoded; labels: (N,) int64."""

    root: Path
    paths: NDArray[np.bytes_]  # a million Python strings would be copied into every process that reads them
    labels: Tensor
    resolution: int
    channels: int

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> Images:
        """Decoded: the shorter side resized to `resolution`, the centre cropped.

        Raises:
            ValueError: a file cannot be decoded; the message names it.
        """
        return Images(_decode(self._files(index), self.resolution, self.channels), self.labels[index])

    def cropped(self, index: Tensor, boxes: Callable[[int, float], Tensor]) -> Images:
        """Decoded, each cut to a box and resized.

        boxes: of a position in `index` and the width / height of its photograph, (4,): left, top, width and height as
        shares of the photograph's.

        Raises:
            ValueError: a file cannot be decoded; the message names it.
        """
        return Images(_decode(self._files(index), self.resolution, self.channels, boxes=boxes), self.labels[index])

    def take(self, index: Tensor) -> "ImageFiles":
        """Some of the files, in the order of `index`."""
        return replace(self, paths=self.paths[index.numpy()], labels=self.labels[index])

    def cached(self, limit: int) -> "Images | ImageFiles":
        """All of them decoded, if that takes no more than `limit` bytes."""
        return self[:] if len(self) * self.channels * self.resolution**2 <= limit else self

    def _files(self, index: Any) -> list[Path]:
        paths: list[bytes] = self.paths[np.asarray(index) if isinstance(index, Tensor) else index].tolist()
        return [self.root / os.fsdecode(path) for path in paths]

    @property
    def hash(self) -> str:
        """64 hexadecimal digits that name the files, their labels and their order; not what is in them."""
        digest = hashlib.sha256(f"{self.channels} {self.resolution}".encode())
        digest.update(self.paths.tobytes())
        digest.update(self.labels.numpy().tobytes())
        return digest.hexdigest()


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
    def from_images(cls, images: Images) -> "Normalization":
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
    train: Images | ImageFiles
    holdout: Images
    test: Images | ImageFiles | None
    normalization: Normalization

    @property
    def hash(self) -> str:
        """64 hexadecimal digits that name the training and held-out images, in their order."""
        return hashlib.sha256((self.train.hash + self.holdout.hash).encode()).hexdigest()


def resize(pixels: Tensor, resolution: int) -> Tensor:
    """(N, C, R, R) uint8 or float to (N, C, resolution, resolution) float, bilinear, antialiased, in the same range."""
    pixels = pixels.float()
    if pixels.shape[-1] == resolution:
        return pixels
    return F.interpolate(pixels, (resolution, resolution), mode="bilinear", antialias=True, align_corners=False)


def load(
    source: str,
    resolution: int,
    *,
    seed: int,
    holdout: int,
    root: Path,
    channels: int | None = None,
    cache_bytes: int = CACHE_BYTES,
) -> Dataset:
    """Load a dataset and split it.

    source: `digits`, `cifar10`, `cifar100`, `imagenet`, or a folder with `train/CLASS/*` and, where there is one,
    `test/CLASS/*` or `val/CLASS/*`, or with `CLASS/*` alone.
    resolution: height and width of the decoded images, pixels. holdout: how many training images to hold out.
    root: where downloads go, and where the archives of ImageNet are. channels: 1 or 3, for folders (default 3).
    cache_bytes: a split of files that takes more when decoded is decoded anew whenever it is used.

    Raises:
        ValueError: an unknown source, a folder not laid out so, an image that cannot be decoded, or a holdout that
            leaves no training images.
    """
    sources: dict[str, Callable[[], _Source]] = {
        "digits": lambda: _digits(resolution, seed),
        "cifar10": lambda: _cifar("CIFAR10", root, resolution),
        "cifar100": lambda: _cifar("CIFAR100", root, resolution),
        "imagenet": lambda: _imagenet(root, resolution),
    }
    if channels is not None and (source in sources or channels not in (1, 3)):
        raise ValueError(f"channels is {channels}; it is 1 or 3, for folders of images, and {source} has its own")
    if source in sources:
        classes, train, test = sources[source]()
    elif Path(source).is_dir():
        classes, train, test = _image_folder(Path(source), resolution, channels or 3)
    else:
        raise ValueError(f"no dataset {source!r}: neither a folder nor one of {', '.join(sources)}")
    if not 0 < holdout < len(train):
        raise ValueError(f"holdout is {holdout} images; {source} has {len(train)} for training, so at most one less")
    order = torch.from_numpy(random_generator(seed, Stream.HOLDOUT).permutation(len(train)))
    train, held_out = train.take(order[holdout:]), train.take(order[:holdout])[:]
    if isinstance(train, ImageFiles):
        train = train.cached(cache_bytes)
    if isinstance(test, ImageFiles):
        test = test.cached(cache_bytes)
    sample = train if isinstance(train, Images) else train[:2_000]  # its order is random
    return Dataset(source, classes, train, held_out, test, Normalization.from_images(sample))


_Source = tuple[tuple[str, ...], Images | ImageFiles, Images | ImageFiles | None]  # classes, training and test images


def _digits(resolution: int, seed: int) -> _Source:
    """scikit-learn's 1,797 handwritten digits, 8 x 8 in 17 grey levels; a fifth is the test split."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = torch.from_numpy(digits.images).float().mul_(255 / 16)[:, None]
    images = Images(resize(pixels, resolution).round().to(torch.uint8), torch.from_numpy(digits.target).long())
    order = torch.from_numpy(random_generator(seed, Stream.TEST_SPLIT).permutation(len(images)))
    cut = len(images) // 5
    return tuple(map(str, digits.target_names)), images[order[cut:]], images[order[:cut]]


def _cifar(name: str, root: Path, resolution: int) -> _Source:
    from torchvision import datasets

    splits = []
    for train in (True, False):
        dataset = getattr(datasets, name)(root, train=train, download=True)
        pixels = torch.from_numpy(dataset.data).permute(0, 3, 1, 2)
        pixels = pixels if pixels.shape[-1] == resolution else resize(pixels, resolution).round().to(torch.uint8)
        splits.append(Images(pixels.contiguous(), torch.tensor(dataset.targets)))
    return tuple(dataset.classes), splits[0], splits[1]


def _imagenet(root: Path, resolution: int) -> _Source:
    """ILSVRC 2012 from its archives, which nobody may pass on: torchvision unpacks them. Its val split is the test."""
    from torchvision.datasets import ImageNet

    try:
        train, test = (ImageNet(root / "imagenet", split) for split in ("train", "val"))
    except RuntimeError as error:
        raise ValueError(f"{root / 'imagenet'} lacks an archive of ImageNet; {error}") from error
    classes = tuple(names[0] for names in train.classes)
    return classes, _files(train, resolution, 3), _files(test, resolution, 3)


def _image_folder(folder: Path, resolution: int, channels: int) -> _Source:
    from torchvision.datasets import ImageFolder

    test_folder = next((folder / name for name in ("test", "val") if (folder / name).is_dir()), None)
    split = (folder / "train").is_dir()
    if test_folder is not None and not split:
        raise ValueError(f"{folder} has {test_folder.name}/ but no train/; images to train on belong in train/CLASS/")
    try:
        train = ImageFolder(str(folder / "train" if split else folder))
        test = None if test_folder is None else ImageFolder(str(test_folder))
    except FileNotFoundError as error:  # a split without classes, or a class without images
        raise ValueError(f"{folder}: {error}") from error
    if test is not None and test_folder is not None and test.classes != train.classes:
        odd = ", ".join(sorted(set(test.classes) ^ set(train.classes))[:5])
        raise ValueError(f"{folder}: train/ and {test_folder.name}/ must have the same classes; they differ in {odd}")
    tests = None if test is None else _files(test, resolution, channels)
    return tuple(train.classes), _files(train, resolution, channels), tests


def _files(folder: Any, resolution: int, channels: int) -> ImageFiles:
    """The files of a torchvision ImageFolder."""
    root = Path(folder.root)
    paths = np.array([os.fsencode(os.path.relpath(path, root)) for path, _ in folder.samples])
    return ImageFiles(root, paths, torch.tensor(folder.targets), resolution, channels)


def sample_folder(folder: Path, resolution: int, *, limit: int, seed: int) -> Images:
    """A sample of the photographs in a folder, at any depth, in colour and without labels: for calibration.

    As Once-for-All evaluates: the shorter side resized to resolution / 0.875, the centre cropped.

    Raises:
        ValueError: there are none, or one cannot be decoded; the message names it.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS

    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMG_EXTENSIONS and path.is_file())
    if not paths:
        raise ValueError(f"{folder} holds no images; it may be laid out as DIR/CLASS/* or hold images itself")
    chosen = np.sort(np.random.default_rng(seed).permutation(len(paths))[:limit])
    shorter_side = -(-resolution * 1000 // round(1000 * CROP))
    pixels = _decode([paths[i] for i in chosen], resolution, 3, shorter_side=shorter_side)
    return Images(pixels, torch.full((len(pixels),), UNLABELLED))


def _decode(
    paths: Sequence[Path],
    resolution: int,
    channels: int,
    *,
    shorter_side: int | None = None,
    boxes: Callable[[int, float], Tensor] | None = None,
) -> Tensor:
    """(N, channels, resolution, resolution) uint8: cut to boxes, or the shorter side resized and the centre cropped.

    Raises:
        ValueError: a file that cannot be decoded.
    """
    from PIL import Image
    from torch.utils.data import get_worker_info
    from torchvision.transforms.v2 import functional as v2

    pixels = torch.empty(len(paths), channels, resolution, resolution, dtype=torch.uint8)
    mode = "L" if channels == 1 else "RGB"
    shorter = shorter_side or resolution

    def cut(image: Any, number: int) -> Any:
        """A JPEG is decoded at 1/2, 1/4 or 1/8 of its size where that is still twice what is needed."""
        if boxes is None:
            image.draft(None, (2 * shorter, 2 * shorter))
            return v2.center_crop(v2.resize(image.convert(mode), [shorter], antialias=True), [resolution, resolution])
        left, top, width, height = boxes(number, image.width / image.height).tolist()
        image.draft(None, (math.ceil(2 * resolution / width), math.ceil(2 * resolution / height)))
        across, down = image.size
        box = (round(top * down), round(left * across), max(1, round(height * down)), max(1, round(width * across)))
        return v2.resized_crop(image.convert(mode), *box, [resolution, resolution], antialias=True)

    def decode(number: int) -> None:
        try:
            with Image.open(paths[number]) as image:
                pixels[number] = v2.pil_to_tensor(cut(image, number))
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
            raise ValueError(
                f"{paths[number]} cannot be read as an image; replace it or take it away: {error}"
            ) from error

    if get_worker_info() is not None:  # one of several processes that decode
        list(map(decode, range(len(paths))))
    else:
        with ThreadPoolExecutor() as pool:
            list(pool.map(decode, range(len(paths))))
    return pixels
