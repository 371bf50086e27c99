"""Which files of a folder are for training, held out and for the test. A run keeps its split, to be resumed with."""

import hashlib
import io
import os
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
from numpy.typing import NDArray

from supernet.images.decode import printable

SHOWN = 5  # files in a message
Indices = NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Files:
    """N files. paths: (N,), relative to a folder, encoded; labels: (N,); sizes: (N,) bytes."""

    paths: NDArray[np.bytes_]  # a million Python strings would be copied into every data-loading process
    labels: NDArray[np.int64]
    sizes: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: "Indices | NDArray[np.bool_]") -> "Files":
        """The files at the positions in `index`, in that order, or where it is true."""
        return Files(self.paths[index], self.labels[index], self.sizes[index])


@dataclass(frozen=True, slots=True, eq=False)
class FileSplit:
    """The splits of a folder of images. train, holdout: relative to one folder; test: relative to another, or None.

    channels: of the decoded images.
    """

    classes: tuple[str, ...]
    channels: int
    train: Files
    holdout: Files
    test: Files | None

    @property
    def hash(self) -> str:
        """64 hexadecimal digits: the SHA-256 of paths, labels and sizes of training and held-out files, in order."""
        digest = hashlib.sha256(f"{self.channels} {list(self.classes)}".encode())
        for files in (self.train, self.holdout):
            for array in (files.paths, files.labels, files.sizes):
                digest.update(array.tobytes())
        return digest.hexdigest()

    def to_bytes(self) -> bytes:
        """An npz file without pickles."""
        arrays = {"classes": np.array(self.classes), "channels": np.array(self.channels)}
        for name, files in (("train", self.train), ("holdout", self.holdout), ("test", self.test)):
            if files is not None:
                arrays |= {f"{name}.paths": files.paths, f"{name}.labels": files.labels, f"{name}.sizes": files.sizes}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """Read what `to_bytes` wrote."""
        with np.load(io.BytesIO(data), allow_pickle=False) as arrays:
            files = {
                name: Files(arrays[f"{name}.paths"], arrays[f"{name}.labels"], arrays[f"{name}.sizes"])
                for name in ("train", "holdout", "test")
                if f"{name}.paths" in arrays
            }
            classes = tuple(arrays["classes"].tolist())
            return cls(classes, int(arrays["channels"]), files["train"], files["holdout"], files.get("test"))

    def resumed(self, training: Files, test: Files | None) -> tuple["FileSplit", list[str]]:
        """This split of the files that are left, and the lost files.

        A lost training image is replaced by another one of its class, so that the steps and all other images of a run
        stay as they are. Lost held-out and test images are left out.

        training: the files that there are now, training and held-out. test: the same for the test split.

        Raises:
            ValueError: files are new or have another size, or no training image of a class is left.
        """
        _refuse_other(np.concatenate([self.train.paths, self.holdout.paths]), training.paths, "new")
        train_present, holdout_present = _present(self.train, training), _present(self.holdout, training)
        lost = [*self.train.paths[~train_present], *self.holdout.paths[~holdout_present]]
        remaining_test = self.test
        if self.test is not None:
            test_present = _present(self.test, test)
            lost += list(self.test.paths[~test_present])
            remaining_test = self.test.take(test_present)
        split = replace(
            self,
            train=self.train.take(_substitutes(self.train, train_present, self.classes)),
            holdout=self.holdout.take(holdout_present),
            test=remaining_test,
        )
        return split, [_shown(path) for path in lost]


def hold_out(labels: NDArray[np.int64], count: int, order: Indices) -> tuple[Indices, Indices]:
    """Split N images, each class in proportion to its size; every class keeps at least one image for training.

    order: a permutation of the N images, in which images are held out. Returns the positions of the training images and
    of the `count` held-out images, each in this order.

    Raises:
        ValueError: so many images cannot be held out.
    """
    sizes = np.bincount(labels)
    most = int(np.maximum(sizes - 1, 0).sum())
    if not 0 < count <= most:
        raise ValueError(
            f"holdout is {count} of {len(labels)} images; each of the {len(sizes)} classes keeps at least one image "
            f"for training, so hold out 1 to {most}"
        )
    exact = sizes * (count / len(labels))
    quotas = np.minimum(np.floor(exact), sizes - 1).astype(np.int64)
    while rest := count - int(quotas.sum()):  # first to the classes that fall shortest of their share
        able = np.flatnonzero(quotas < sizes - 1)
        quotas[able[np.argsort(quotas[able] - exact[able], kind="stable")[:rest]]] += 1
    ordered = labels[order]
    by_class = np.argsort(ordered, kind="stable")
    position = np.empty(len(order), np.int64)  # of an image among those of its class, in the order
    position[by_class] = np.arange(len(order)) - (np.cumsum(sizes) - sizes)[ordered[by_class]]
    is_held_out = position < quotas[ordered]
    return order[~is_held_out], order[is_held_out]


def _present(files: Files, now: Files | None) -> NDArray[np.bool_]:
    """(N,) whether each file is among those that there are now.

    Raises:
        ValueError: files have another size now.
    """
    sizes = {} if now is None else dict(zip(now.paths.tolist(), now.sizes.tolist(), strict=True))
    paths = files.paths.tolist()
    changed = [path for path, size in zip(paths, files.sizes.tolist(), strict=True) if sizes.get(path, size) != size]
    _refuse_other(np.array([], np.bytes_), np.array(changed, np.bytes_), "of another size")
    return np.array([path in sizes for path in paths], np.bool_)


def _refuse_other(before: NDArray[np.bytes_], now: NDArray[np.bytes_], what: str) -> None:
    """Refuse paths that were not there before."""
    if other := sorted(set(now.tolist()) - set(before.tolist())):
        shown = ", ".join(map(_shown, other[:SHOWN]))
        more = f" and {len(other) - SHOWN:,} more" if len(other) > SHOWN else ""
        raise ValueError(
            f"the run was started on other images: {shown}{more} are {what}. Resume with the images that started it, "
            "or train into another folder"
        )


def _substitutes(files: Files, present: NDArray[np.bool_], classes: tuple[str, ...]) -> Indices:
    """(N,) the position of each file, or of another file of its class where it is lost."""
    positions = np.arange(len(files))
    for label in np.unique(files.labels[~present]):
        lost = np.flatnonzero(~present & (files.labels == label))
        remaining = np.flatnonzero(present & (files.labels == label))
        if not len(remaining):
            raise ValueError(
                f"all {len(lost)} training images of the class {classes[label]} are lost since the run was started; "
                "bring them back, or train into another folder"
            )
        positions[lost] = np.resize(remaining, len(lost))
    return positions


def _shown(path: bytes) -> str:
    return printable(os.fsdecode(path))
