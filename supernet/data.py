"""Named datasets and image folders: decoding to uint8 images, splitting, resizing and normalisation.

Images are decoded at the space's largest resolution. Training, evaluation and export all resize them from there.
"""

import hashlib
import os
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from supernet.images.check import ImageCheck
from supernet.images.decode import COLOUR, GREY, Boxes, decode, printable
from supernet.images.folders import ClassFolders, ImageFolder, find_images, read_image_folder
from supernet.images.split import Files, FileSplit, hold_out
from supernet.streams import Stream, random_generator

CACHE_BYTES = 4 * 2**30  # a split of image files that decodes to more than this stays on disk
UNLABELLED = -1  # the label of an image whose class is not known
CROP = 0.875  # the share of the shorter side that the centre crop keeps, as in Once-for-All's evaluation on ImageNet
RARE = 20  # training images; a class with fewer is rare
DARK = 16  # of 255: the brightest level of images that use 12 of their 16 bits
OnBadImage = Literal["refuse", "skip"]


@dataclass(frozen=True, slots=True)
class Images:
    """Decoded images. pixels: (N, C, R, R) uint8; labels: (N,) int64."""

    pixels: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> "Images":
        return Images(self.pixels[index], self.labels[index])

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
    paths: NDArray[np.bytes_]
    labels: Tensor
    resolution: int
    channels: int

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> Images:
        """Decode images: resize the shorter side to `resolution` and crop the centre.

        Raises:
            ValueError: files cannot be decoded; the message names them.
        """
        return Images(decode(self._files(index), self.resolution, self.channels), self.labels[index])

    def cropped(self, index: Tensor, boxes: Boxes) -> Images:
        """Decode images, cut a box out of each and resize the box.

        boxes: a function of a position in `index` and of the photograph's width / height. It returns (4,): the left,
        top, width and height of the box, as fractions of the photograph's width and height.

        Raises:
            ValueError: files cannot be decoded; the message names them.
        """
        return Images(decode(self._files(index), self.resolution, self.channels, boxes=boxes), self.labels[index])

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
    split: for files, which of them are in which split, as it was when the run was started; a run keeps it for `load`.
    remarks: what was found and is not used, for people. lost_files: those that are gone since the run was started.
    """

    name: str
    classes: tuple[str, ...]
    train: Images | ImageFiles
    holdout: Images
    test: Images | ImageFiles | None
    normalization: Normalization
    split: FileSplit | None = None
    remarks: tuple[str, ...] = ()
    lost_files: tuple[str, ...] = ()

    @property
    def hash(self) -> str:
        """64 hexadecimal digits: the SHA-256 of the images of `train` and `holdout`, or of files' paths and sizes."""
        if self.split is not None:
            return self.split.hash
        return hashlib.sha256((self.train.hash + self.holdout.hash).encode()).hexdigest()

    def class_counts(self) -> dict[str, dict[str, int]]:
        """By class, the number of images in each split."""
        splits = {"train": self.train, "holdout": self.holdout, "test": self.test}
        counts = {
            name: torch.bincount(images.labels, minlength=len(self.classes)).tolist()
            for name, images in splits.items()
            if images is not None
        }
        return {label: {name: counts[name][i] for name in counts} for i, label in enumerate(self.classes)}

    def rare_classes(self) -> list[str]:
        """The classes that have fewer than `RARE` training images, or none held out."""
        counts = self.class_counts()
        return [name for name, count in counts.items() if count["train"] < RARE or count["holdout"] == 0]


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
    on_bad_image: OnBadImage = "refuse",
    run_split: FileSplit | None = None,
) -> Dataset:
    """Load a dataset and split it. The classes of a folder, or of ImageNet, are held out in proportion to their sizes.

    source: `digits`, `cifar10`, `cifar100`, `imagenet` or a folder. A folder holds `train/CLASS/*` and, optionally,
    `test/CLASS/*` or `val/CLASS/*`; or it holds `CLASS/*` alone.
    resolution: height and width of the decoded images, pixels. holdout: the number of training images to hold out.
    root: the folder for downloads, for the archives of ImageNet and for the results of `check_images`.
    channels: 1 or 3, for folders; None takes 1 if all images are grey, else 3.
    cache_bytes: a split of files that takes more than this when decoded stays on disk and is decoded at every use.
    on_bad_image: whether to refuse files that cannot be decoded, or to leave them out.
    run_split: of files, the split that a run was started with. Files lost since then are replaced or left out.

    Raises:
        ValueError: the source is unknown, the folder has another layout, images cannot be decoded, a class has no
            training image, so many images cannot be held out, or the files are not those of `run_split`.
    """
    in_memory: dict[str, Callable[[], _InMemory]] = {
        "digits": lambda: _digits(resolution, seed),
        "cifar10": lambda: _cifar("CIFAR10", root, resolution),
        "cifar100": lambda: _cifar("CIFAR100", root, resolution),
    }
    if channels is not None and (source in (*in_memory, "imagenet") or channels not in (1, 3)):
        raise ValueError(f"channels is {channels}; it is 1 or 3, for folders only: named datasets fix it")
    if source in in_memory:
        classes, images, test = in_memory[source]()
        count = len(images)
        if not 0 < holdout < count:
            raise ValueError(
                f"holdout is {holdout} images; {source} has {count} for training; hold out 1 to {count - 1}"
            )
        order = torch.from_numpy(random_generator(seed, Stream.HOLDOUT).permutation(count))
        train, held_out = images[order[holdout:]], images[order[:holdout]]
        return Dataset(source, classes, train, held_out, test, Normalization.from_images(train))
    folder = _image_folder(source, root)
    training, testing, remarks, all_grey = _intact(folder, root, on_bad_image)
    channels = channels or (run_split.channels if run_split else GREY if all_grey else COLOUR)
    lost_files: list[str] = []
    if run_split is None:
        shuffled = random_generator(seed, Stream.HOLDOUT).permutation(len(training))
        for_training, for_holdout = hold_out(training.labels, holdout, shuffled)
        run_split = FileSplit(
            folder.classes, channels, training.take(for_training), training.take(for_holdout), testing
        )
        split = run_split
    else:
        split, lost_files = run_split.resumed(training, testing)

    def files(part: ClassFolders, listed: Files) -> ImageFiles:
        return ImageFiles(part.root, listed.paths, torch.from_numpy(listed.labels), resolution, channels)

    train_files = files(folder.train, split.train).cached(cache_bytes)
    test_files = None if folder.test is None or split.test is None else files(folder.test, split.test)
    sample = train_files if isinstance(train_files, Images) else train_files[:2_000]  # the order is random
    return Dataset(
        source,
        split.classes,
        train_files,
        files(folder.train, split.holdout)[:],
        None if test_files is None else test_files.cached(cache_bytes),
        Normalization.from_images(sample),
        run_split,
        remarks,
        tuple(lost_files),
    )


