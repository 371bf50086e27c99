"""Inverted residuals with elastic depth, kernel size and expansion ratio, as in Once-for-All (arXiv:1908.09791).

The blocks are MobileNetV3's (arXiv:1905.02244). With ReLU6, without squeeze-and-excite and with a shorter head they are
MobileNetV2's, on which ProxylessNAS builds (arXiv:1812.00332).
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import cast

from supernet.operators import Activation, Operator, Operators, Parallel, Part, downsampled, make_divisible
from supernet.space import Gene, SearchSpace, Value


@dataclass(frozen=True, slots=True)
class MobileNetV3Layout:
    """Widths and strides of the network around the elastic blocks.

    stem_width, stem_stride, stem_activation: the first convolution, 3 x 3. first_width, first_activation: the fixed
    block after the first convolution, 3 x 3 without expansion.
    widths, strides, activations, squeeze_excite: per stage; a stage's first block has the stride.
    head_width: channels of the last convolution before pooling. feature_width: channels of the layer between pooling
    and classifier; None: the classifier follows pooling. head_activation: the activation of both.
    norm_eps: the epsilon of every batch norm.
    """

    stem_width: int
    stem_stride: int
    widths: tuple[int, ...]
    strides: tuple[int, ...]
    activations: tuple[Activation, ...]
    squeeze_excite: tuple[bool, ...]
    head_width: int
    feature_width: int | None
    first_width: int
    stem_activation: Activation = "h_swish"
    first_activation: Activation = "relu"
    head_activation: Activation = "h_swish"
    norm_eps: float = 1e-5

    def parts(self, space: SearchSpace) -> tuple[Part, ...]:
        """Stem, every block, head."""
        parts = [Part("stem", (0,), lambda resolution: self._stem(space, int(resolution)))]
        for s, depths in enumerate(space.depths):
            for b in range(depths[-1]):
                first = space.gene_of_block(s, b)
                genes = (0, space.depth_gene(s), first, first + 1)
                parts.append(Part(f"stage{s + 1}.block{b + 1}", genes, partial(self._block, s, b)))
        parts.append(Part("head", (0,), lambda resolution: self._head(space, int(resolution))))
        return tuple(parts)

    def in_channels(self, stage: int, block: int) -> int:
        """Channels that enter a block (both from 0)."""
        return self.widths[stage] if block else (self.first_width, *self.widths)[stage]

    def _stem(self, space: SearchSpace, resolution: int) -> Operators:
        width, side, eps = self.stem_width, downsampled(resolution, self.stem_stride), self.norm_eps
        first = Operator(
            "conv", space.in_channels, width, resolution, 3, self.stem_stride,
            norm=True, norm_eps=eps, activation=self.stem_activation,
        )  # fmt: skip
        block = inverted_residual(
            width, width, self.first_width, side, 3, 1, self.first_activation, expand=False, norm_eps=eps
        )
        return (first, *block)

    def _block(
        self, stage: int, block: int, resolution: Value, depth: Value, kernel_size: Value, expand_ratio: Value
    ) -> Operators:
        if block >= depth:
            return ()
        in_channels = self.in_channels(stage, block)
        return inverted_residual(
            in_channels,
            expanded_width(in_channels, expand_ratio),
            self.widths[stage],
            downsampled(int(resolution), self.stem_stride, *self.strides[: stage + bool(block)]),
            int(kernel_size),
            1 if block else self.strides[stage],
            self.activations[stage],
            squeeze_excite=self.squeeze_excite[stage],
            norm_eps=self.norm_eps,
        )

    def _head(self, space: SearchSpace, resolution: int) -> Operators:
        side = downsampled(resolution, self.stem_stride, *self.strides)
        width, act = self.head_width, self.head_activation
        features = self.feature_width or width
        return (
            Operator("conv", self.widths[-1], width, side, norm=True, norm_eps=self.norm_eps, activation=act),
            Operator("pool", width, width, side),
            *((Operator("conv", width, features, 1, activation=act),) if self.feature_width else ()),
            Operator("linear", features, space.classes, 1, bias=True),
        )


def expanded_width(in_channels: int, expand_ratio: float) -> int:
    """Channels inside a block: input channels times the ratio, rounded to a multiple of 8 as in Once-for-All."""
    return make_divisible(round(in_channels * expand_ratio))


def squeezed_width(channels: int) -> int:
    """Channels inside squeeze-and-excite: a quarter, rounded to a multiple of 8."""
    return make_divisible(channels // 4)


def squeeze_and_excite(channels: int, side: int) -> Parallel:
    """Channel attention (arXiv:1709.01507), with the hard sigmoid of MobileNetV3."""
    squeezed = squeezed_width(channels)
    gate = (
        Operator("pool", channels, channels, side),
        Operator("conv", channels, squeezed, 1, bias=True, activation="relu"),
        Operator("conv", squeezed, channels, 1, bias=True, activation="h_sigmoid"),
    )
    return Parallel("multiply", ((), gate), channels, side)


def inverted_residual(
    in_channels: int, width: int, out_channels: int, side: int, kernel_size: int, stride: int, activation: Activation,
    *, squeeze_excite: bool = False, expand: bool = True, norm_eps: float = 1e-5,
) -> Operators:  # fmt: skip
    """Expansion, depthwise convolution, squeeze-and-excite, projection, residual (arXiv:1905.02244, figure 4)."""
    conv = partial(Operator, "conv", norm=True, norm_eps=norm_eps)
    out_side = downsampled(side, stride)
    body = (
        *((conv(in_channels, width, side, activation=activation),) if expand else ()),
        conv(width, width, side, kernel_size, stride, width, activation=activation),
        *((squeeze_and_excite(width, out_side),) if squeeze_excite else ()),
        conv(width, out_channels, out_side),
    )
    if stride == 1 and in_channels == out_channels:
        return (Parallel("add", ((), body), in_channels, side),)
    return body


KERNEL_SIZE = Gene("kernel_size", (3, 5, 7))


def _imagenet(name: str, width: float) -> SearchSpace:
    """Once-for-All's own space: stages of 2 to 4 blocks, kernel sizes 3, 5, 7, ratios 3, 4, 6."""
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
            first_width=stem,
        ),
    )


