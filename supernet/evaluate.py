"""Accuracy of extracted subnets, on images that training has not seen."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from supernet.calibrate import recalibrate
from supernet.data import FORBID_EXTRA, Images, Normalization
from supernet.layers import Supernet
from supernet.space import Architecture

BATCH = 512  # images per forward pass
NOISE = 8  # standard deviation of a view's noise, on pixels of 0 to 255


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a network scored: top-1 accuracy in [0, 1], mean log-likelihood of the true class (nats), images seen."""

    accuracy: float
    log_likelihood: float
    images: int


@torch.no_grad()
def evaluate(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> Evaluation:
    """Score a network in evaluation mode. batches: normalised images (N, C, R, R) and labels (N,)."""
    network.eval()
    correct = images = 0
    log_likelihood = 0.0
    for pixels, labels in batches:
        log_probabilities = F.log_softmax(network(pixels), dim=1)
        log_likelihood += log_probabilities.gather(1, labels[:, None]).double().sum().item()
        correct += int((log_probabilities.argmax(1) == labels).sum())
        images += len(labels)
    if not images:
        raise ValueError("an evaluation needs at least one image")
    return Evaluation(correct / images, log_likelihood / images, images)


@dataclass(frozen=True, slots=True)
class Views:
    """How held-out images are perturbed: how many views of each, and the seed. 0 leaves them as they are."""

    count: int = 0
    seed: int = 0

    __pydantic_config__ = FORBID_EXTRA


def perturbed(images: Images, views: Views) -> Images:
    """The images under `views.count` fixed perturbations: a shift of up to 1/12 of the side, and Gaussian noise.

    Accuracy on a nearly saturated dataset says little about which of two subnets is better; under perturbation, and as
    log-likelihood, it does. The same seed gives the same images.
    """
    if views.count == 0:
        return images
    generator = torch.Generator().manual_seed(views.seed)
    pixels = images.pixels.float()
    most = max(1, round(pixels.shape[-1] / 12))
    made = []
    for _ in range(views.count):
        down, right = torch.randint(-most, most + 1, (2,), generator=generator).tolist()
        shifted = torch.roll(F.pad(pixels, (most,) * 4, mode="replicate"), (down, right), (2, 3))
        shifted = shifted[:, :, most:-most, most:-most]
        made.append((shifted + NOISE * torch.randn(shifted.shape, generator=generator)).clamp(0, 255).to(torch.uint8))
    return Images(torch.cat(made), images.labels.repeat(views.count))


class Evaluator:
    """Extracts, recalibrates and scores subnets of one supernet; decoded images are kept per resolution.

    calibration: training images for batch norm. holdout: images that neither training nor calibration saw, or None.
    """

    def __init__(
        self, supernet: Supernet, normalization: Normalization, calibration: Images, holdout: Images | None
    ) -> None:
        self.supernet = supernet.eval()
        self.normalization = normalization
        self.calibration = calibration
        self.holdout = holdout
        self._batches = lru_cache(maxsize=8)(self._make_batches)

    def subnet(self, arch: Architecture) -> nn.Sequential:
        """The subnet as a static network with statistics of its own, in evaluation mode."""
        network = self.supernet.extract(arch).to(memory_format=torch.channels_last)
        recalibrate(network, (pixels for pixels, _ in self._batches("calibration", arch.resolution)))
        return network.eval()

    def evaluate(self, network: nn.Module, resolution: int) -> Evaluation | None:
        """Score a network on the held-out images, None when there are none."""
        return None if self.holdout is None else evaluate(network, self._batches("holdout", resolution))

    def sample(self, resolution: int, count: int = 16) -> Tensor:
        """(at most count, C, R, R) real images, normalised: what an exported file is compared with torch on."""
        return self._batches("calibration", resolution)[0][0][:count].cpu()

    def _make_batches(self, which: str, resolution: int) -> list[tuple[Tensor, Tensor]]:
        images = self.calibration if which == "calibration" else self.holdout
        assert images is not None
        device = next(self.supernet.parameters()).device
        return list(batches(images, resolution, self.normalization, device))


def batches(
    images: Images, resolution: int, normalization: Normalization, device: torch.device | str = "cpu"
) -> Iterator[tuple[Tensor, Tensor]]:
    """Normalised images (N, C, R, R), channels last, with labels (N,); the last batch may be smaller."""
    for start in range(0, len(images.labels), BATCH):
        pixels = normalization(images.pixels[start : start + BATCH].to(device), resolution)
        yield pixels.contiguous(memory_format=torch.channels_last), images.labels[start : start + BATCH].to(device)
