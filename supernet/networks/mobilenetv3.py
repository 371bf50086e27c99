"""The supernet of the MobileNetV3 family: elastic inverted residuals between a fixed stem and head.

Kernel sizes share weights by learned transforms. The general `supernet.networks.sliced` cannot do that.
"""

import copy
from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from supernet.families.mobilenetv3 import MobileNetV3Layout, expanded_width, squeezed_width
from supernet.networks.elastic import ElasticBatchNorm, ElasticConv, ElasticDepthwiseConv, importance_order, permute
from supernet.networks.noise import residual_branch
from supernet.networks.pointwise import global_average
from supernet.networks.static import activation, static_layers
from supernet.networks.supernet import Supernet, initialise
from supernet.operators import Activation
from supernet.space import Architecture, SearchSpace


class ElasticSqueezeExcite(nn.Module):
    """Squeeze-and-excite whose width is an argument; the width inside follows from it."""

    def __init__(self, max_channels: int) -> None:
        super().__init__()
        self.reduce = ElasticConv(max_channels, squeezed_width(max_channels), bias=True)
        self.expand = ElasticConv(squeezed_width(max_channels), max_channels, bias=True)

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, H, W); returns (N, C, H, W)."""
        channels = x.shape[1]
        gate = torch.relu(self.reduce(global_average(x), squeezed_width(channels)))
        return x * nn.functional.hardsigmoid(self.expand(gate, channels))


class ElasticInvertedResidual(nn.Module):
    """Expansion, depthwise convolution, squeeze-and-excite, projection. Width and kernel size are arguments."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        act: Activation,
        kernel_sizes: Sequence[int],
        ratios: Sequence[float],
        *,
        squeeze_excite: bool,
        norm_eps: float,
    ) -> None:
        super().__init__()
        self.ratios = tuple(sorted(ratios))
        widest = expanded_width(in_channels, self.ratios[-1])
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.residual = stride == 1 and in_channels == out_channels
        self.expand = ElasticConv(in_channels, widest)
        self.expand_norm = ElasticBatchNorm(widest, norm_eps)
        self.depthwise = ElasticDepthwiseConv(widest, kernel_sizes, stride)
        self.depthwise_norm = ElasticBatchNorm(widest, norm_eps)
        self.squeeze_excite = ElasticSqueezeExcite(widest) if squeeze_excite else None
        self.project = ElasticConv(widest, out_channels)
        self.project_norm = ElasticBatchNorm(out_channels, norm_eps)
        self.act = activation(act)

    def forward(self, x: Tensor, kernel_size: int, ratio: float) -> Tensor:
        """x: (N, in_channels, H, W); returns (N, out_channels, H / stride, W / stride)."""
        y = self.act(self.expand_norm(self.expand(x, expanded_width(self.in_channels, ratio))))
        y = self.act(self.depthwise_norm(self.depthwise(y, kernel_size)))
        if self.squeeze_excite is not None:
            y = self.squeeze_excite(y)
        y = self.project_norm(self.project(y, self.out_channels))
        return x + residual_branch(y) if self.residual else y

    @torch.no_grad()
    def copy_to(self, static: nn.Module) -> None:
        """Copy weights and statistics into a static block that was made from one choice's operator records."""
        convs = [layer for layer in static.modules() if isinstance(layer, nn.Conv2d)]
        norms = [layer for layer in static.modules() if isinstance(layer, nn.BatchNorm2d)]
        elastic: list[ElasticConv | ElasticDepthwiseConv] = [self.expand, self.depthwise, self.project]
        if self.squeeze_excite is not None:
            elastic[2:2] = [self.squeeze_excite.reduce, self.squeeze_excite.expand]
        for layer, conv in zip(elastic, convs, strict=True):
            layer.copy_to(conv)
        for elastic_norm, norm in zip([self.expand_norm, self.depthwise_norm, self.project_norm], norms, strict=True):
            elastic_norm.copy_to(norm)

    @torch.no_grad()
    def sort_channels(self, open_ratios: Sequence[float]) -> None:
        """Put the most important inner channels first, by the L1 norm of the projection's weights that read them."""
        cuts = [expanded_width(self.in_channels, ratio) for ratio in open_ratios]
        order = importance_order(self.project.weight.abs().sum((0, 2, 3)), cuts)
        for tensor in (self.expand.weight, self.depthwise.weight):
            permute(tensor, order)
        for norm in (self.expand_norm, self.depthwise_norm):
            for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
                permute(tensor, order)
        permute(self.project.weight, order, 1)
        if self.squeeze_excite is None:
            return
        reduce, expand = self.squeeze_excite.reduce, self.squeeze_excite.expand
        permute(expand.weight, order)
        permute(expand.bias, order)
        permute(reduce.weight, order, 1)
        squeezed = importance_order(expand.weight.abs().sum((0, 2, 3)), [squeezed_width(cut) for cut in cuts])
        permute(reduce.weight, squeezed)
        permute(reduce.bias, squeezed)
        permute(expand.weight, squeezed, 1)


