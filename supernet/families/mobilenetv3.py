"""MobileNetV3 blocks with elastic depth, kernel and expansion ratio, as Once-for-All has them (arXiv:1908.09791)."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from supernet.operators import Activation, Operator, Operators, Part, make_divisible
from supernet.space import Gene, SearchSpace

if TYPE_CHECKING:
    from supernet.space import Value


@dataclass(frozen=True, slots=True)
class MobileNetV3Layout:
    """Widths and strides of the network around the elastic blocks.

    stem_width, stem_stride: the first convolution, 3 x 3, h-swish; a fixed 3 x 3 block of ratio 1 with ReLU follows it.
    widths, strides, activations, squeeze_excite: per stage; the stride is that of a stage's first block.
    head_width: channels of the last convolution, before pooling. feature_width: channels of the classifier's input.
    """

    stem_width: int
    stem_stride: int
    widths: tuple[int, ...]
    strides: tuple[int, ...]
    activations: tuple[Activation, ...]
    squeeze_excite: tuple[bool, ...]
    head_width: int
    feature_width: int

    def parts(self, space: SearchSpace) -> tuple[Part, ...]:
        """Stem, every block, head."""
        parts = [Part("stem", (0,), lambda side: self._stem(space, int(side)))]
        for s, depths in enumerate(space.depths):
            for b in range(depths[-1]):
                first = space.gene_of_block(s, b)
                genes = (0, space.depth_gene(s), first, first + 1)
                parts.append(Part(f"stage{s + 1}.block{b + 1}", genes, self._block_builder(s, b)))
        parts.append(Part("head", (0,), lambda side: self._head(space, int(side))))
        return tuple(parts)

    def side(self, resolution: int, stage: int) -> int:
        """Height and width, pixels, of what enters a stage (from 0); `len(widths)` stands for the head."""
        side = -(-resolution // self.stem_stride)
        for stride in self.strides[:stage]:
            side = -(-side // stride)
        return side

    def _stem(self, space: SearchSpace, resolution: int) -> Operators:
        width, side = self.stem_width, self.side(resolution, 0)
        live = space.in_channels * resolution**2 + width * side**2
        first = Operator(
            "conv",
            space.in_channels,
            width,
            resolution,
            3,
            self.stem_stride,
            norm=True,
            activation="h_swish",
            live=live,
        )
        return (first, *inverted_residual(width, width, width, side, 3, 1, "relu", squeeze_excite=False, expand=False))

    def _block_builder(self, stage: int, block: int) -> "_BlockBuilder":
        widths = (self.stem_width, *self.widths)
        return _BlockBuilder(
            self, stage, block, widths[stage] if block == 0 else widths[stage + 1], widths[stage + 1],
            self.strides[stage] if block == 0 else 1,
        )  # fmt: skip

    def _head(self, space: SearchSpace, resolution: int) -> Operators:
        side, width, head, features = (
            self.side(resolution, len(self.widths)),
            self.widths[-1],
            self.head_width,
            self.feature_width,
        )
        area = side**2
        return (
            Operator("conv", width, head, side, norm=True, activation="h_swish", live=(width + head) * area),
            Operator("pool", head, head, side, live=head * area + head),
            Operator("conv", head, features, 1, activation="h_swish", live=head + features),
            Operator("linear", features, space.classes, 1, bias=True, live=features + space.classes),
        )


@dataclass(frozen=True, slots=True)
class _BlockBuilder:
    """One elastic block as a function of (resolution, depth of its stage, kernel size, expansion ratio)."""

    layout: MobileNetV3Layout
    stage: int
    block: int
    in_channels: int
    out_channels: int
    stride: int

    def __call__(self, resolution: "Value", depth: "Value", kernel_size: "Value", expand_ratio: "Value") -> Operators:
        if self.block >= depth:
            return ()
        layout, stage = self.layout, self.stage
        side = layout.side(int(resolution), stage if self.block == 0 else stage + 1)
        return inverted_residual(
            self.in_channels,
            expanded_width(self.in_channels, expand_ratio),
            self.out_channels,
            side,
            int(kernel_size),
            self.stride,
            layout.activations[stage],
            squeeze_excite=layout.squeeze_excite[stage],
        )


def expanded_width(in_channels: int, expand_ratio: float) -> int:
    """Channels inside a block: its input channels times the ratio, rounded to a multiple of 8 as Once-for-All does."""
    return make_divisible(round(in_channels * expand_ratio))


def squeezed_width(channels: int) -> int:
    """Channels inside squeeze-and-excite: a quarter, rounded to a multiple of 8."""
    return make_divisible(channels // 4)


def inverted_residual(
    in_channels: int, width: int, out_channels: int, side: int, kernel: int, stride: int, activation: Activation,
    *, squeeze_excite: bool, expand: bool = True,
) -> Operators:  # fmt: skip
    """Expansion, depthwise convolution, squeeze-and-excite, projection, residual (arXiv:1905.02244, figure 4)."""
    out_side = -(-side // stride)
    inputs, outputs = in_channels * side**2, out_channels * out_side**2
    before, after = width * side**2, width * out_side**2
    residual = stride == 1 and in_channels == out_channels
    waiting = inputs if residual else 0
    records = []
    if expand:
        records.append(
            Operator("conv", in_channels, width, side, norm=True, activation=activation, live=inputs + before)
        )
    alive = before + after + (waiting if expand else 0)
    records.append(
        Operator("conv", width, width, side, kernel, stride, width, norm=True, activation=activation, live=alive)
    )
    if squeeze_excite:
        squeezed = squeezed_width(width)
        alive = waiting + after
        records += [
            Operator("pool", width, width, out_side, live=alive + width),
            Operator("conv", width, squeezed, 1, bias=True, activation="relu", live=alive + width + squeezed),
            Operator("conv", squeezed, width, 1, bias=True, activation="h_sigmoid", live=alive + width + squeezed),
            Operator("multiply", width, width, out_side, live=alive + width + after),
        ]
    records.append(Operator("conv", width, out_channels, out_side, norm=True, live=waiting + after + outputs))
    if residual:
        records.append(Operator("add", out_channels, out_channels, out_side, live=3 * outputs))
    return tuple(records)


KERNEL_SIZE = Gene("kernel_size", (3, 5, 7))


def _imagenet(name: str, width: float) -> SearchSpace:
    """Once-for-All's own space: stages of 2 to 4 blocks, kernels 3, 5, 7, ratios 3, 4, 6, resolutions 112 to 224."""
    stem, *widths = (make_divisible(base * width) for base in (16, 24, 40, 80, 112, 160))
    return SearchSpace(
        name=name,
        family="mobilenetv3",
        classes=1000,
        in_channels=3,
        resolutions=tuple(range(112, 225, 16)),
        depths=((2, 3, 4),) * 5,
        block_genes=(KERNEL_SIZE, Gene("expand_ratio", (3, 4, 6))),
        layout=MobileNetV3Layout(
            stem_width=stem,
            stem_stride=2,
            widths=tuple(widths),
            strides=(2, 2, 2, 1, 2),
            activations=("relu", "relu", "h_swish", "h_swish", "h_swish"),
            squeeze_excite=(False, True, False, True, True),
            head_width=make_divisible(960 * width),
            feature_width=make_divisible(1280 * width),
        ),
    )


