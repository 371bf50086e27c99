"""Random changes to training images, a batch at a time. What is random about them is an argument."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from supernet.checks import FORBID_EXTRA, require

MOVES, SQUARE = 12, 2  # random numbers that an image's moves and colours take, and its square
ASPECT = 4 / 3  # of a random crop, at most


def random_numbers(count: int, generator: torch.Generator) -> Tensor:
    """(N, MOVES + SQUARE), uniform in [0, 1): the random numbers of N images.

    The square's come last, so that a seed moves and colours images as it did before there were squares.
    """
    return torch.cat([torch.rand(count, columns, generator=generator) for columns in (MOVES, SQUARE)], dim=1)


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Random changes to training images, of which torchvision's v2 transforms do the colours.

    Geometry is one affine resampling of a whole batch instead, from random numbers that are an argument, so that
    processes can share a batch and a run resumes to the bit.

    shift: at most, as a share of the side; the border is repeated. rotate: degrees at most. scale: share at most.
    flip: mirror half of them. pad: black pixels around the image, from which a window of its size is cut. crop: least
    share of the area that a random crop keeps, of an aspect from 3/4 to 4/3; None crops nothing. brightness, contrast,
    saturation: largest relative change. cutout: side in pixels of a square in the image's mean colour, its middle
    anywhere on the image (arXiv:1708.04552).
    """

    shift: float = 0.0
    rotate: float = 0.0
    scale: float = 0.0
    flip: bool = False
    pad: int = 0
    crop: float | None = None
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    cutout: int = 0

    __pydantic_config__ = FORBID_EXTRA

    def __post_init__(self) -> None:
        require("augmentation.shift", self.shift, 0, 0.5)
        require("augmentation.rotate", self.rotate, 0, 180)
        require("augmentation.scale", self.scale, 0, below=1)
        require("augmentation.pad", self.pad, 0)
        require("augmentation.cutout", self.cutout, 0)
        if self.crop is not None:
            require("augmentation.crop", self.crop, 0.01, 1)
        for name in ("brightness", "contrast", "saturation"):
            require(f"augmentation.{name}", getattr(self, name), 0, 1)

    def __call__(self, pixels: Tensor, draws: Tensor) -> Tensor:
        """(N, C, R, R) uint8 to (N, C, R, R) float in [0, 255]. draws: (N, D) from `random_numbers`."""
        pixels = pixels.float()
        if self.crop or self.flip or self.shift or self.rotate or self.scale or self.pad:
            mode = "zeros" if self.pad else "border"
            grid = F.affine_grid(self._moves(draws, pixels.shape[-1]), list(pixels.shape), align_corners=False)
            pixels = F.grid_sample(pixels, grid, mode="bilinear", padding_mode=mode, align_corners=False)
        if self.brightness or self.contrast or self.saturation:
            pixels = self._recoloured(pixels, draws)
        if self.cutout:
            pixels = self._covered(pixels, draws)
        return pixels

    def boxes(self, draws: Tensor, aspect: Tensor | float = 1.0) -> Tensor:
        """(N, 4): left, top, width and height of random crops, as shares of the image's. aspect: its width / height.

        An area that at the drawn aspect reaches over the image is cut off, instead of drawn again as in torchvision.
        """
        if self.crop is None:
            return draws.new_tensor((0.0, 0.0, 1.0, 1.0)).expand(len(draws), 4)
        area = self.crop + (1 - self.crop) * draws[:, 5]
        ratio = torch.exp((2 * draws[:, 6] - 1) * math.log(ASPECT)) / aspect
        width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
        return torch.stack((draws[:, 7] * (1 - width), draws[:, 8] * (1 - height), width, height), 1)

    def _moves(self, draws: Tensor, side: int) -> Tensor:
        """(N, 2, 3): from where in the image, -1 to 1, every place of the result comes."""

        def signed(column: int, most: float) -> Tensor:
            return (2 * draws[:, column] - 1) * most

        angle, scale = torch.deg2rad(signed(0, self.rotate)), 1 + signed(1, self.scale)
        mirror = torch.where(draws[:, 2] < 0.5, -1.0, 1.0) if self.flip else torch.ones_like(scale)
        cos, sin = angle.cos() * scale, angle.sin() * scale
        pixel = 2 / side
        right, down = (
            signed(column, 2 * self.shift) + pixel * (((2 * self.pad + 1) * draws[:, column]).floor() - self.pad)
            for column in (3, 4)
        )
        left, top, width, height = self.boxes(draws).T
        row_x = torch.stack((mirror * cos * width, -sin * width, right * width + 2 * left + width - 1), 1)
        row_y = torch.stack((mirror * sin * height, cos * height, down * height + 2 * top + height - 1), 1)
        return torch.stack((row_x, row_y), 1)

    def _recoloured(self, pixels: Tensor, draws: Tensor) -> Tensor:
        """Brighter or darker, of more or less contrast, of more or less colour, in this order."""
        from torchvision.transforms.v2 import functional as v2

        brightness, contrast, saturation = (
            (1 + (2 * draws[:, column] - 1) * most).view(-1, 1, 1, 1)
            for column, most in ((9, self.brightness), (10, self.contrast), (11, self.saturation))
        )
        pixels = (pixels * brightness).clamp(0, 255)
        grey = v2.rgb_to_grayscale(pixels) if pixels.shape[1] == 3 else pixels
        mean = grey.mean((1, 2, 3), keepdim=True)
        pixels, grey = ((mean + (values - mean) * contrast).clamp(0, 255) for values in (pixels, grey))
        return (grey + (pixels - grey) * saturation).clamp(0, 255)

    def _covered(self, pixels: Tensor, draws: Tensor) -> Tensor:
        """With a square in the mean colour, smaller where it reaches over the edge."""
        side = pixels.shape[-1]
        places = torch.arange(side, device=pixels.device)
        first = (draws[:, MOVES:] * side).floor() - self.cutout // 2  # (N, 2): row and column
        inside = (places >= first[..., None]) & (places < first[..., None] + self.cutout)
        square = inside[:, None, 0, :, None] & inside[:, None, 1, None, :]
        return torch.where(square, pixels.mean((2, 3), keepdim=True), pixels)
