"""The images of a bundle: those that it was trained on, found again; and images for a bundle that has none."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from service.bundles.config import LARGEST_HOLDOUT, TrainingConfig, load_images
from service.errors import InputError
from supernet.bundle import NO_WEIGHTS, Bundle, BundleError
from supernet.bundle_writing import with_images
from supernet.data import Dataset, ImageFiles, Images, check_images, load
from supernet.evaluation.evaluate import BATCH
from supernet.space import SearchSpace

NAMED = ("cifar10", "cifar100", "imagenet")  # datasets that lie in a folder of downloads or archives
LISTED = 5  # names in a message
SAME = 4.0  # of 255: mean difference of an image decoded by two versions of a decoder, at most


def training_images(
    bundle: Bundle,
    config: TrainingConfig,
    images: str | None,
    data_root: Path,
    progress: Callable[[str, int, int, str], None] = lambda stage, done, total, remark: None,
) -> Dataset:
    """The images that a bundle was trained on, in the same split, normalised as for its weights.

    If images were added to a folder since, they are for training. The held-out images are always the bundle's own.

    images: where they lie now: a folder of images, or a named dataset's folder; None: where the configuration says.

    Raises:
        ValueError: there are no such images, or held-out images of the bundle are not among them, so that it is not
            known which images must not be trained on. Also what `load` raises.
    """
    source = config.dataset.source
    if images is not None and source in NAMED:
        data_root = Path(images)
    elif images is not None and source != "digits":
        source = images
    if source != "digits" and source not in NAMED and not Path(source).is_dir():
        raise BundleError(f"{bundle.path} was trained on the images in {source}, which is no folder here; name it")
    for done, total in check_images(source, data_root):
        progress("check images", done, total, "")
    dataset = load_images(config, bundle.space, data_root, source=source)
    if list(dataset.classes) != bundle.classes or dataset.train.channels != bundle.space.in_channels:
        raise ValueError(
            f"{source} has {len(dataset.classes)} classes and {dataset.train.channels} channels, other ones than "
            f"{bundle.path} with {len(bundle.classes)} classes and {bundle.space.in_channels} channels"
        )
    held_out = bundle.holdout()
    assert held_out is not None
    dataset = replace(dataset, normalization=bundle.normalization)
    if _are_equal(dataset.holdout[:LARGEST_HOLDOUT], held_out):
        return dataset
    return replace(dataset, train=_without(dataset, held_out, source), holdout=held_out)


def add_images(
    bundle: Bundle,
    source: str,
    *,
    holdout: int,
    calibration: int,
    seed: int,
    data_root: Path,
    progress: Callable[[str, int, int, str], None] = lambda stage, done, total, remark: None,
) -> Bundle:
    """Give an imported or converted bundle calibration and held-out images, in place, from a folder of its classes.

    The folder's classes are matched by name. If the bundle's classes are only numbers, they get the folder's names in
    the order of these.

    source: a folder of images laid out as for training, or a dataset's name. holdout, calibration: how many images.

    Raises:
        BundleError: the bundle was trained on images, or has no weights. InputError: the folder has other classes.
        ValueError: what `load` raises.
    """
    if "config" in bundle.manifest:
        raise BundleError(
            f"{bundle.path} has held-out images that it was not trained on; other images could be ones that it was "
            "trained on. Leave --images out"
        )
    if not bundle.has_weights:
        raise BundleError(f"{bundle.path}: {NO_WEIGHTS}")
    for done, total in check_images(source, data_root):
        progress("check images", done, total, "")
    space = bundle.space
    dataset = load(
        source, space.resolutions[-1], seed=seed, holdout=holdout, root=data_root, channels=_channels(source, space)
    )
    classes, order = _matched(bundle, dataset.classes, source)

    def labelled(images: Images) -> Images:
        return Images(images.pixels, order[images.labels])

    return with_images(bundle, classes, labelled(dataset.train[:calibration]), labelled(dataset.holdout), source)


def _channels(source: str, space: SearchSpace) -> int | None:
    """The channels to decode images to: the network's for a folder. Named datasets fix theirs."""
    return space.in_channels if Path(source).is_dir() and space.in_channels in (1, 3) else None


def _matched(bundle: Bundle, found: tuple[str, ...], source: str) -> tuple[tuple[str, ...], torch.Tensor]:
    """The names of a bundle's classes, and the label in the bundle of each class of a folder."""
    known = bundle.classes
    if sorted(found) == sorted(known):
        return tuple(known), torch.tensor([known.index(name) for name in found])
    if len(found) == len(known) and known == [str(number) for number in range(len(known))]:
        return found, torch.arange(len(found))
    other = sorted(set(found) ^ set(known))[:LISTED]
    raise InputError(
        f"`images` is {source} with {len(found)} classes; {bundle.path} has {len(known)}, and the names must be the "
        f"same; they differ in {', '.join(other)}",
        "images",
    )


def image_folder(config: TrainingConfig, data_root: Path) -> Path | None:
    """Where `training_images` finds the images of a configuration, to be registered; None if it needs no files."""
    if config.dataset.source == "digits":
        return None
    return data_root if config.dataset.source in NAMED else Path(config.dataset.source)


def _are_equal(images: Images, others: Images) -> bool:
    """Whether these are the same images, up to what versions of a decoder change."""
    if images.pixels.shape != others.pixels.shape or not torch.equal(images.labels, others.labels):
        return False
    pairs = zip(images.pixels.split(BATCH), others.pixels.split(BATCH), strict=True)
    return all(float((a.float() - b.float()).abs().mean((1, 2, 3)).max()) <= SAME for a, b in pairs)


def _without(dataset: Dataset, held_out: Images, source: str) -> Images | ImageFiles:
    """The training images without those that have the pixels of a held-out image.

    Raises:
        ValueError: a held-out image is not among the images at all.
    """
    train = dataset.train
    of_train = [digest for first in range(0, len(train), BATCH) for digest in _digests(train[first : first + BATCH])]
    wanted = set(_digests(held_out))
    missing = wanted - set(of_train) - set(_digests(dataset.holdout))
    if missing:
        raise ValueError(
            f"{len(missing)} of the bundle's {len(held_out)} held-out images are not among the images of {source}, so "
            "they cannot be kept out of training; bring back the images that the bundle was trained on"
        )
    kept = np.flatnonzero([digest not in wanted for digest in of_train])
    if isinstance(train, Images):
        return train[torch.from_numpy(kept)]
    return replace(train, paths=train.paths[kept], labels=train.labels[torch.from_numpy(kept)])


def _digests(images: Images) -> list[bytes]:
    return [hashlib.sha256(memoryview(pixels.contiguous().numpy()).cast("B")).digest() for pixels in images.pixels]