PRESETS = {
    space.name: space
    for space in (
        SearchSpace(
            name="mbv3-digits",
            family="mobilenetv3",
            classes=10,
            in_channels=1,
            resolutions=(8, 12, 16),
            depths=((1, 2), (1, 2), (1, 2)),
            block_genes=(KERNEL_SIZE, Gene("expand_ratio", (2, 3, 4))),
            layout=MobileNetV3Layout(
                stem_width=16,
                stem_stride=1,
                widths=(24, 32, 48),
                strides=(2, 2, 1),
                activations=("relu", "h_swish", "h_swish"),
                squeeze_excite=(False, True, True),
                head_width=96,
                feature_width=128,
            ),
        ),
        SearchSpace(
            name="mbv3-cifar",
            family="mobilenetv3",
            classes=10,
            in_channels=3,
            resolutions=(24, 28, 32),
            depths=((1, 2, 3), (1, 2, 3), (1, 2, 3), (1, 2, 3)),
            block_genes=(KERNEL_SIZE, Gene("expand_ratio", (2, 3, 4))),
            layout=MobileNetV3Layout(
                stem_width=16,
                stem_stride=1,
                widths=(24, 40, 80, 112),
                strides=(2, 2, 2, 1),
                activations=("relu", "relu", "h_swish", "h_swish"),
                squeeze_excite=(False, True, False, True),
                head_width=336,
                feature_width=512,
            ),
        ),
        _imagenet("mbv3-imagenet-w1.0", 1.0),
        _imagenet("mbv3-imagenet-w1.2", 1.2),
    )
}
