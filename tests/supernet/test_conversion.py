"""Networks become supernets: the largest subnet is the network, every other one is the network with parts masked.

`test_families.py` runs on the same spaces: costs, extraction, files and training.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evolution.costs import CostTables
from evolution.limits import Constraint
from evolution.problem import Problem
from evolution.search import Search
from supernet.conversion.convert import Conversion, convert
from supernet.conversion.trace import ConversionError
from supernet.export.parity import export_subnet
from supernet.families import space_from_json, supernet_class
from supernet.networks.static import static_layers
from tests.support.networks import CLASSES, NETWORKS, SIZE, conv_norm, with_random_statistics
from tests.support.subnets import images_for, supernet_of
from tests.support.tiny import smooth_accuracy


@pytest.fixture(scope="module")
def converted() -> Callable[[str], tuple[nn.Module, Conversion]]:
    made: dict[str, tuple[nn.Module, Conversion]] = {}

    def get(name: str) -> tuple[nn.Module, Conversion]:
        if name not in made:
            network = with_random_statistics(NETWORKS[name]())
            made[name] = network, convert(network, SIZE, name)
        return made[name]

    return get


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_every_subnet_is_the_network_with_masked_channels_and_blocks(name: str, converted: Any) -> None:
    network, conversion = converted(name)
    space = conversion.space
    images = images_for(space, SIZE)
    largest = space.largest()
    assert largest.resolution == SIZE
    assert (conversion.supernet(images, largest) - network(images)).abs().max() <= 1e-5
    assert network(images).abs().max() > 0.05  # so that a wrong channel shows
    for genome in space.sample(np.random.default_rng(0), 20):
        arch = space.decode(genome).at(SIZE)
        expected = conversion.masked(network, arch)(images)
        assert (conversion.supernet(images, arch) - expected).abs().max() <= 1e-5
        assert (expected - network(images)).abs().max() > 1e-3 or arch == largest


@pytest.mark.parametrize("name", NETWORKS)
@torch.no_grad()
def test_a_converted_network_is_exported(name: str, converted: Any) -> None:
    conversion = converted(name)[1]
    space = conversion.space
    for arch in (space.largest(), space.decode(space.sample(np.random.default_rng(1), 1)[0])):
        images = images_for(space, arch.resolution)
        export_subnet(conversion.supernet.extract(arch).eval(), images)  # compares onnxruntime with torch


@pytest.mark.parametrize(
    ("name", "extra", "depths", "widths"),
    [
        ("cifar-resnet", {}, ((1, 2), (2, 3, 4), (1, 2)), (0.5, 1.0)),
        # The stem feeds a block that changes the shape, so it is elastic. Grouped convolutions: multiples of 8.
        ("squeezed-resnext", {"0.0.width": (0.25, 0.75, 1.0)}, ((1, 2), (1, 2)), (0.25, 0.75, 1.0)),
        # The first stage: a block that changes the shape and two that keep it.
        (
            "mobilenet",
            {
                "classifier.0.width": (0.25, 0.5, 0.75, 1.0),
                "features.3.expand.0.0.width": (0.25, 0.5, 0.75, 1.0),
                "features.3.project.0.width": (0.25, 0.5, 0.75, 1.0),
                "features.4.expand.0.0.width": (0.25, 0.5, 0.75, 1.0),
                "features.4.project.0.width": (0.25, 0.5, 0.75, 1.0),
                "head.width": (0.25, 0.5, 0.75, 1.0),
                "stem.0.0.width": (0.5, 1.0),
            },
            ((2, 3),),
            (0.25, 0.5, 0.75, 1.0),
        ),
        ("pre-activation-resnet", {"0.width": (0.5, 1.0)}, ((2, 3),), (0.25, 0.5, 0.75, 1.0)),
        (
            "same-padded",
            {
                "0.width": (0.5, 1.0),
                "6.width": (0.25, 0.75, 1.0),
                "9.width": (0.25, 0.5, 0.75, 1.0),
            },
            (),
            None,
        ),
        (
            "plain",
            {
                "conv1.width": (0.5, 1.0),
                "conv2.width": (0.25, 0.75, 1.0),
                "conv3.width": (0.25, 0.5, 0.75, 1.0),
                "fc1.width": (0.25, 0.5, 0.75, 1.0),
                "fc2.width": (0.25, 0.75, 1.0),
            },
            (),
            None,
        ),
    ],
)
def test_the_space_of_a_network(
    name: str, extra: dict[str, Any], depths: Any, widths: tuple[float, ...] | None, converted: Any
) -> None:
    space = converted(name)[1].space
    assert {gene.name: gene.choices for gene in space.extra_genes} == extra
    assert space.depths == depths
    if widths is not None:
        assert next(gene for gene in space.genes if gene.name == "stage1.block1.width").choices == widths
    assert space.resolutions == ((32,) if name == "plain" else (16, 20, 24, 28, 32))
    assert space_from_json(space.to_json()) == space
    assert space_from_json(space.to_json()).hash == space.hash


def test_a_part_depends_on_few_genes(converted: Any) -> None:
    for name in NETWORKS:
        space = converted(name)[1].space
        assert max(len(part.genes) for part in space.parts) <= 3, name  # the resolution, and two more
        assert CostTables(space).num_entries < 800


def test_what_is_not_elastic_is_listed_with_the_reason(converted: Any) -> None:
    assert converted("cifar-resnet")[1].left_whole == {
        "conv1": "in a sum",
        "layer2.0.conv2": "in a sum",
        "layer3.0.conv2": "in a sum",
        "linear": "the logits",
    }
    network = with_random_statistics(nn.Sequential(*conv_norm(3, 8, 3), *conv_norm(8, 24), *END))
    conversion = convert(network, SIZE, "narrow")
    assert conversion.left_whole["0"] == "8 channels are fewer than two choices, multiples of 8, need"
    grouped = nn.Sequential(*conv_norm(3, 16, 3), *conv_norm(16, 32, 3, groups=4), *conv_norm(32, 24), *END)
    reasons = convert(with_random_statistics(grouped), SIZE, "grouped").left_whole
    assert reasons["0"] == reasons["2"] == "2 has 4 groups of unequal inputs and outputs"


END = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, CLASSES))


def test_the_most_important_channels_come_first() -> None:
    network = with_random_statistics(nn.Sequential(*conv_norm(3, 32, 3), nn.ReLU(), *conv_norm(32, 24), *END))
    (group, _) = convert(network, SIZE, "sorted").groups
    norm, reader = network[1], network[3]
    assert isinstance(norm, nn.BatchNorm2d)
    assert isinstance(reader, nn.Conv2d)
    importance = reader.weight.abs().sum((0, 2, 3)) * norm.weight.abs()
    assert importance[group.order].diff().max() <= 0
    assert sorted(group.order.tolist()) == list(range(32))
    assert group.readers == ("3",)


def test_a_group_of_a_grouped_convolution_stays_together(converted: Any) -> None:
    groups = converted("squeezed-resnext")[1].groups
    group = next(group for group in groups if "6.body.5.0" in group.readers)
    assert group.channels.unit == 8
    by_fours = group.order.view(-1, 4)
    assert torch.equal(by_fours, by_fours[:, :1] + torch.arange(4))
    assert not torch.equal(group.order, torch.arange(64))


def test_another_number_of_classes_and_of_image_channels(converted: Any) -> None:
    space = replace(converted("mobilenet")[1].space, classes=3, in_channels=1)
    supernet = supernet_of(space)
    assert supernet(images_for(space, 16), space.smallest().at(16)).shape == (2, 3)


def test_a_supernet_converts_into_the_costs_of_its_largest_subnet(converted: Any) -> None:
    conversion = converted("mobilenet")[1]
    space = conversion.space
    again = convert(conversion.supernet.extract(space.largest()), SIZE, "again").space
    for arch, other in ((space.largest(), again.largest()), (space.smallest(), again.smallest())):
        pair = [CostTables(s) for s in (space, again)]
        genomes = [s.encode(a)[None] for s, a in ((space, arch), (again, other))]
        assert pair[0].flops(genomes[0]) == pair[1].flops(genomes[1])


@pytest.mark.parametrize("name", ["cifar-resnet", "plain"])
def test_a_converted_space_is_searched_under_limits(name: str, converted: Any) -> None:
    space = converted(name)[1].space
    tables = CostTables(space)
    rng = np.random.default_rng(0)
    genomes = space.sample(rng, 200)
    limit = float(np.quantile(tables.flops(genomes), 0.2))
    problem = Problem(tables, smooth_accuracy(space, rng), (Constraint(tables.flops_cost, limit),))
    result = Search(problem, seed=0).run_to_end()
    assert tables.flops(result.best[None])[0] <= limit
    assert tables.flops_cost.eliminated.minimum.min() == tables.flops(space.encode(space.smallest())[None])[0]


def test_conversion_leaves_the_network_as_it_is() -> None:
    network = NETWORKS["mobilenet"]().train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    convert(network, SIZE, "untouched")
    assert network.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())


# What is refused.


class Function(nn.Module):
    """A convolution, a function of its output, and a classifier."""

    def __init__(self, function: Callable[..., Tensor]) -> None:
        super().__init__()
        self.function = function
        self.conv = nn.Conv2d(3, 16, 3, padding=1)
        self.other = nn.Conv2d(3, 16, 3, padding=1)
        self.same = nn.Conv2d(16, 16, 3, padding=1)
        self.scale = nn.Parameter(torch.ones(16, 1, 1))
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.pool(self.function(self, self.conv(x), x)).flatten(1))


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (
            lambda net, y, x: torch.cat([y, net.other(x)], 1),
            r"node 'cat' \(cat\) is not covered; concatenated channels",
        ),
        (lambda net, y, x: F.layer_norm(y, y.shape[1:]), "layer_norm.* layer norm cannot share its statistics"),
        (lambda net, y, x: y if y.sum() > 0 else -y, "cannot be traced.* depends on the values of tensors"),
        (lambda net, y, x: y.chunk(2, 1)[0], "'chunk'.* is not covered"),
        (lambda net, y, x: y * net.scale, "'mul'.* reads the tensor 'scale' of the network directly"),
        (lambda net, y, x: net.same(net.same(y)), "layer 'same' runs a second time"),
        (lambda net, y, x: y * y.mean(1, keepdim=True), "mean over 1; only over height and width"),
        (lambda net, y, x: F.conv2d(y, net.same.weight, padding=1), "'conv2d'.* use torch.nn.Conv2d"),
        (lambda net, y, x: F.dropout(y), "dropout runs in evaluation, too; pass training=self.training"),
        (lambda net, y, x: y * 2, "node 'mul' multiplies with a number"),
        (lambda net, y, x: y + 1, "node 'add' adds a number"),
        (lambda net, y, x: F.interpolate(y, scale_factor=2), "'interpolate'.* is not covered"),
        (lambda net, y, x: y - net.other(x), "'sub'.* is not covered"),
        (lambda net, y, x: y.transpose(2, 3), "'transpose'.* is not covered"),
        (lambda net, y, x: y + F.relu(y) * net.same(y) + net.same(F.relu(y)), "runs a second time"),
        (lambda net, y, x: F.max_pool2d(y, 3, 2, ceil_mode=True), "ceil_mode"),
        (lambda net, y, x: F.pad(y, (1, 1, 1, 1)), "node 'pad' pads a map for something else than a convolution"),
        (lambda net, y, x: net.same(F.pad(y, (0, 1))), r"padding by \(0, 1\); only zeros, equal at the top and left"),
    ],
)
def test_a_function_that_is_not_covered_is_refused(function: Callable[..., Tensor], message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        convert(Function(function), SIZE, "refused")


class Crossing(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.end = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES))

    def forward(self, x: Tensor) -> Tensor:
        a = self.a(x)
        b = self.b(a)
        return self.end(self.c(a + b) + b)


class TwoInputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.conv(x) + y


class TwoOutputs(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.conv(x)
        return y, F.relu(y)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Crossing(), "node 'b' feeds branches that join in different places"),
        (TwoInputs(), "forward needs 2 inputs, x and y; give all but the images a default"),
        (TwoOutputs(), "returns more than one tensor; return the logits alone"),
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 10)), "Sequential has no convolution"),
        (nn.Sequential(nn.Conv2d(3, 8, (1, 3)), *END), r"kernel_size is \(1, 3\); height and width must be equal"),
        (nn.Sequential(nn.Conv2d(3, 8, 3, padding="same"), *END), "padding must be in pixels"),
        (nn.Sequential(nn.Conv2d(3, 24, 3), nn.GroupNorm(2, 24), *END), "layer '1', GroupNorm.* use batch norm"),
        (nn.Sequential(nn.Conv2d(3, 24, 3), nn.PReLU(), *END), "layer '1', PReLU.* the layers covered are"),
        (nn.Sequential(nn.Conv2d(3, 24, 3), nn.GELU("tanh"), *END), "GELU's approximation 'tanh'"),
        (nn.Sequential(nn.Conv2d(3, 24, 3), nn.BatchNorm2d(24, affine=False), *END), "needs running statistics, and a"),
        (nn.Sequential(nn.Conv2d(3, 24, 3), *END, nn.LogSoftmax(1)), "LogSoftmax.* return the logits"),
        (nn.Sequential(nn.Conv2d(3, 24, 3)), "returns a map; return .N, classes."),
        (nn.Sequential(nn.Conv2d(3, 24, 3), nn.Flatten(), nn.Linear(24, 10)), "does not run on images of 3 x 32 x 32"),
        (nn.Sequential(nn.Conv2d(3, 24, 3), nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(1176, 10)), "only to 1"),
    ],
)
def test_a_network_that_is_not_covered_is_refused(network: nn.Module, message: str) -> None:
    with pytest.raises(ConversionError, match=message):
        convert(network, SIZE, "refused")


@pytest.mark.parametrize("size", [30, 0])
def test_an_image_size_off_the_grid_is_refused(size: int) -> None:
    with pytest.raises(ConversionError, match=f"the image size is {size}; a multiple of 4"):
        convert(NETWORKS["plain"](), size, "refused")


def test_resolutions_can_be_named() -> None:
    network = NETWORKS["cifar-resnet"]()
    assert convert(network, SIZE, "one", [SIZE]).space.resolutions == (SIZE,)
    assert convert(network, SIZE, "two", [20]).space.resolutions == (20, SIZE)
    with pytest.raises(ConversionError, match="a resolution is 36; multiples of 4 from 4 to the image size, 32"):
        convert(network, SIZE, "larger", [SIZE + 4])
    with pytest.raises(ConversionError, match="does not run at the resolution 20, only at 32: a layer needs a map of"):
        convert(NETWORKS["plain"](), SIZE, "fixed", [20])


class Subclass(nn.Conv2d):
    """A convolution with a forward of its own, which must not pass for a plain one."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * 2


def test_a_layer_with_a_forward_of_its_own_is_not_taken_for_its_parent() -> None:
    with pytest.raises(ConversionError, match="node 'mul' multiplies with a number"):
        convert(nn.Sequential(Subclass(3, 24, 3), *END), SIZE, "refused")


def test_static_layers_of_a_converted_space_are_plain_layers(converted: Any) -> None:
    space = converted("plain")[1].space
    for _, records in space.part_operators(space.largest()):
        assert static_layers(records) is not None
    assert supernet_class(space.family).__name__ == "SlicedSupernet"