class MobileNetV3Supernet(Supernet):
    """Once-for-All's elastic MobileNetV3 (arXiv:1908.09791)."""

    def __init__(self, space: SearchSpace, generator: torch.Generator | None = None) -> None:
        """Draw fresh weights from `generator`; with None, leave them to be loaded."""
        super().__init__(space)
        layout = space.layout
        assert isinstance(layout, MobileNetV3Layout)
        parts = {part.name: records for part, records in space.part_operators(space.largest())}
        kernel_sizes, ratios = (gene.choices for gene in space.block_genes)
        self.stem = static_layers(parts["stem"])
        self.stages = nn.ModuleList()
        for s, depths in enumerate(space.depths):
            blocks = nn.ModuleList()
            for b in range(depths[-1]):
                blocks.append(
                    ElasticInvertedResidual(
                        layout.in_channels(s, b),
                        layout.widths[s],
                        layout.strides[s] if b == 0 else 1,
                        layout.activations[s],
                        [int(kernel_size) for kernel_size in kernel_sizes],
                        ratios,
                        squeeze_excite=layout.squeeze_excite[s],
                        norm_eps=layout.norm_eps,
                    )
                )
            self.stages.append(blocks)
        self.head = static_layers(parts["head"])
        if generator is not None:
            initialise(self, generator)

    def forward(self, images: Tensor, arch: Architecture) -> Tensor:
        """(N, classes) logits of one subnet. images: (N, C, R, R), normalised, R = arch.resolution."""
        self.check_image_size(images, arch)
        x = self.stem(images)
        for blocks, stage in zip(self.stages, arch.stages, strict=True):
            for block, (kernel_size, ratio) in zip(blocks, stage, strict=False):  # a stage keeps its first blocks
                x = block(x, kernel_size, ratio)
        return self.head(x)

    @torch.no_grad()
    def extract(self, arch: Architecture) -> nn.Sequential:
        """The subnet as a plain static network with its own copy of the weights and statistics."""
        network: OrderedDict[str, nn.Module] = OrderedDict()
        network["stem"] = copy.deepcopy(self.stem)
        records = {part.name: records for part, records in self.space.part_operators(arch)}
        for s, blocks in enumerate(self.stages, 1):
            for b, block in enumerate(blocks[: len(arch.stages[s - 1])], 1):
                name = f"stage{s}.block{b}"
                static = static_layers(records[name]).to(next(self.parameters()))
                block.copy_to(static)
                network[name.replace(".", "_")] = static
        network["head"] = copy.deepcopy(self.head)
        return nn.Sequential(network).train(self.training)

    def sort_channels(self, trained: Sequence[Sequence[int]]) -> None:
        """Reorder the inner channels of every block, within the segments between expansion ratios already trained."""
        for s, blocks in enumerate(self.stages):
            for b, block in enumerate(blocks):
                gene = self.space.gene_of_block(s, b) + 1
                block.sort_channels([self.space.genes[gene].choices[choice] for choice in trained[gene]])
