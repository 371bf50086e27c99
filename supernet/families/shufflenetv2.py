"""ShuffleNetV2's units as choice blocks, as Single-Path One-Shot searches them (arXiv:1904.00420, section 4).

Each layer chooses among four units with separate weights: a ShuffleNetV2 unit (arXiv:1807.11164, figure 3c and d) of
kernel size 3, 5 or 7, or an Xception-style unit with three depthwise convolutions. Where the channels are elastic, a
narrower unit takes slices of the widest unit's weights. Operators and widths follow the authors' code, OneShot in
github.com/megvii-model/ShuffleNet-Series.
"""

from dataclasses import dataclass, replace
from functools import partial

from supernet.operators import Operator, Operators, Parallel, Part, downsampled
from supernet.space import Gene, SearchSpace, Value

KERNEL_SIZES = (3, 5, 7)  # per choice 0, 1, 2; choice 3 is the Xception-style unit


@dataclass(frozen=True, slots=True)
class ShuffleNetV2Layout:
    """Widths and strides around the choice blocks.

    stem_width, stem_stride: the first convolution, 3 x 3. stem_pool: max pooling of stride 2 follows it.
    widths, strides: per stage; a stage's first block has the stride, 1 or 2. head_width: channels before pooling.
    bias: the classifier has a bias; in Single-Path One-Shot it has none.
    """

    stem_width: int
    stem_stride: int
    stem_pool: bool
    widths: tuple[int, ...]
    strides: tuple[int, ...]
    head_width: int
    bias: bool = False

    def parts(self, space: SearchSpace) -> tuple[Part, ...]:
        """Stem, every block, head."""
        parts = [Part("stem", (0,), partial(self._stem, space))]
        for s, depths in enumerate(space.depths):
            for b in range(depths[-1]):
                first = space.gene_of_block(s, b)
                genes = (0, space.depth_gene(s), *range(first, first + len(space.block_genes)))
                parts.append(Part(f"stage{s + 1}.block{b + 1}", genes, partial(self._block, s, b), paths=(first,)))
        parts.append(Part("head", (0,), partial(self._head, space)))
        return tuple(parts)

    def _stem(self, space: SearchSpace, resolution: Value) -> Operators:
        width, side = self.stem_width, int(resolution)
        conv = Operator("conv", space.in_channels, width, side, 3, self.stem_stride, norm=True, activation="relu")
        return (conv, Operator("max_pool", width, width, conv.out_side, 3, 2)) if self.stem_pool else (conv,)

    def _block(
        self, stage: int, block: int, resolution: Value, depth: Value, choice: Value, channel_scale: Value = 1
    ) -> Operators:
        if block >= depth:
            return ()
        out_channels = self.widths[stage]
        in_channels = out_channels if block else (self.stem_width, *self.widths)[stage]
        stem_strides = self.stem_stride, 1 + self.stem_pool
        side = downsampled(int(resolution), *stem_strides, *self.strides[: stage + bool(block)])
        stride = 1 if block else self.strides[stage]
        return shuffle_unit(in_channels, out_channels, side, stride, int(choice), channel_scale)

    def _head(self, space: SearchSpace, resolution: Value) -> Operators:
        side = downsampled(int(resolution), self.stem_stride, 1 + self.stem_pool, *self.strides)
        width = self.head_width
        return (
            Operator("conv", self.widths[-1], width, side, norm=True, activation="relu"),
            Operator("pool", width, width, side),
            Operator("linear", width, space.classes, 1, bias=self.bias),
        )


def shuffle_unit(
    in_channels: int, out_channels: int, side: int, stride: int, choice: int, channel_scale: float
) -> Operators:
    """One unit. Its main branch has half of the output's channels times `channel_scale` inside, rounded down.

    With stride 1 and equal channels, every second channel passes unchanged and the rest go through the main branch.
    Otherwise two branches read all channels. The second, a depthwise and a 1 x 1 convolution, puts out `in_channels`.
    """
    conv = partial(Operator, "conv", norm=True)
    split = stride == 1 and in_channels == out_channels
    entering = in_channels // 2 if split else in_channels
    width, main_channels = int(out_channels // 2 * channel_scale), out_channels - entering
    kernel_size = KERNEL_SIZES[choice] if choice < len(KERNEL_SIZES) else 3
    out_side = downsampled(side, stride)
    if choice < len(KERNEL_SIZES):
        main: Operators = (
            conv(entering, width, side, activation="relu"),
            conv(width, width, side, kernel_size, stride, width),
            conv(width, main_channels, out_side, activation="relu"),
        )
    else:
        main = (
            conv(entering, entering, side, 3, stride, entering),
            conv(entering, width, out_side, activation="relu"),
            conv(width, width, out_side, 3, 1, width),
            conv(width, width, out_side, activation="relu"),
            conv(width, width, out_side, 3, 1, width),
            conv(width, main_channels, out_side, activation="relu"),
        )
    if split:
        shuffle = Operator("shuffle", in_channels, in_channels, side)
        return (shuffle, Parallel("concat", ((), main), in_channels, side, split=True))
    other = (
        conv(entering, entering, side, kernel_size, stride, entering),
        conv(entering, entering, out_side, activation="relu"),
    )
    return (Parallel("concat", (other, main), in_channels, side),)


CHOICE = Gene("choice", (0, 1, 2, 3))
CHANNEL_SCALE = Gene("channel_scale", tuple(round(0.2 * step, 1) for step in range(1, 11)))

_IMAGENET = SearchSpace(
    name="spos-imagenet",
    family="shufflenetv2",
    classes=1000,
    in_channels=3,
    resolutions=(224,),
    depths=((4,), (4,), (8,), (4,)),
    block_genes=(CHOICE,),
    layout=ShuffleNetV2Layout(
        stem_width=16,
        stem_stride=2,
        stem_pool=False,
        widths=(64, 160, 320, 640),
        strides=(2, 2, 2, 2),
        head_width=1024,
    ),
)
_CIFAR = SearchSpace(
    name="spos-cifar",
    family="shufflenetv2",
    classes=10,
    in_channels=3,
    resolutions=(32,),
    depths=((2,), (4,), (2,)),
    block_genes=(CHOICE,),
    layout=ShuffleNetV2Layout(
        stem_width=24,
        stem_stride=1,
        stem_pool=False,
        widths=(64, 128, 256),
        strides=(2, 2, 2),
        head_width=512,
    ),
)

PRESETS = {
    space.name: space
    for space in (
        _IMAGENET,
        replace(_IMAGENET, name="spos-imagenet-channels", block_genes=(CHOICE, CHANNEL_SCALE)),
        _CIFAR,
        replace(_CIFAR, name="spos-cifar-channels", block_genes=(CHOICE, CHANNEL_SCALE)),
    )
}
