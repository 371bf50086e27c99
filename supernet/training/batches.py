"""Training batches, each a function of (seed, phase, step). Worker processes prepare batches ahead if that is slow."""

import ctypes
import multiprocessing
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, get_worker_info
from torch.utils.data import Dataset as TorchDataset

from supernet.data import ImageFiles, Images
from supernet.streams import Stream, random_generator
from supernet.training.augmentation import random_numbers
from supernet.training.schedule import Schedule

SHARED_MEMORY = Path("/dev/shm")


class Batch(NamedTuple):
    """pixels: (N, C, R, R) uint8; labels: (N,); draws: (N, D) from `random_numbers`, for the augmentation."""

    pixels: Tensor
    labels: Tensor
    draws: Tensor


class Batches(TorchDataset[Batch | ValueError]):
    """One process's share of each batch of a phase, by step. All processes' shares, in order, make up the batch."""

    def __init__(
        self, images: Images | ImageFiles, schedule: Schedule, phase: int, rank: int = 0, world: int = 1
    ) -> None:
        self.images = images
        self.schedule = schedule
        self.phase = phase
        self.share = slice(rank * schedule.batch_size // world, (rank + 1) * schedule.batch_size // world)

    def __len__(self) -> int:
        """Steps per epoch. The images left over at the end of an epoch differ from epoch to epoch."""
        return len(self.images) // self.schedule.batch_size

    def __getitem__(self, step: int) -> Batch | ValueError:
        """This process's share of a step's batch, or the error if a file cannot be decoded or shared memory is full."""
        seed, size = self.schedule.seed, self.schedule.batch_size
        epoch, position = divmod(step, len(self))
        indices = _order(seed, len(self.images), self.phase, epoch)[position * size :][self.share]
        draw = int(random_generator(seed, Stream.AUGMENTATION, self.phase, step).integers(2**62))
        draws = random_numbers(size, torch.Generator().manual_seed(draw))[self.share]
        try:
            images = self._images(indices, draws)
        except ValueError as error:
            return error  # raised in a worker process, it would reach users as that process's traceback
        batch = Batch(self.schedule.augmentation.operate(images.pixels, draws), images.labels, draws)
        return batch if get_worker_info() is None else _shared(batch)

    def augmented(self, batch: Batch, device: torch.device) -> Tensor:
        """(N, C, R, R) float in [0, 255] on a device: the images after the schedule's augmentation."""
        augmentation = self.schedule.augmentation
        if isinstance(self.images, ImageFiles):
            augmentation = replace(augmentation, crop=None)  # `_images` has cropped them
        return augmentation(batch.pixels.to(device, non_blocking=True), batch.draws.to(device, non_blocking=True))

    def _images(self, indices: Tensor, draws: Tensor) -> Images:
        """Read images. Files are cropped here, from the whole photograph; the augmentation crops images in memory."""
        augmentation = self.schedule.augmentation
        if isinstance(self.images, Images) or augmentation.crop is None:
            return self.images[indices]
        return self.images.cropped(indices, lambda i, aspect: augmentation.boxes(draws[i : i + 1], aspect)[0])

    def steps(self, first: int, last: int, workers: int, pinned: bool) -> Iterator[Batch]:
        """The batches of steps `first` to `last` - 1.

        If images are files, or RandAugment changes them, `workers` processes make batches ahead.

        pinned: use pinned memory, from which copies to CUDA are fast.

        Raises:
            ValueError: a file cannot be decoded, or a worker has no memory; the message says which.
        """
        slow = isinstance(self.images, ImageFiles) or self.schedule.augmentation.rand_augment > 0
        loader: DataLoader[Batch | ValueError] = DataLoader(
            self,
            batch_size=None,
            sampler=range(first, last),
            num_workers=workers if slow else 0,
            pin_memory=pinned,
            generator=torch.Generator(),  # seeds the workers' generators, which nothing here uses
            worker_init_fn=_end_with_parent,
        )
        try:
            for batch in loader:
                if isinstance(batch, ValueError):
                    raise batch
                yield batch
        except RuntimeError as error:
            if "DataLoader worker" not in str(error):
                raise
            raise ValueError(
                f"a process that prepares images was ended from outside, as happens when memory runs out: {error}. "
                "Take fewer workers, or `dataset: {workers: 0}` to prepare images in the training process itself"
            ) from error


def _shared(batch: Batch) -> Batch | ValueError:
    """In a worker: the batch in shared memory, or the error if that is full.

    torch would move it there later, in a thread whose error nobody sees, and training would wait for ever.
    """
    try:
        return Batch(*(tensor.share_memory_() for tensor in batch))
    except RuntimeError as error:
        free = shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.exists() else 0
        return ValueError(
            f"a batch of {sum(tensor.nbytes for tensor in batch) / 2**20:.1f} MiB does not fit into shared memory: "
            f"{SHARED_MEMORY} has {free / 2**20:.1f} MiB left, and every worker keeps up to three batches there "
            f"({error}). Set `dataset: {{workers: 0}}`, or make it larger: `shm_size` in docker-compose.yml, "
            "`docker run --shm-size`"
        )


def _end_with_parent(_worker: int) -> None:
    """In a worker: have Linux kill this process when its parent ends.

    torch's workers check for their parent now and then, but wait forever for a lock that it held when it was killed.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG, as prctl.h has it
        parent = multiprocessing.parent_process()
        if parent is not None and os.getppid() != parent.pid:  # the parent ended before the call
            os._exit(1)


@lru_cache(maxsize=1)
def _order(seed: int, count: int, phase: int, epoch: int) -> Tensor:
    """(count,) indices: the order of the training images in an epoch."""
    return torch.from_numpy(random_generator(seed, Stream.IMAGE_ORDER, phase, epoch).permutation(count))