def _all_resolutions(space: SearchSpace) -> SearchSpace:
    """The same networks at the 25 image sizes at which Once-for-All was trained."""
    return replace(space, name=f"{space.name}-r25", resolutions=tuple(range(128, 225, 4)))


def _lite(space: SearchSpace) -> SearchSpace:
    """The same widths with ReLU6 everywhere and no squeeze-and-excite, as in EfficientNet-Lite.

    Accelerators and 8-bit arithmetic run such networks well: ReLU6 bounds every activation, and nothing needs a global
    pooling between two convolutions.
    """
    layout = space.layout
    assert isinstance(layout, MobileNetV3Layout)
    stages, relu6 = len(layout.widths), cast(Activation, "relu6")
    return replace(
        space,
        name=space.name.replace("mbv3-", "mbv3-lite-"),
        layout=replace(
            layout,
            activations=(relu6,) * stages,
            squeeze_excite=(False,) * stages,
            stem_activation=relu6,
            first_activation=relu6,
            head_activation=relu6,
        ),
    )


def _proxyless(name: str, width: float, depths: tuple[int, ...], ratios: tuple[int, ...]) -> SearchSpace:
    """ProxylessNAS's widths. depths: of the first five stages; the last one is a single block."""
    stem, first, *widths, head = (make_divisible(base * width) for base in (32, 16, 24, 40, 80, 96, 192, 320, 1280))
    return SearchSpace(
        name=name,
        family="mobilenetv3",
        classes=1000,
        in_channels=3,
        resolutions=tuple(range(112, 225, 16)),
        depths=(depths,) * 5 + ((1,),),
        block_genes=(KERNEL_SIZE, Gene("expand_ratio", ratios)),
        layout=MobileNetV3Layout(
            stem_width=stem,
            stem_stride=2,
            widths=tuple(widths),
            strides=(2, 2, 2, 1, 2, 1),
            activations=("relu6",) * 6,
            squeeze_excite=(False,) * 6,
            head_width=head,
            feature_width=None,
            first_width=first,
            stem_activation="relu6",
            first_activation="relu6",
            head_activation="relu6",
            norm_eps=1e-3,
        ),
    )


_DIGITS = SearchSpace(
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
        first_width=16,
    ),
)
_CIFAR = SearchSpace(
    name="mbv3-cifar",
    family="mobilenetv3",
    classes=10,
    in_channels=3,
    resolutions=(32,),
    depths=((1, 2), (1, 2), (1, 2)),
    block_genes=(Gene("kernel_size", (3, 5)), Gene("expand_ratio", (2, 3, 4))),
    layout=MobileNetV3Layout(
        stem_width=16,
        stem_stride=1,
        widths=(40, 80, 128),
        strides=(2, 2, 2),
        activations=("relu", "h_swish", "h_swish"),
        squeeze_excite=(True, True, True),
        head_width=480,
        feature_width=512,
        first_width=16,
    ),
)
_PHOTOS = SearchSpace(
    name="mbv3-photos",
    family="mobilenetv3",
    classes=10,
    in_channels=3,
    resolutions=(96, 112, 128, 144, 160),
    depths=((1, 2), (1, 2, 3), (1, 2, 3), (1, 2, 3), (1, 2, 3)),
    block_genes=(Gene("kernel_size", (3, 5)), Gene("expand_ratio", (2, 3, 4))),
    layout=MobileNetV3Layout(
        stem_width=16,
        stem_stride=2,
        widths=(16, 24, 48, 64, 112),
        strides=(2, 2, 2, 1, 2),
        activations=("relu", "relu", "h_swish", "h_swish", "h_swish"),
        squeeze_excite=(False, True, False, True, True),
        head_width=448,
        feature_width=640,
        first_width=16,
    ),
)

_W10, _W12 = _imagenet("mbv3-imagenet-w1.0", 1.0), _imagenet("mbv3-imagenet-w1.2", 1.2)

PRESETS = {
    space.name: space
    for space in (
        _DIGITS,
        _CIFAR,
        _PHOTOS,
        _W10,
        _W12,
        *map(_all_resolutions, (_W10, _W12)),
        *map(_lite, (_DIGITS, _CIFAR, _W10)),
        _proxyless("proxyless-imagenet-w1.3", 1.3, (2, 3, 4), (3, 4, 6)),  # ofa_proxyless_d234_e346_k357_w1.3
        _proxyless("proxyless-imagenet-w1.0", 1.0, (1, 2, 3, 4), (3, 6)),  # the search space of arXiv:1812.00332
    )
}
