"""ResNet50-D with elastic depth, bottleneck ratio and width, as in Once-for-All's code.

This is `ofa_resnet50` of github.com/mit-han-lab/once-for-all: the bottlenecks of arXiv:1512.03385 with the stem and the
shortcuts of arXiv:1812.01187 (ResNet-D). docs/families.md explains this file line by line.
"""

from dataclasses import dataclass
from functools import partial

from supernet.operators import Operator, Operators, Parallel, Part, downsampled, make_divisible
from supernet.space import Gene, SearchSpace, Value


@dataclass(frozen=True, slots=True)
class ResNetLayout:
    """Widths, before the elastic multipliers, and strides.

    stem_width: output channels of the stem of three 3 x 3 convolutions, which has half as many inside. stem_stride:
    the first convolution's stride. stem_pool: max pooling of stride 2 follows the stem.
    widths, strides: per stage; a stage's first block has the stride.
    """

    stem_width: int
    stem_stride: int
    stem_pool: bool
    widths: tuple[int, ...]
    strides: tuple[int, ...]

    def parts(self, space: SearchSpace) -> tuple[Part, ...]:
        """Stem, every block, head."""
        gene = {gene.name: number for number, gene in enumerate(space.genes)}
        mid, entering = gene["stem.mid.width"], gene["stem.width"]
        parts = [
            Part("stem.in", (0, mid), partial(self._stem_in, space)),
            Part("stem.residual", (0, mid, gene["stem.residual"]), self._stem_residual),
            Part("stem.out", (0, mid, entering), self._stem_out),
        ]
        for s, depths in enumerate(space.depths):
            leaving = gene[f"stage{s + 1}.width"]
            for b in range(depths[-1]):
                # A stage's first block reads the previous stage's output, the others read their own stage's.
                reads = leaving if b else entering
                genes = (0, space.depth_gene(s), *dict.fromkeys((reads, leaving)), space.gene_of_block(s, b))
                build = partial(self._block, s, b) if b else partial(self._first_block, s)
                parts.append(Part(f"stage{s + 1}.block{b + 1}", genes, build))
            entering = leaving
        parts.append(Part("head", (0, entering), partial(self._head, space)))
        return tuple(parts)

    def _stem_in(self, space: SearchSpace, resolution: Value, mid_scale: Value) -> Operators:
        mid, stride = self._stem_mid(mid_scale), self.stem_stride
        return (Operator("conv", space.in_channels, mid, int(resolution), 3, stride, norm=True, activation="relu"),)

    def _stem_residual(self, resolution: Value, mid_scale: Value, residual: Value) -> Operators:
        mid, side = self._stem_mid(mid_scale), downsampled(int(resolution), self.stem_stride)
        conv = Operator("conv", mid, mid, side, 3, norm=True, activation="relu")
        return (Parallel("add", ((), (conv,)), mid, side),) if residual else ()

    def _stem_out(self, resolution: Value, mid_scale: Value, scale: Value) -> Operators:
        width, side = make_divisible(self.stem_width * scale), downsampled(int(resolution), self.stem_stride)
        conv = Operator("conv", self._stem_mid(mid_scale), width, side, 3, norm=True, activation="relu")
        return (conv, Operator("max_pool", width, width, side, 3, 2)) if self.stem_pool else (conv,)

    def _stem_mid(self, scale: Value) -> int:
        return make_divisible(make_divisible(self.stem_width * scale) // 2)

    def _first_block(
        self, stage: int, resolution: Value, depth: Value, entering: Value, leaving: Value, ratio: Value
    ) -> Operators:
        base = (self.stem_width, *self.widths)
        in_channels, out_channels = make_divisible(base[stage] * entering), make_divisible(base[stage + 1] * leaving)
        side = downsampled(int(resolution), self.stem_stride, 1 + self.stem_pool, *self.strides[:stage])
        return bottleneck(in_channels, out_channels, side, self.strides[stage], ratio)

    def _block(
        self, stage: int, block: int, resolution: Value, depth: Value, leaving: Value, ratio: Value
    ) -> Operators:
        if block >= depth:
            return ()
        width = make_divisible(self.widths[stage] * leaving)
        side = downsampled(int(resolution), self.stem_stride, 1 + self.stem_pool, *self.strides[: stage + 1])
        return bottleneck(width, width, side, 1, ratio, identity=True)

    def _head(self, space: SearchSpace, resolution: Value, leaving: Value) -> Operators:
        side = downsampled(int(resolution), self.stem_stride, 1 + self.stem_pool, *self.strides)
        width = make_divisible(self.widths[-1] * leaving)
        return (Operator("pool", width, width, side), Operator("linear", width, space.classes, 1, bias=True))


def bottleneck(
    in_channels: int, out_channels: int, side: int, stride: int, ratio: float, *, identity: bool = False
) -> Operators:
    """Convolutions of 1 x 1, 3 x 3 and 1 x 1, plus a shortcut. Inside are `ratio` times the output's channels.

    identity: the shortcut passes the input on. Otherwise it is average pooling by the stride and a 1 x 1 convolution.
    """
    width, out_side = make_divisible(round(out_channels * ratio)), downsampled(side, stride)
    conv = partial(Operator, "conv", norm=True)
    body = (
        conv(in_channels, width, side, activation="relu"),
        conv(width, width, side, 3, stride, activation="relu"),
        conv(width, out_channels, out_side),
    )
    shortcut: Operators = ()
    if not identity:
        pool = (Operator("avg_pool", in_channels, in_channels, side, stride, stride),) if stride > 1 else ()
        shortcut = (*pool, conv(in_channels, out_channels, out_side))
    return (Parallel("add", (shortcut, body), in_channels, side, activation="relu"),)


def _space(
    name: str, classes: int, resolutions: tuple[int, ...], depths: tuple[tuple[int, ...], ...],
    ratios: tuple[float, ...], scales: tuple[float, ...], layout: ResNetLayout,
) -> SearchSpace:  # fmt: skip
    return SearchSpace(
        name=name,
        family="resnet",
        classes=classes,
        in_channels=3,
        resolutions=resolutions,
        depths=depths,
        block_genes=(Gene("expand_ratio", ratios),),
        extra_genes=(
            *(Gene(f"stage{stage}.width", scales) for stage in range(1, len(depths) + 1)),
            # Two choices: half of the stem's channels, rounded to a multiple of 8, are equal at the first two scales.
            Gene("stem.mid.width", (scales[0], scales[-1])),
            Gene("stem.residual", (0, 1)),
            Gene("stem.width", scales),
        ),
        layout=layout,
    )


PRESETS = {
    space.name: space
    for space in (
        _space(
            "resnet50d-imagenet",
            1000,
            tuple(range(128, 225, 16)),
            ((2, 3, 4), (2, 3, 4), (4, 5, 6), (2, 3, 4)),
            (0.2, 0.25, 0.35),
            (0.65, 0.8, 1.0),
            ResNetLayout(64, 2, True, (256, 512, 1024, 2048), (1, 2, 2, 2)),
        ),
        _space(
            "resnet-cifar",
            10,
            (24, 28, 32),
            ((1, 2), (1, 2), (1, 2)),
            (0.25, 0.5),
            (0.5, 0.75, 1.0),
            ResNetLayout(32, 1, False, (64, 128, 256), (1, 2, 2)),
        ),
    )
}
