"""Named datasets and image folders: decoding to uint8 images, splitting, resizing and normalisation.

Images are decoded at the space's largest resolution. Training, evaluation and export all resize them from there.
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

CACHE_BYTES = 4 * 2**30  # a split of image files that decodes to more than this stays on disk
UNLABELLED = -1  # the label of an image whose class is not known
CROP = 0.875  # the share of the shorter side that the centre crop keeps, as in Once-for-All's evaluation on ImageNet


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
        """The images at the positions in `index`, in that order."""
        return self[index]

    @property
    def channels(self) -> int:
        """1 for grey images, 3 for colour images."""
        return int(self.pixels.shape[1])

    @property
    def hash(self) -> str:
        """64 hexadecimal digits: the SHA-256 of the images and labels in their order."""
        digest = hashlib.sha256()
        for tensor in (self.pixels, self.labels):
            digest.update(repr(tuple(tensor.shape)).encode())
            digest.update(memoryview(tensor.contiguous().numpy()).cast("B"))
        return digest.hexdigest()


@dataclass(frozen=True, slots=True, eq=False)
class ImageFiles:
    """Images on disk, decoded at every access.

    paths: (N,), relative to `root`, encoded. labels: (N,) int64. resolution, channels: of the decoded images.
    """

    root: Path
    paths: NDArray[np.bytes_]  # a million Python strings would be copied into every data-loading process
    labels: Tensor
    resolution: int
    channels: int

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> Images:
        """Decode images: resize the shorter side to `resolution` and crop the centre.

        Raises:
            ValueError: a file cannot be decoded; the message names it.
        """
        return Images(_decode(self._files(index), self.resolution, self.channels), self.labels[index])

    def cropped(self, index: Tensor, boxes: Callable[[int, float], Tensor]) -> Images:
        """Decode images, cut a box out of each and resize the box.

        boxes: a function of a position in `index` and of the photograph's width / height. It returns (4,): the left,
        top, width and height of the box, as fractions of the photograph's width and height.

        Raises:
            ValueError: a file cannot be decoded; the message names it.
        """
        return Images(_decode(self._files(index), self.resolution, self.channels, boxes=boxes), self.labels[index])

    def take(self, index: Tensor) -> "ImageFiles":
        """The files at the positions in `index`, in that order."""
        return replace(self, paths=self.paths[index.numpy()], labels=self.labels[index])

    def cached(self, limit: int) -> "Images | ImageFiles":
        """All images decoded, if they take at most `limit` bytes; otherwise the files as they are."""
        return self[:] if len(self) * self.channels * self.resolution**2 <= limit else self

    def _files(self, index: Any) -> list[Path]:
        paths: list[bytes] = self.paths[np.asarray(index) if isinstance(index, Tensor) else index].tolist()
        return [self.root / os.fsdecode(path) for path in paths]

    @property
    def hash(self) -> str:
        """64 hexadecimal digits: the SHA-256 of the paths and labels in their order, not of the files' contents."""
        digest = hashlib.sha256(f"{self.channels} {self.resolution}".encode())
        digest.update(self.paths.tobytes())
        digest.update(self.labels.numpy().tobytes())
        return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Normalization:
    """(pixel - mean) / std in each channel, on pixels in [0, 1]."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, pixels: Tensor, resolution: int) -> Tensor:
        """Resize and normalise (N, C, R, R) uint8, or float in [0, 255], to (N, C, resolution, resolution) float."""
        resized = resize(pixels, resolution) / 255
        mean, std = (torch.tensor(values, device=pixels.device).view(1, -1, 1, 1) for values in (self.mean, self.std))
        return (resized - mean) / std

    @classmethod
    def from_images(cls, images: Images) -> "Normalization":
        """The mean and standard deviation of each channel, computed on fewer than 20,000 of the images."""
        pixels = images.pixels[:: max(1, len(images) // 10_000)].double() / 255
        mean, std = pixels.mean((0, 2, 3)), pixels.std((0, 2, 3)).clamp(min=1e-3)
        return cls(*(tuple(round(value, 4) for value in values.tolist()) for values in (mean, std)))


@dataclass(frozen=True, slots=True)
class Dataset:
    """A classification dataset in disjoint splits.

    train: for weights and batch-norm statistics. holdout: taken from the training data, for the predictor and for
    search. test: used once, for the final report; None if the source has no test split.
    """

    name: str
    classes: tuple[str, ...]
    train: Images | ImageFiles
    holdout: Images
    test: Images | ImageFiles | None
    normalization: Normalization

    @property
    def hash(self) -> str:
        """64 hexadecimal digits: the SHA-256 of the hashes of `train` and `holdout`."""
        return hashlib.sha256((self.train.hash + self.holdout.hash).encode()).hexdigest()


def resize(pixels: Tensor, resolution: int) -> Tensor:
    """Resize (N, C, R, R) uint8 or float to (N, C, resolution, resolution) float: bilinear, antialiased, same range."""
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

    source: `digits`, `cifar10`, `cifar100`, `imagenet` or a folder. A folder holds `train/CLASS/*` and, optionally,
    `test/CLASS/*` or `val/CLASS/*`; or it holds `CLASS/*` alone.
    resolution: height and width of the decoded images, pixels. holdout: the number of training images to hold out.
    root: the folder for downloads and for the archives of ImageNet. channels: 1 or 3, for folders (default 3).
    cache_bytes: a split of files that takes more than this when decoded stays on disk and is decoded at every use.

    Raises:
        ValueError: the source is unknown, the folder has another layout, an image cannot be decoded, or no training
            images or no held-out images remain.
    """
    sources: dict[str, Callable[[], _Source]] = {
        "digits": lambda: _digits(resolution, seed),
        "cifar10": lambda: _cifar("CIFAR10", root, resolution),
        "cifar100": lambda: _cifar("CIFAR100", root, resolution),
        "imagenet": lambda: _imagenet(root, resolution),
    }
    if channels is not None and (source in sources or channels not in (1, 3)):
        raise ValueError(f"channels is {channels}; it is 1 or 3, for folders only: named datasets fix it")
    if source in sources:
        classes, train, test = sources[source]()
    elif Path(source).is_dir():
        classes, train, test = _image_folder(Path(source), resolution, channels or 3)
    else:
        raise ValueError(f"no dataset {source!r}: it is neither a folder nor one of {', '.join(sources)}")
    count = len(train)
    if not 0 < holdout < count:
        raise ValueError(f"holdout is {holdout} images; {source} has {count} for training; hold out 1 to {count - 1}")
    order = torch.from_numpy(random_generator(seed, Stream.HOLDOUT).permutation(count))
    train, held_out = train.take(order[holdout:]), train.take(order[:holdout])[:]
    if isinstance(train, ImageFiles):
        train = train.cached(cache_bytes)
    if isinstance(test, ImageFiles):
        test = test.cached(cache_bytes)
    sample = train if isinstance(train, Images) else train[:2_000]  # the order is random
    return Dataset(source, classes, train, held_out, test, Normalization.from_images(sample))


