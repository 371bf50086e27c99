"""Image files to pixels: upright, with 8 bits a channel, in bounded memory."""

import math
import stat
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import get_worker_info

GREY, COLOUR = 1, 3  # channels
MODES = {GREY: "L", COLOUR: "RGB"}
LARGE = 2**24  # pixels; a process decodes larger images one at a time
ORIENTATION = 0x0112  # a tag of EXIF
BITS_PER_SAMPLE, PHOTOMETRIC, WHITE_IS_ZERO = 258, 262, 0  # tags of TIFF, and a value of the second
UPRIGHT = {  # EXIF 2.32, table 6: what makes an image of this orientation upright
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
SIDEWAYS = tuple(UPRIGHT[orientation] for orientation in (5, 6, 7, 8))
SCALED = ("JPEG", "MPO")  # formats that are decoded at part of their size
Boxes = Callable[[int, float], Tensor]
Box = tuple[float, float, float, float]  # left, top, width, height, as fractions of the upright photograph's


class Facts(NamedTuple):
    """What a file holds. channels: 1 or 3. brightest: of an image of 16 bits, its largest value, from 0 to 255."""

    channels: int
    brightest: int | None


_large_image = threading.RLock()


def decode(
    paths: Sequence[Path], resolution: int, channels: int, *, keep: float = 1.0, boxes: Boxes | None = None
) -> Tensor:
    """Decode N files to (N, channels, resolution, resolution) uint8. Photographs are turned as their EXIF data say.

    keep: the share of the shorter side that the centre crop keeps.
    boxes: instead of the centre, cut a box out of each image. A function of a position in `paths` and of the upright
    photograph's width / height. It returns (4,): the box's left, top, width and height, as fractions of the photograph.

    Raises:
        ValueError: files cannot be decoded; the message names all of them.
    """
    pixels = torch.empty(len(paths), channels, resolution, resolution, dtype=torch.uint8)

    def read(number: int) -> str | None:
        def box(aspect: float) -> Box:
            return _centre(aspect, keep) if boxes is None else tuple(boxes(number, aspect).tolist())

        try:
            image, _ = _read(paths[number], resolution, MODES[channels], box)
        except Exception as error:  # Pillow raises many kinds of errors for broken files
            return f"{printable(paths[number])} cannot be read as an image; replace or remove it: {error}"
        pixels[number] = torch.from_numpy(np.array(image)).view(resolution, resolution, channels).permute(2, 0, 1)
        return None

    if get_worker_info() is not None:  # other processes decode at the same time
        faults = list(map(read, range(len(paths))))
    else:
        with ThreadPoolExecutor() as pool:
            faults = list(pool.map(read, range(len(paths))))
    if any(faults):
        raise ValueError("\n".join(filter(None, faults)))
    return pixels


def examine(path: Path) -> Facts:
    """Decode a whole file, as far as `decode` would, at the smallest size.

    Raises:
        Exception: the file cannot be decoded; Pillow raises many kinds of errors for broken files.
    """
    return _read(path, 1, MODES[COLOUR], lambda aspect: _centre(aspect, 1.0))[1]


def printable(path: Path | str) -> str:
    """A path for messages. Bytes that are not UTF-8 are shown as escapes."""
    return str(path).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _read(path: Path, resolution: int, mode: str, box: Callable[[float], Box]) -> tuple[Image.Image, Facts]:
    """A box of an image, resized, and what the file holds.

    `draft` decodes a JPEG at 1/2, 1/4 or 1/8 if that is at least twice the target. box: a function of the upright
    photograph's width / height.
    """
    if not stat.S_ISREG(path.stat().st_mode):  # opening a pipe would wait for a writer
        raise ValueError("it is not a regular file")
    with Image.open(path) as file, _in_turn(file, file.format not in SCALED):
        if file.format not in SCALED:
            file.load()  # EXIF data may lie behind the pixels, and Pillow itself turns TIFF images
        turn = UPRIGHT.get(_orientation(file))
        sideways = turn in SIDEWAYS
        left, top, width, height = box(file.height / file.width if sideways else file.width / file.height)
        across, down = math.ceil(2 * resolution / width), math.ceil(2 * resolution / height)
        file.draft(None, (down, across) if sideways else (across, down))
        with _in_turn(file, True):
            image = _with_8_bits(file)
            facts = Facts(GREY if _is_grey(file) else COLOUR, None if image is file else image.getextrema()[1])
            image = image.convert(mode)
            if turn is not None:
                image = image.transpose(turn)
            right, bottom = min(1.0, left + width) * image.width, min(1.0, top + height) * image.height
            place = (left * image.width, top * image.height, right, bottom)
            return image.resize((resolution, resolution), Image.Resampling.BILINEAR, place), facts


def _in_turn(image: Image.Image, applies: bool) -> AbstractContextManager[Any]:
    """Wait until no other large image is being decoded, if the image is large and the condition applies."""
    return _large_image if applies and image.width * image.height > LARGE else nullcontext()


def _centre(aspect: float, keep: float) -> Box:
    """The centre square of a photograph. aspect: width / height; keep: the square's share of the shorter side."""
    width, height = keep / max(1.0, aspect), keep * min(1.0, aspect)
    return (1 - width) / 2, (1 - height) / 2, width, height


def _orientation(image: Image.Image) -> int:
    """The orientation that the EXIF data say; 1, upright, if they cannot be read."""
    try:
        orientation = image.getexif().get(ORIENTATION, 1)
    except Exception:  # broken EXIF data beside intact pixels
        return 1
    return orientation if isinstance(orientation, int) else 1


def _is_grey(image: Image.Image) -> bool:
    if image.mode == "P":
        palette = np.array(image.getpalette("RGB")).reshape(-1, 3)
        return bool((palette == palette[:, :1]).all())
    return image.mode in ("1", "L", "LA", "La", "I") or image.mode.startswith("I;16")


def _with_8_bits(image: Image.Image) -> Any:
    """The image with 8 bits a channel. Grey levels of 16 bits are scaled so that the brightest possible one is white.

    Raises:
        ValueError: the file does not say which values are black and white.
    """
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):  # these have 16 bits
        kind = "floating-point numbers" if image.mode == "F" else "integers of 32 bits or with a sign"
        raise ValueError(
            f"its pixels are {kind}, and the file does not say which are black and white; save 8 or 16 bits"
        )
    if image.mode != "I" and not image.mode.startswith("I;16"):
        return image
    tags = getattr(image, "tag_v2", {})
    bits = int(tags.get(BITS_PER_SAMPLE, (16,))[0])
    grey = np.rint(np.asarray(image).astype(np.float32) * (255 / (2**bits - 1))).astype(np.uint8)
    return Image.fromarray(255 - grey if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else grey)
