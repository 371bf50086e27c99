"""MobileNetV2's inverted residuals as choice blocks: every choice of a layer has weights of its own.

FairNAS's space (arXiv:1907.01845, section 5.1): 19 layers on the widths of ProxylessNAS, each of
kernel size 3, 5 or 7 and expansion ratio 3 or 6.
"""

from dataclasses import dataclass
from functools import partial

from supernet.families.mobilenetv3 import inverted_residual
from supernet.operators import Operator, Operators, Part, downsampled
from supernet.space import Gene, SearchSpace, Value


@dataclass(frozen=True, slots=True)
class MobileNetV2Layout:
    """Widths and strides of the network around the choice blocks.

    stem_width, stem_stride: the first convolution, 3 x 3; a fixed 3 x 3 block without expansion to first_width follows.
    widths, strides: per stage; a stage's first block has the stride. head_width: channels before pooling.
    blocks: the kernel size and expansion ratio of each choice, from 0.
    """

    stem_width: int
    stem_stride: int
    first_width: int
    widths: tuple[int, ...]
    strides: tuple[int, ...]
    head_width: int
    blocks: tuple[tuple[int, int], ...]

    def parts(self, space: SearchSpace) -> tuple[Part, ...]:
        """Stem, every block, head."""
        parts = [Part("stem", (0,), partial(self._stem, space))]
        for s, depths in enumerate(space.depths):
            for b in range(depths[-1]):
                choice = space.gene_of_block(s, b)
                genes = (0, space.depth_gene(s), choice)
                parts.append(Part(f"stage{s + 1}.block{b + 1}", genes, partial(self._block, s, b), paths=(choice,)))
        parts.append(Part("head", (0,), partial(self._head, space)))
        return tuple(parts)

    def _stem(self, space: SearchSpace, resolution: Value) -> Operators:
        width, stride = self.stem_width, self.stem_stride
        conv = Operator("conv", space.in_channels, width, int(resolution), 3, stride, norm=True, activation="relu6")
        side = downsampled(int(resolution), stride)
        return (conv, *inverted_residual(width, width, self.first_width, side, 3, 1, "relu6", expand=False))

    def _block(self, stage: int, block: int, resolution: Value, depth: Value, choice: Value) -> Operators:
        if block >= depth:
            return ()
        out_channels = self.widths[stage]
        in_channels = out_channels if block else (self.first_width, *self.widths)[stage]
        kernel_size, ratio = self.blocks[int(choice)]
        side = downsampled(int(resolution), self.stem_stride, *self.strides[: stage + bool(block)])
        stride = 1 if block else self.strides[stage]
        return inverted_residual(in_channels, in_channels * ratio, out_channels, side, kernel_size, stride, "relu6")

    def _head(self, space: SearchSpace, resolution: Value) -> Operators:
        side, width = downsampled(int(resolution), self.stem_stride, *self.strides), self.head_width
        return (
            Operator("conv", self.widths[-1], width, side, norm=True, activation="relu6"),
            Operator("pool", width, width, side),
            Operator("linear", width, space.classes, 1, bias=True),
        )


def _fairnas(
    name: str, resolution: int, classes: int, layers: tuple[int, ...], layout: MobileNetV2Layout
) -> SearchSpace:
    return SearchSpace(
        name=name,
        family="mobilenetv2",
        classes=classes,
        in_channels=3,
        resolutions=(resolution,),
        depths=tuple((depth,) for depth in layers),
        block_genes=(Gene("choice", tuple(range(len(layout.blocks)))),),
        layout=layout,
    )


BLOCKS = tuple((kernel_size, ratio) for ratio in (3, 6) for kernel_size in (3, 5, 7))

PRESETS = {
    space.name: space
    for space in (
        _fairnas(
            "fairnas-imagenet",
            224,
            1000,
            (2, 4, 4, 4, 4, 1),
            MobileNetV2Layout(
                stem_width=32,
                stem_stride=2,
                first_width=16,
                widths=(32, 40, 80, 96, 192, 320),
                strides=(2, 2, 2, 1, 2, 1),
                head_width=1280,
                blocks=BLOCKS,
            ),
        ),
        _fairnas(
            "fairnas-cifar",
            32,
            10,
            (2, 3, 3, 1),
            MobileNetV2Layout(
                stem_width=16,
                stem_stride=1,
                first_width=16,
                widths=(24, 40, 80, 112),
                strides=(2, 2, 2, 1),
                head_width=336,
                blocks=BLOCKS,
            ),
        ),
    )
}
