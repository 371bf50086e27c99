"""Random changes to training images, a batch at a time. The random numbers are an argument."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from supernet.checks import FORBID_EXTRA, require

# Random numbers per image: for geometry and colours, for the cutout square, and for RandAugment's operations.
MOVES, SQUARE, OPERATIONS = 12, 2, 1
ASPECT = 4 / 3  # largest width / height, or height / width, of a random crop


def random_numbers(count: int, generator: torch.Generator) -> Tensor:
    """(N, MOVES + SQUARE + OPERATIONS) the random numbers of N images, uniform in [0, 1).

    The later ones are drawn last, so that with or without them a seed gives the same geometry and colours.
    """
    parts = (torch.rand(count, columns, generator=generator) for columns in (MOVES, SQUARE, OPERATIONS))
    return torch.cat(list(parts), dim=1)


@dataclass(frozen=True, slots=True)
class Augmentation:
    """Random changes to training images.

    Geometry is one affine resampling of the whole batch. Its random numbers are an argument, so that processes can
    share a batch and a resumed run is equal to the bit. Colours follow torchvision's v2 transforms.

    shift: largest shift, as a share of the image size; the border pixels are repeated.
    rotate: largest angle, degrees. scale: largest relative change of size. flip: mirror half of the images.
    pad: add this many black pixels on every side, then cut out a window of the image's size at a random place.
    crop: least share of the area that a random crop keeps, at aspect ratios from 3/4 to 4/3; None does not crop.
    brightness, contrast, saturation: largest relative change.
    cutout: cover a square of this size, pixels, with the image's mean colour; its centre lies anywhere on the image
    (arXiv:1708.04552).
    rand_augment: magnitude, from 1 to 30, of two random operations on each image (RandAugment, arXiv:1909.13719); 0
    changes nothing. They come before the changes above, but after the crop of images on disk.
    mixup, cutmix: alpha of the Beta distribution from which a share is drawn. Two images and their labels are mixed by
    this share (arXiv:1710.09412), or a box of one is put into the other (arXiv:1905.04899). With both, a step draws
    one of the two.
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
    rand_augment: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0

    __pydantic_config__ = FORBID_EXTRA

    def __post_init__(self) -> None:
        require("augmentation.shift", self.shift, 0, 0.5)
        require("augmentation.rotate", self.rotate, 0, 180)
        require("augmentation.scale", self.scale, 0, below=1)
        require("augmentation.pad", self.pad, 0)
        require("augmentation.cutout", self.cutout, 0)
        require("augmentation.rand_augment", self.rand_augment, 0, 30)
        require("augmentation.mixup", self.mixup, 0)
        require("augmentation.cutmix", self.cutmix, 0)
        if self.crop is not None:
            require("augmentation.crop", self.crop, 0.01, 1)
        for name in ("brightness", "contrast", "saturation"):
            require(f"augmentation.{name}", getattr(self, name), 0, 1)

    def __call__(self, pixels: Tensor, draws: Tensor) -> Tensor:
        """(N, C, R, R) uint8 to (N, C, R, R) float in [0, 255]. draws: (N, D) from `random_numbers`."""
        pixels = pixels.float()
        if self.crop or self.flip or self.shift or self.rotate or self.scale or self.pad:
            mode = "zeros" if self.pad else "border"
            grid = F.affine_grid(self._affine_maps(draws, pixels.shape[-1]), list(pixels.shape), align_corners=False)
            pixels = F.grid_sample(pixels, grid, mode="bilinear", padding_mode=mode, align_corners=False)
        if self.brightness or self.contrast or self.saturation:
            pixels = self._recolour(pixels, draws)
        if self.cutout:
            pixels = self._cover_square(pixels, draws)
        return pixels

    def operate(self, pixels: Tensor, draws: Tensor) -> Tensor:
        """RandAugment: two random operations on each image. pixels: (N, C, R, R) uint8, before all other changes."""
        if not self.rand_augment:
            return pixels
        from torchvision.transforms import v2

        operations = v2.RandAugment(num_ops=2, magnitude=self.rand_augment)
        changed = torch.empty_like(pixels)
        with torch.random.fork_rng(devices=[]):  # torchvision draws from torch's own generator
            for number, draw in enumerate(draws[:, MOVES + SQUARE].tolist()):
                torch.default_generator.manual_seed(int(draw * 2**24))
                changed[number] = operations(pixels[number])
        return changed

    def mix(self, images: Tensor, labels: Tensor, classes: int, seed: int) -> tuple[Tensor, Tensor]:
        """Mix each image with another one of the batch: mixup or cutmix.

        images: (N, C, R, R), normalised; labels: (N,). Returns the mixed images and (N, classes) shares of labels; both
        as they are if neither is set.
        """
        if not (self.mixup or self.cutmix):
            return images, labels
        from torchvision.transforms import v2

        kinds = ((v2.MixUp, self.mixup), (v2.CutMix, self.cutmix))
        transforms = [kind(alpha=alpha, num_classes=classes) for kind, alpha in kinds if alpha]
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            mixed: tuple[Tensor, Tensor] = transforms[int(torch.randint(len(transforms), ()))](images, labels)
        return mixed

    def boxes(self, draws: Tensor, aspect: Tensor | float = 1.0) -> Tensor:
        """(N, 4) random crops: left, top, width and height, as shares of the image's. aspect: its width / height.

        A crop that reaches beyond the image is cut off at the edge, where torchvision would draw again.
        """
        if self.crop is None:
            return draws.new_tensor((0.0, 0.0, 1.0, 1.0)).expand(len(draws), 4)
        area = self.crop + (1 - self.crop) * draws[:, 5]
        ratio = torch.exp((2 * draws[:, 6] - 1) * math.log(ASPECT)) / aspect
        width, height = (area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)
        return torch.stack((draws[:, 7] * (1 - width), draws[:, 8] * (1 - height), width, height), 1)

    def _affine_maps(self, draws: Tensor, image_size: int) -> Tensor:
        """(N, 2, 3) affine maps from places in the result to places in the image, both in [-1, 1]."""

        def signed(column: int, limit: float) -> Tensor:
            return (2 * draws[:, column] - 1) * limit

        angle, scale = torch.deg2rad(signed(0, self.rotate)), 1 + signed(1, self.scale)
        mirror = torch.where(draws[:, 2] < 0.5, -1.0, 1.0) if self.flip else torch.ones_like(scale)
        cos, sin = angle.cos() * scale, angle.sin() * scale
        pixel = 2 / image_size
        right, down = (
            signed(column, 2 * self.shift) + pixel * (((2 * self.pad + 1) * draws[:, column]).floor() - self.pad)
            for column in (3, 4)
        )
        left, top, width, height = self.boxes(draws).T
        row_x = torch.stack((mirror * cos * width, -sin * width, right * width + 2 * left + width - 1), 1)
        row_y = torch.stack((mirror * sin * height, cos * height, down * height + 2 * top + height - 1), 1)
        return torch.stack((row_x, row_y), 1)

    def _recolour(self, pixels: Tensor, draws: Tensor) -> Tensor:
        """Change brightness, then contrast, then saturation."""
        from torchvision.transforms.v2 import functional as v2

        brightness, contrast, saturation = (
            (1 + (2 * draws[:, column] - 1) * limit).view(-1, 1, 1, 1)
            for column, limit in ((9, self.brightness), (10, self.contrast), (11, self.saturation))
        )
        pixels = (pixels * brightness).clamp(0, 255)
        grey = v2.rgb_to_grayscale(pixels) if pixels.shape[1] == 3 else pixels
        mean = grey.mean((1, 2, 3), keepdim=True)
        pixels, grey = ((mean + (values - mean) * contrast).clamp(0, 255) for values in (pixels, grey))
        return (grey + (pixels - grey) * saturation).clamp(0, 255)

    def _cover_square(self, pixels: Tensor, draws: Tensor) -> Tensor:
        """Cover a square with the mean colour; what reaches over the edge is cut off."""
        image_size = pixels.shape[-1]
        places = torch.arange(image_size, device=pixels.device)
        first = (draws[:, MOVES : MOVES + SQUARE] * image_size).floor() - self.cutout // 2  # (N, 2): row and column
        inside = (places >= first[..., None]) & (places < first[..., None] + self.cutout)
        square = inside[:, None, 0, :, None] & inside[:, None, 1, None, :]
        return torch.where(square, pixels.mean((2, 3), keepdim=True), pixels)
