"""The accuracy of extracted subnets on images that training has not seen."""

from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernet.data import ImageFiles, Images, Normalization
from supernet.evaluation.calibrate import recalibrate
from supernet.evaluation.metrics import TOP, Evaluation, macro_f1
from supernet.evaluation.views import Views
from supernet.networks.supernet import Supernet
from supernet.space import Architecture

BATCH = 512  # images per forward pass
CACHED_BYTES = 2**28  # at most, of normalised images at one resolution
NOISE = 8  # standard deviation of a view's noise, on pixels from 0 to 255
Split = Literal["calibration", "holdout"]
BatchNorm = Literal["recalibrated", "stored"]
NO_CALIBRATION = (
    "there are no calibration images to recalibrate batch norm with; name a folder of images at import or at export, "
    "or export with stored statistics"
)
SAMPLE_SEED = 0  # of the random images that stand in for real images


@torch.no_grad()
def evaluate(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Evaluation:
    """Score a network in evaluation mode. batches: normalised images (N, C, R, R) and labels (N,)."""
    network.eval()
    images, likely, log_likelihood = 0, 0, 0.0
    counts = []  # per batch, (3, C) by class: hits, guesses, labels
    for pixels, labels in batches:
        log_probabilities = F.log_softmax(network(pixels), dim=1)
        classes = log_probabilities.shape[1]
        log_likelihood += log_probabilities.gather(1, labels[:, None]).double().sum().item()
        guesses, top = log_probabilities.argmax(1), log_probabilities.topk(min(TOP, classes)).indices
        likely += int((top == labels[:, None]).sum())
        rows = (labels[guesses == labels], guesses, labels)
        counts.append(torch.stack([torch.bincount(row, minlength=classes) for row in rows]))
        images += len(labels)
    if not images:
        raise ValueError("an evaluation needs at least one image")
    hits, guessed, labelled = torch.stack(counts).sum(0).cpu().numpy()
    return Evaluation(
        accuracy=int(hits.sum()) / images,
        log_likelihood=log_likelihood / images,
        images=images,
        top5=likely / images,
        f1_macro=macro_f1(hits, guessed, labelled),
    )


def perturbed(images: Images, views: Views) -> Images:
    """`views.count` copies of the images, each shifted by up to 1/12 of the image size, with Gaussian noise added.

    On a nearly saturated dataset, accuracy hardly separates two subnets. Perturbations and log-likelihoods separate
    them. The same seed gives the same images.
    """
    if views.count == 0:
        return images
    generator = torch.Generator().manual_seed(views.seed)
    limit = max(1, round(images.pixels.shape[-1] / 12))
    parts = []
    for _ in range(views.count):
        down, right = torch.randint(-limit, limit + 1, (2,), generator=generator).tolist()
        for pixels in images.pixels.split(BATCH):  # only one batch at a time takes memory in floating point
            shifted = torch.roll(F.pad(pixels.float(), (limit,) * 4, mode="replicate"), (down, right), (2, 3))
            shifted = shifted[:, :, limit:-limit, limit:-limit]
            noisy = shifted + NOISE * torch.randn(shifted.shape, generator=generator)
            parts.append(noisy.clamp(0, 255).to(torch.uint8))
    return Images(torch.cat(parts), images.labels.repeat(views.count))


class Evaluator:
    """Extracts, recalibrates and scores subnets of one supernet.

    Normalised images of the last few resolutions are cached if they are small, so group calls by resolution.

    calibration: training images for batch norm, or None. holdout: images that neither training nor calibration uses, or
    None.
    """

    def __init__(
        self, supernet: Supernet, normalization: Normalization, calibration: Images | None, holdout: Images | None
    ) -> None:
        self.supernet = supernet.eval()
        self.normalization = normalization
        self.calibration = calibration
        self.holdout = holdout
        self._cached = lru_cache(maxsize=4)(lambda which, resolution: list(self._make(which, resolution)))

    def subnet(self, arch: Architecture, batch_norm: BatchNorm = "recalibrated") -> nn.Sequential:
        """The subnet as a static network, in evaluation mode.

        batch_norm: `recalibrated` computes statistics of its own; `stored` slices the statistics of the supernet.

        Raises:
            ValueError: there are no calibration images.
        """
        network = self.supernet.extract(arch).to(memory_format=torch.channels_last)
        if batch_norm == "recalibrated":
            if self.calibration is None:
                raise ValueError(NO_CALIBRATION)
            recalibrate(network, (pixels for pixels, _ in self._batches("calibration", arch.resolution)))
        return network.eval()

    def evaluate(self, network: nn.Module, resolution: int) -> Evaluation | None:
        """Score a network on the held-out images; None if there are none."""
        return None if self.holdout is None else evaluate(network, self._batches("holdout", resolution))

    def sample(self, resolution: int, count: int = 16) -> Tensor:
        """At most `count` normalised images, (N, C, R, R), on which an exported file is compared with torch.

        They are held-out images or else calibration images. Without either, they are random, with mean 0 and variance
        1, and always the same.
        """
        images = self.calibration if self.holdout is None else self.holdout
        if images is not None:
            return self.normalization(images.pixels[:count], resolution)
        shape = (count, self.supernet.space.in_channels, resolution, resolution)
        return torch.randn(shape, generator=torch.Generator().manual_seed(SAMPLE_SEED))

    def _batches(self, which: Split, resolution: int) -> Iterable[tuple[Tensor, Tensor]]:
        size = 4 * len(self._images(which)) * self.supernet.space.in_channels * resolution**2
        return self._cached(which, resolution) if size <= CACHED_BYTES else self._make(which, resolution)

    def _make(self, which: Split, resolution: int) -> Iterator[tuple[Tensor, Tensor]]:
        device = next(self.supernet.parameters()).device
        return batches(self._images(which), resolution, self.normalization, device)

    def _images(self, which: Split) -> Images:
        images = self.calibration if which == "calibration" else self.holdout
        assert images is not None
        return images


def batches(
    images: Images | ImageFiles, resolution: int, normalization: Normalization, device: torch.device | str = "cpu"
) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised images (N, C, R, R), channels last, and labels (N,), in batches of nearly equal size.

    Batches of a fixed size could leave a single image to the last batch. A single image may have no variance to
    recalibrate with.
    """
    count = -(-len(images) // BATCH)
    for first, end in pairwise(len(images) * number // count for number in range(count + 1)):
        chosen = images[first:end]
        pixels = normalization(chosen.pixels.to(device), resolution)
        yield pixels.contiguous(memory_format=torch.channels_last), chosen.labels.to(device)
