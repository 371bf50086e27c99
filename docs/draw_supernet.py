"""Draws docs/supernet.svg: a supernet, two subnets taken from it, and the device that each of them is for.

    python docs/draw_supernet.py            # writes supernet.svg beside this file
    python docs/draw_supernet.py FILE.svg

The picture shows the search space of the demo, `mbv3-digits`: three stages of at most two blocks, kernel sizes 3, 5
and 7, expansion ratios 2, 3 and 4, resolutions 8, 12 and 16. The two subnets and the two limits are examples. Needs
Python alone, and writes the same bytes every time.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

WIDTH, HEIGHT = 940, 426
FONT = "Helvetica, Arial, 'Liberation Sans', sans-serif"
TEXT, MUTED, LINE = "#1f2328", "#59636e", "#d0d7de"
SHARED, LARGE, UNUSED = "#f5a35c", "#9cc7f7", "#e6eaef"  # fill: weights of both subnets, of the large one, of neither
SHARED_EDGE, LARGE_EDGE, UNUSED_EDGE = "#9a4a00", "#0a5cc2", "#8c959f"

RESOLUTIONS, KERNEL_SIZES, EXPAND_RATIOS = (8, 12, 16), (3, 5, 7), (2, 3, 4)
STAGES, BLOCKS = 3, 2  # stages, and the most blocks of each


@dataclass(frozen=True)
class Subnet:
    """A subnet. stages: per stage, per kept block, its kernel size and its expansion ratio."""

    resolution: int
    stages: tuple[tuple[tuple[int, int], ...], ...]

    def block(self, stage: int, block: int) -> tuple[int, int]:
        """Kernel size and expansion ratio of a block, (0, 0) where the subnet leaves the block out."""
        kept = self.stages[stage]
        return kept[block] if block < len(kept) else (0, 0)


EVERYTHING = Subnet(16, (((7, 4),) * BLOCKS,) * STAGES)
LARGE_SUBNET = Subnet(16, (((7, 4), (5, 3)), ((5, 4), (7, 3)), ((7, 4),)))
SMALL_SUBNET = Subnet(8, (((3, 2),), ((5, 2),), ((3, 3),)))


def text(
    x: float, y: float, words: str, *, size: float = 13, color: str = TEXT, anchor: str = "start", weight: int = 400
) -> str:
    """One line of text."""
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" fill="{color}" text-anchor="{anchor}" '
        f'font-weight="{weight}">{words}</text>'
    )


def rectangle(
    x: float, y: float, width: float, height: float, fill: str, edge: str, *, radius: float = 0, dashed: bool = False
) -> str:
    """A rectangle."""
    dashes = ' stroke-dasharray="4 3"' if dashed else ""
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" fill="{fill}" '
        f'stroke="{edge}"{dashes}/>'
    )


def arrow(x: float, y: float, end: float) -> str:
    """A horizontal arrow."""
    head = f"M{end - 7:g} {y - 4.5:g} L{end:g} {y:g} L{end - 7:g} {y + 4.5:g} Z"
    return f'<path d="M{x:g} {y:g} H{end - 6:g}" stroke="{MUTED}" stroke-width="1.6"/><path d="{head}" fill="{MUTED}"/>'


def colors(value: int, small: int, large: int) -> tuple[str, str]:
    """Fill and edge of the weights that a choice of `value` needs and the next smaller choice does not."""
    if value <= small:
        return SHARED, SHARED_EDGE
    return (LARGE, LARGE_EDGE) if value <= large else (UNUSED, UNUSED_EDGE)


def square(x: float, y: float, side: float, fill: str, edge: str) -> str:
    """A square with its centre at (x, y)."""
    return rectangle(x - side / 2, y - side / 2, side, side, fill, edge)


def block(
    x: float,
    y: float,
    scale: float,
    shown: tuple[int, int],
    small: tuple[int, int],
    large: tuple[int, int],
    *,
    dashed: bool,
) -> str:
    """A block: its kernel above a bar of its channels. shown: the largest kernel and the largest ratio to draw."""
    width, kernel, unit = 36 * scale, 28 * scale, 21 * scale
    kernel_y, bottom = y + 6 * scale + kernel / 2, y + 132 * scale
    parts = [rectangle(x, y, width, 138 * scale, "#ffffff", UNUSED_EDGE, radius=4 * scale, dashed=dashed)]
    for size in reversed([size for size in KERNEL_SIZES if size <= shown[0]]):  # the largest at the back
        side = size * kernel / KERNEL_SIZES[-1]
        parts.append(square(x + width / 2, kernel_y, side, *colors(size, small[0], large[0])))
    below = 0
    for ratio in EXPAND_RATIOS:
        if ratio <= shown[1]:
            height = (ratio - below) * unit
            top = bottom - ratio * unit
            parts.append(rectangle(x + 5 * scale, top, width - 10 * scale, height, *colors(ratio, small[1], large[1])))
            below = ratio
    return "".join(parts)


def network(x: float, y: float, scale: float, shown: Subnet, *, large: Subnet, gap: float) -> str:
    """The blocks of a subnet, or of the whole supernet, stage by stage, from left to right."""
    parts = []
    for stage in range(STAGES):
        for number in range(len(shown.stages[stage])):
            left = x + (stage * (BLOCKS * 40 + gap) + number * 40) * scale
            inside = shown.block(stage, number), SMALL_SUBNET.block(stage, number), large.block(stage, number)
            parts.append(block(left, y, scale, *inside, dashed=shown is EVERYTHING and number > 0))
    return "".join(parts)


def image(x: float, y: float, *resolutions: int) -> str:
    """The input image at some resolutions, the largest first, with its centre at (x, y). It has no weights: white."""
    return "".join(square(x, y, 2 * resolution, "#ffffff", TEXT) for resolution in resolutions)


def supernet() -> str:
    """The left column."""
    left, top, gap = 128, 150, 14
    parts = [
        text(24, 66, "1. Train one supernet", size=16, weight=700),
        text(24, 85, "One set of weights, with every choice inside.", color=MUTED),
        text(24, 118, "resolution"),
        text(24, 134, "8, 12 or 16", size=12, color=MUTED),
        image(left + 18, 119, *reversed(RESOLUTIONS)),
        text(left + 44, 124, "the input image, in pixels", size=12, color=MUTED),
        network(left, top, 1, EVERYTHING, large=LARGE_SUBNET, gap=gap),
        text(24, 169, "kernel size"),
        text(24, 185, "3, 5 or 7", size=12, color=MUTED),
        text(24, 237, "expansion"),
        text(24, 253, "ratio"),
        text(24, 269, "2, 3 or 4", size=12, color=MUTED),
        text(24, 314, "depth"),
        text(24, 330, "1 or 2 blocks", size=12, color=MUTED),
    ]
    for stage in range(STAGES):
        x = left + stage * (80 + gap)
        parts.append(f'<path d="M{x:g} 294 v5 h76 v-5" fill="none" stroke="{MUTED}"/>')
        parts.append(text(x + 38, 314, f"stage {stage + 1}", anchor="middle"))
    parts.append(text(left, 330, "dashed: a block that a subnet may leave out", size=12, color=MUTED))
    return "".join(parts)


def taken(y: float, subnet: Subnet, name: str, facts: str) -> str:
    """A subnet in the middle column, at a height."""
    scale, left = 0.62, 512
    return "".join(
        [
            text(452, y, name, weight=700),
            text(452, y + 16, facts, size=12, color=MUTED),
            image(476, y + 70, subnet.resolution),
            network(left, y + 27, scale, subnet, large=LARGE_SUBNET, gap=12),
        ]
    )


def file(x: float, y: float, name: str) -> str:
    """A sheet of paper with a folded corner, its upper left corner at (x, y), and the name of the file below."""
    sheet = f"M{x:g} {y:g} h24 l10 10 v32 h-34 Z M{x + 24:g} {y:g} v10 h10"
    return (
        f'<path d="{sheet}" fill="#ffffff" stroke="{TEXT}" stroke-width="1.3"/>'
        + text(x + 17, y + 31, "ONNX", size=9.5, anchor="middle", weight=700)
        + text(x + 17, y + 58, name, size=12, anchor="middle")
    )


def phone(x: float, y: float) -> str:
    """A phone, its upper left corner at (x, y)."""
    return (
        rectangle(x, y, 34, 60, "#ffffff", TEXT, radius=6)
        + rectangle(x + 4, y + 7, 26, 42, UNUSED, UNUSED_EDGE)
        + f'<circle cx="{x + 17:g}" cy="{y + 54.5:g}" r="2.4" fill="{TEXT}"/>'
    )


def board(x: float, y: float) -> str:
    """A board with a chip, its upper left corner at (x, y)."""
    pins = "".join(f"M{x + 12 + 7 * i:g} {y + 10:g} v5 M{x + 12 + 7 * i:g} {y + 31:g} v5 " for i in range(4))
    return (
        rectangle(x, y, 46, 46, "#ffffff", TEXT, radius=3)
        + f'<path d="{pins.strip()}" stroke="{TEXT}" stroke-width="1.3"/>'
        + rectangle(x + 8, y + 15, 29, 16, UNUSED, TEXT)
    )


def legend() -> str:
    """What the colours mean, in one row at the bottom."""
    row = (
        (24, SHARED, SHARED_EDGE, "weights that both subnets use"),
        (270, LARGE, LARGE_EDGE, "weights that only the large subnet uses"),
        (570, UNUSED, UNUSED_EDGE, "weights that neither of the two uses"),
    )
    return "".join(rectangle(x, 395, 14, 14, *fill) + text(x + 22, 407, words) for x, *fill, words in row)


def picture() -> str:
    """The whole file."""
    parts = [
        rectangle(0.5, 0.5, WIDTH - 1, HEIGHT - 1, "#ffffff", LINE, radius=8),
        text(
            24,
            32,
            "Train once. Then ask for the best network within a limit, as often as you like.",
            size=17,
            weight=700,
        ),
        supernet(),
        text(452, 66, "2. Search for a subnet", size=16, weight=700),
        text(452, 85, "A part of the weights, within the limit.", color=MUTED),
        taken(118, LARGE_SUBNET, "a large subnet", "5 blocks, resolution 16"),
        taken(254, SMALL_SUBNET, "a small subnet", "3 blocks, resolution 8"),
        text(716, 66, "3. Export it", size=16, weight=700),
        text(716, 85, "One ONNX file for each device.", color=MUTED),
        arrow(406, 219, 442),
        arrow(684, 188, 716),
        file(732, 166, "large.onnx"),
        arrow(782, 188, 816),
        phone(832, 150),
        text(849, 228, "phone", anchor="middle", weight=700),
        text(849, 244, "latency: at most 8 ms", size=12, anchor="middle"),
        arrow(684, 320, 716),
        file(732, 298, "small.onnx"),
        arrow(782, 320, 816),
        board(826, 290),
        text(849, 354, "board", anchor="middle", weight=700),
        text(849, 370, "FLOPs: at most 1 million", size=12, anchor="middle"),
        legend(),
    ]
    title = "From one supernet to a network for each device"
    description = (
        "Left: a supernet of three stages. A stage has at most two blocks. A subnet may leave the second block out. "
        "Each block offers kernel sizes 3, 5 and 7 and expansion ratios 2, 3 and 4. The input image is 8, 12 or 16 "
        "pixels wide. Middle: a large subnet of five blocks and a small subnet of three blocks, both taken from the "
        "supernet. The small subnet uses a part of the convolution weights that the large subnet uses. Right: each "
        "subnet becomes an ONNX file. The large subnet is for a phone with a limit of 8 milliseconds. The small subnet "
        "is for a board with a limit of one million FLOPs."
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'font-family="{FONT}" role="img" aria-labelledby="title description">\n'
        f'<title id="title">{title}</title>\n<desc id="description">{description}</desc>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def main() -> None:
    """Write the picture beside this file, or to the file named."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("supernet.svg")
    path.write_text(picture(), encoding="utf-8")
    print(path)


if __name__ == "__main__":
    main()