def check_images(source: str, root: Path) -> Iterator[tuple[int, int]]:
    """Decode every image of a source once, in parallel, so that `load` knows the bad ones.

    Yields the number of images checked, and of all images. Nothing is yielded for datasets that are kept in memory. The
    results are cached in `root`: a file of the same size and time of change is not decoded again.

    Raises:
        ValueError: the source is unknown, or the folder has another layout.
    """
    if source in ("digits", "cifar10", "cifar100"):
        return
    folder = _image_folder(source, root)
    parts = [part for part in (folder.train, folder.test) if part is not None]
    total, before = sum(len(part.paths) for part in parts), 0
    for part in parts:
        for done in ImageCheck(part.root, root).run(part.paths):
            yield before + done, total
        before += len(part.paths)


_InMemory = tuple[tuple[str, ...], Images, Images | None]  # classes, training and test images


def _digits(resolution: int, seed: int) -> _InMemory:
    """scikit-learn's 1,797 handwritten digits: 8 x 8 pixels, 17 grey levels. A random fifth is the test split."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    pixels = torch.from_numpy(digits.images).float().mul_(255 / 16)[:, None]
    images = Images(resize(pixels, resolution).round().to(torch.uint8), torch.from_numpy(digits.target).long())
    order = torch.from_numpy(random_generator(seed, Stream.TEST_SPLIT).permutation(len(images)))
    cut = len(images) // 5
    return tuple(map(str, digits.target_names)), images[order[cut:]], images[order[:cut]]


def _cifar(name: str, root: Path, resolution: int) -> _InMemory:
    from torchvision import datasets

    splits = []
    for train in (True, False):
        dataset = getattr(datasets, name)(root, train=train, download=True)
        pixels = torch.from_numpy(dataset.data).permute(0, 3, 1, 2)
        pixels = pixels if pixels.shape[-1] == resolution else resize(pixels, resolution).round().to(torch.uint8)
        splits.append(Images(pixels.contiguous(), torch.tensor(dataset.targets)))
    return tuple(dataset.classes), splits[0], splits[1]


def _image_folder(source: str, root: Path) -> ImageFolder:
    """The image files of a folder, or of ImageNet."""
    if source == "imagenet":
        return _imagenet(root)
    if not Path(source).is_dir():
        raise ValueError(
            f"no dataset {source!r}: it is neither a folder nor one of digits, cifar10, cifar100, imagenet"
        )
    return read_image_folder(Path(source))


def _imagenet(root: Path) -> ImageFolder:
    """ILSVRC 2012 from archives that its users must obtain themselves. Its validation split is the test split."""
    from torchvision.datasets import ImageNet

    try:
        datasets = [ImageNet(root / "imagenet", split) for split in ("train", "val")]
    except RuntimeError as error:
        raise ValueError(f"{root / 'imagenet'} lacks an archive of ImageNet; {error}") from error
    classes = tuple(names[0] for names in datasets[0].classes)
    train, test = (
        ClassFolders(
            root / "imagenet",
            classes,
            [os.path.relpath(path, root / "imagenet") for path, _ in dataset.samples],
            dataset.targets,
            (),
        )
        for dataset in datasets
    )
    return ImageFolder(classes, train, test, ())


def _intact(
    folder: ImageFolder, root: Path, on_bad_image: OnBadImage
) -> tuple[Files, Files | None, tuple[str, ...], bool]:
    """The files that can be decoded, for training and for the test; remarks; and whether all of them are grey.

    Raises:
        ValueError: files cannot be decoded and are to be refused, all images of a class cannot be decoded, or all
            images of 16 bits use a small part of them.
    """
    splits: list[Files] = []
    faults: list[str] = []
    channels: set[int] = set()
    brightest: list[int] = []  # of the images of 16 bits
    for part in (folder.train, folder.test):
        if part is None:
            continue
        check = ImageCheck(part.root, root)
        deque(check.run(part.paths), maxlen=0)
        results = [check.results[path] for path in part.paths]
        faults += [
            f"{printable(part.root / path)}: {result.fault}"
            for path, result in zip(part.paths, results, strict=True)
            if result.fault is not None
        ]
        intact = np.array([result.fault is None for result in results], np.bool_)
        channels |= {result.channels for result in results if result.fault is None}
        brightest += [result.brightest for result in results if result.brightest is not None]
        paths = np.array([os.fsencode(path) for path in part.paths])
        sizes = np.array([result.size for result in results], np.int64)
        splits.append(Files(paths, np.array(part.labels, np.int64), sizes).take(intact))
    if faults and on_bad_image == "refuse":
        count = sum(len(part.paths) for part in (folder.train, folder.test) if part is not None)
        raise ValueError(
            f"{len(faults):,} of {count:,} images cannot be read; replace or remove them, or leave them out with "
            f"`dataset: {{on_bad_image: skip}}`:\n" + "\n".join(faults)
        )
    if brightest and max(brightest) <= DARK:
        raise ValueError(
            f"none of the {len(brightest):,} images of 16 bits has a value above {257 * max(brightest) + 128:,} of "
            "65,535, so all would be nearly black; save them scaled to the full range, or with 8 bits"
        )
    counts = np.bincount(splits[0].labels, minlength=len(folder.classes))
    if not counts.all():
        names = ", ".join(folder.classes[label] for label in np.flatnonzero(counts == 0))
        raise ValueError(f"no image can be read of the classes {names}; replace their images or remove the folders")
    skipped_files = tuple(f"left out, since it cannot be read: {fault}" for fault in faults)
    test = splits[1] if folder.test is not None else None
    return splits[0], test, (*folder.remarks, *skipped_files), channels == {GREY}


def sample_folder(folder: Path, resolution: int, *, limit: int, seed: int, channels: int = COLOUR) -> Images:
    """A random sample of at most `limit` photographs in a folder and its subfolders, without labels.

    The sample is for calibration. Images are prepared as in Once-for-All's evaluation: the shorter side is resized to
    resolution / 0.875, and the centre is cropped.

    Raises:
        ValueError: the folder holds no images, or images cannot be decoded; the message names the paths.
    """
    paths = find_images(folder)
    chosen = np.sort(np.random.default_rng(seed).permutation(len(paths))[:limit])
    pixels = decode([paths[i] for i in chosen], resolution, channels, keep=CROP)
    return Images(pixels, torch.full((len(pixels),), UNLABELLED))