_Source = tuple[tuple[str, ...], Images | ImageFiles, Images | ImageFiles | None]  # classes, training and test images


def _digits(resolution: int, seed: int) -> _Source:
    """scikit-learn's 1,797 handwritten digits: 8 x 8 pixels, 17 grey levels. A random fifth is the test split."""
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
    """ILSVRC 2012 from archives that its users must obtain themselves. Its validation split is the test split."""
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
        names = ", ".join(sorted(set(test.classes) ^ set(train.classes))[:5])
        raise ValueError(f"{folder}: train/ and {test_folder.name}/ must have the same classes; they differ in {names}")
    test_files = None if test is None else _files(test, resolution, channels)
    return tuple(train.classes), _files(train, resolution, channels), test_files


def _files(folder: Any, resolution: int, channels: int) -> ImageFiles:
    """The files of a torchvision ImageFolder."""
    root = Path(folder.root)
    paths = np.array([os.fsencode(os.path.relpath(path, root)) for path, _ in folder.samples])
    return ImageFiles(root, paths, torch.tensor(folder.targets), resolution, channels)


def sample_folder(folder: Path, resolution: int, *, limit: int, seed: int) -> Images:
    """A random sample of at most `limit` photographs in a folder and its subfolders, in colour, without labels.

    The sample is for calibration. Images are prepared as in Once-for-All's evaluation: the shorter side is resized to
    resolution / 0.875, and the centre is cropped.

    Raises:
        ValueError: the folder holds no images, or an image cannot be decoded; the message names the path.
    """
    from torchvision.datasets.folder import IMG_EXTENSIONS

    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMG_EXTENSIONS and path.is_file())
    if not paths:
        raise ValueError(f"{folder} holds no images; put images into it or into folders inside it")
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
    """Decode N files to (N, channels, resolution, resolution) uint8.

    boxes: which box to cut out of each image, as in `ImageFiles.cropped`. Without it, the shorter side is resized to
    `shorter_side` (default: `resolution`) and the centre is cropped.

    Raises:
        ValueError: a file cannot be decoded; the message names it.
    """
    from PIL import Image
    from torch.utils.data import get_worker_info
    from torchvision.transforms.v2 import functional as v2

    pixels = torch.empty(len(paths), channels, resolution, resolution, dtype=torch.uint8)
    mode = "L" if channels == 1 else "RGB"
    shorter = shorter_side or resolution

    def cut(image: Any, number: int) -> Any:
        """Cut and resize an image. `draft` decodes a JPEG at 1/2, 1/4 or 1/8 if that is at least twice the target."""
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
            raise ValueError(f"{paths[number]} cannot be read as an image; replace or remove it: {error}") from error

    if get_worker_info() is not None:  # other processes decode at the same time
        list(map(decode, range(len(paths))))
    else:
        with ThreadPoolExecutor() as pool:
            list(pool.map(decode, range(len(paths))))
    return pixels
