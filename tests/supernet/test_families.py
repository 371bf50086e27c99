"""Every family alike: subnets equal the supernet, records equal what torch runs, weights are shared as they should."""

import copy
import gc
import math
import operator
import weakref
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields, replace
from importlib.metadata import EntryPoint
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp
from torch.utils.flop_counter import FlopCounterMode

from evolution.costs import CostTables
from supernet import families
from supernet.conversion.convert import convert
from supernet.costs.architecture import of_architecture
from supernet.costs.filesize import fixed_bytes
from supernet.costs.memory import live_elements
from supernet.export.parity import check_parity
from supernet.export.writer import LayerTracer, to_onnx
from supernet.families import Family, preset, presets, space_from_json, supernet_class
from supernet.families.mobilenetv2 import MobileNetV2Layout
from supernet.families.resnet import bottleneck
from supernet.families.shufflenetv2 import ShuffleNetV2Layout
from supernet.networks import sliced
from supernet.networks.sliced import SlicedSupernet
from supernet.networks.static import static_layers
from supernet.networks.supernet import Supernet
from supernet.operators import Kind, Operator, Operators, Parallel, Part, block_key
from supernet.space import Architecture, Gene, SearchSpace, Value
from tests.support.neighbours import neighbours
from tests.support.networks import NETWORKS, SIZE
from tests.support.subnets import archs_of, images_for, supernet_of

PROXYLESS = replace(
    preset("proxyless-imagenet-w1.3"),
    name="proxyless-small",
    resolutions=(40, 56),
    layout=replace(
        preset("proxyless-imagenet-w1.3").layout,  # type: ignore[type-var]
        stem_width=16,
        first_width=8,
        widths=(16, 16, 24, 24, 32, 40),
        head_width=48,
    ),
)
SMALL = {
    space.name: space
    for space in (
        preset("mbv3-digits"),
        preset("mbv3-cifar"),
        preset("mbv3-lite-digits"),
        preset("mbv3-lite-cifar"),
        PROXYLESS,
        replace(preset("fairnas-cifar"), resolutions=(12, 16)),
        replace(preset("spos-cifar"), resolutions=(16,)),
        replace(preset("spos-cifar-channels"), resolutions=(12, 16)),
        replace(preset("resnet-cifar"), resolutions=(12, 16)),
        *(convert(make(), SIZE, f"converted-{name}").space for name, make in NETWORKS.items()),
    )
}
SLOW_LEARNERS = ("converted-plain", "converted-same-padded")  # some of their layers have no batch norm
LARGE = sorted(presets().keys() - SMALL.keys())


def space_of(name: str) -> SearchSpace:
    return SMALL.get(name) or preset(name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("mbv3-digits", 24),
        ("mbv3-cifar", 16),
        ("mbv3-lite-digits", 20),
        ("mbv3-lite-cifar", 10),
        ("proxyless-small", 24),
        ("fairnas-cifar", 24),
        ("spos-cifar", 16),
        ("spos-cifar-channels", 24),
        ("resnet-cifar", 24),
        *((f"converted-{name}", 12) for name in NETWORKS),
    ],
)
@torch.no_grad()
def test_an_extracted_network_equals_the_supernet(name: str, count: int) -> None:
    space = SMALL[name]
    supernet = supernet_of(space)
    for arch in archs_of(space, count):
        images = images_for(space, arch.resolution, 1)
        expected = supernet(images, arch)
        actual = supernet.extract(arch)(images)
        assert (actual - expected).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
@torch.no_grad()
def test_a_full_size_network_equals_the_supernet_and_its_file(name: str) -> None:
    space = preset(name)
    supernet = supernet_of(space)
    arch = replace(archs_of(space, 1)[-1], resolution=space.resolutions[0])
    images = images_for(space, arch.resolution, 1)
    network = supernet.extract(arch)
    expected = supernet(images, arch)
    assert (network(images) - expected).abs().max() <= 1e-5 * max(1.0, float(expected.abs().max()))
    check_parity(to_onnx(network, tuple(images.shape[1:])), network, images)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SMALL, *LARGE])
@torch.no_grad()
def test_costs_are_what_torch_counts_on_the_extracted_network(name: str) -> None:
    space = space_of(name)
    with torch.device("meta"):
        supernet = supernet_class(space.family)(space).eval()
    for arch in archs_of(space, 2 if name in SMALL else 0):
        with torch.device("meta"):
            network = supernet.extract(arch)
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, space.in_channels, arch.resolution, arch.resolution, device="meta"))
        costs = of_architecture(space, arch)
        assert costs["flops"] * 2 == counter.get_total_flops()
        assert costs["params"] == sum(p.numel() for p in network.parameters())
        assert costs["peak_memory_bytes"] == 4 * peak_by_walking(network, space.in_channels, arch.resolution)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet-cifar", "spos-cifar", "proxyless-small", "mbv3-cifar"])
@torch.no_grad()
def test_costs_are_exact_at_any_multiple_of_four(name: str) -> None:
    space = SMALL[name]
    with torch.device("meta"):
        network = supernet_class(space.family)(space).eval().extract(space.largest())
    for resolution in (4, 36, 100):
        with FlopCounterMode(display=False) as counter:
            network(torch.empty(1, space.in_channels, resolution, resolution, device="meta"))
        costs = of_architecture(space, space.largest().at(resolution))
        assert costs["flops"] * 2 == counter.get_total_flops()
        assert costs["peak_memory_bytes"] == 4 * peak_by_walking(network, space.in_channels, resolution)
    with pytest.raises(ValueError, match="resolution is 30; a multiple of 4"):
        of_architecture(space, space.largest().at(30))


def peak_by_walking(network: nn.Module, channels: int, resolution: int) -> int:
    """Elements alive at most, by a walk over the traced network: made when written, freed after the last read."""
    trace = LayerTracer().trace(network)
    graph = fx.GraphModule(network, trace)
    ShapeProp(graph).propagate(torch.empty(1, channels, resolution, resolution, device="meta"))
    activations = (nn.ReLU, nn.ReLU6, nn.Hardswish, nn.Hardsigmoid, nn.SiLU, nn.GELU, nn.Sigmoid)
    in_place = (nn.BatchNorm2d, nn.Identity, nn.Flatten, *activations)
    modules = dict(network.named_modules())
    tensors: dict[fx.Node, list[int]] = {}  # node: the tensors it stands for
    sizes: list[int] = []
    last_read: list[int] = []
    made: list[int] = []
    for step, node in enumerate(graph.graph.nodes):
        read = [tensor for argument in node.all_input_nodes for tensor in tensors[argument]]
        if node.op == "output":
            continue
        if node.target is operator.getitem:
            tensors[node] = [tensors[node.args[0]][node.args[1]]]
        elif node.op == "call_module" and isinstance(modules[node.target], in_place) and len(node.args[0].users) == 1:
            tensors[node] = read
        else:
            shapes = node.meta["tensor_meta"]
            for shape in shapes if node.target == "chunk" else [shapes]:
                tensors.setdefault(node, []).append(len(sizes))
                sizes.append(math.prod(shape.shape))
                made.append(step)
                last_read.append(step)
        for tensor in read if node.target is not operator.getitem else tensors[node]:
            last_read[tensor] = step
    alive = [
        sum(size for size, start, end in zip(sizes, made, last_read, strict=True) if start <= step <= end)
        for step in set(made[1:])
    ]
    return max(alive)


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_records_describe_the_extracted_layers_in_order(name: str) -> None:
    space = SMALL[name]
    supernet = supernet_of(space)
    for arch in archs_of(space, 5):
        seen: list[tuple[Any, ...]] = []

        def record(layer: nn.Conv2d, inputs: tuple[Tensor, ...], output: Tensor, seen: Any = seen) -> None:
            side = (inputs[0].shape[-1], output.shape[-1])
            kernel = (layer.kernel_size[0], layer.stride[0], layer.groups, layer.bias is not None)
            seen.append((layer.in_channels, layer.out_channels, *side, *kernel))

        network = supernet.extract(arch)
        for layer in network.modules():
            if isinstance(layer, nn.Conv2d):
                layer.register_forward_hook(record)
        network(images_for(space, arch.resolution))
        assert seen == [
            (r.in_channels, r.out_channels, r.side, r.out_side, r.kernel_size, r.stride, r.groups, r.bias)
            for r in space.operators(arch)
            if r.kind == "conv"
        ]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SMALL, *LARGE])
def test_tables_give_the_costs_of_every_architecture(name: str) -> None:
    space = space_of(name)
    tables = CostTables(space)
    genomes = space.sample(np.random.default_rng(0), 20)
    wanted = [of_architecture(space, space.decode(genome)) for genome in genomes]
    for cost, compute in (
        ("flops", tables.flops),
        ("params", tables.params),
        ("model_bytes", tables.model_bytes),
        ("peak_memory_bytes", tables.peak_memory_bytes),
    ):
        assert compute(genomes).tolist() == [costs[cost] for costs in wanted], cost


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SMALL, "mbv3-imagenet-w1.0", "spos-imagenet-channels", "proxyless-imagenet-w1.3"])
@pytest.mark.parametrize("longest", [False, True])
@torch.no_grad()
def test_the_file_is_at_most_as_large_as_predicted_and_hardly_smaller(name: str, longest: bool) -> None:
    space = space_of(name)
    supernet = supernet_class(space.family)(space).eval()
    classes = [f"class number {number}" for number in range(space.classes)]
    for arch in archs_of(space, 3 if name in SMALL else 0):
        metadata = metadata_of(space, arch, classes, longest=longest)
        data = to_onnx(supernet.extract(arch), (space.in_channels, arch.resolution, arch.resolution), metadata)
        predicted = of_architecture(space, arch, classes)["model_bytes"]
        assert len(data) <= predicted <= 1.01 * len(data) + 4096


def metadata_of(space: SearchSpace, arch: Architecture, classes: list[str], *, longest: bool) -> dict[str, str]:
    """What `supernet.export.parity.export_metadata` writes, with numbers as long or as short as they can be."""
    import json

    from supernet.bundle import Bundle
    from supernet.data import Normalization
    from supernet.export.parity import export_metadata

    number = -1.2345678901234567e-101 if longest else 0.5
    bundle = Bundle.__new__(Bundle)
    object.__setattr__(bundle, "hash", "0" * 64)
    object.__setattr__(
        bundle,
        "manifest",
        {
            "space": space.to_json(),
            "classes": classes,
            "normalization": {"mean": [number] * space.in_channels, "std": [abs(number)] * space.in_channels},
        },
    )
    assert bundle.normalization == Normalization((number,) * space.in_channels, (abs(number),) * space.in_channels)
    accuracy = abs(number) if longest else None
    metadata = export_metadata(bundle, arch, predicted_accuracy=accuracy, verified_accuracy=accuracy)
    assert json.loads(metadata["classes"]) == classes
    return metadata


@pytest.mark.parametrize(
    ("name", "hash_start", "key"),
    [
        ("mbv3-digits", "c3e8e026d1919d2f", "940a81ddb6aca135"),
        ("resnet-cifar", "9246af02a0173f5e", "4b39997d72b40aaa"),
        ("spos-cifar", "9341deab102c444b", "31bc1be3746bcca0"),
    ],
)
def test_the_names_in_stored_bundles_and_latency_tables_stay_valid(name: str, hash_start: str, key: str) -> None:
    space = preset(name)
    assert space.hash.startswith(hash_start)
    records = (record for _, part in space.part_operators(space.largest()) for record in part)
    assert block_key(tuple(records)) == key


def test_what_every_file_holds_grows_with_the_names_of_the_classes() -> None:
    space = preset("mbv3-digits")
    names = ["a" * 100] * 10
    assert fixed_bytes(space, names) - fixed_bytes(space) == 99 * 10


# How weights are shared.


def test_choice_blocks_have_weights_of_their_own_and_their_channels_are_slices() -> None:
    space = SMALL["spos-cifar-channels"]
    supernet = supernet_of(space)
    names = [name for name in supernet.state_dict() if name.startswith("shared.stage1_block1__")]
    assert {name.split(".")[1] for name in names} == {f"stage1_block1__{choice}" for choice in range(4)}
    arch = space.smallest()
    one_scale = Architecture(arch.resolution, tuple(tuple((0, 1.0) for _ in stage) for stage in arch.stages))
    wide = {id(p) for p in touched(supernet, one_scale)}
    assert wide == {id(p) for p in touched(supernet, arch)}  # another scale, the same tensors
    other = Architecture(arch.resolution, tuple(tuple((1, 1.0) for _ in stage) for stage in arch.stages))
    shared = wide & {id(p) for p in touched(supernet, other)}
    ends = ("stem", "head")
    assert shared == {id(p) for name, p in supernet.named_parameters() if name.split(".")[1] in ends}


def touched(supernet: Supernet, arch: Architecture) -> list[nn.Parameter]:
    """The parameters that get a gradient."""
    supernet.zero_grad(set_to_none=True)
    supernet.train()(images_for(supernet.space, arch.resolution), arch).sum().backward()
    return [parameter for parameter in supernet.parameters() if parameter.grad is not None]


@pytest.mark.parametrize("name", ["resnet-cifar", "spos-cifar-channels", "fairnas-cifar"])
def test_training_a_subnet_moves_its_own_slices_and_statistics_alone(name: str) -> None:
    space = SMALL[name]
    supernet = supernet_of(space)
    before = {key: value.clone() for key, value in supernet.state_dict().items()}
    arch = space.smallest()
    for parameter in touched(supernet, arch):
        assert parameter.grad is not None
        parameter.data -= parameter.grad
    network = supernet.eval().extract(arch)
    own = {id(value) for value in before.values()}
    assert len(own) == len(before)
    assert isinstance(supernet, SlicedSupernet)
    moved = {key for key, value in supernet.state_dict().items() if not torch.equal(value, before[key])}
    kept = {part.name.replace(".", "_") for part, _ in space.part_operators(arch)}
    assert {key.split(".")[1].split("__")[0] for key in moved} == kept
    shapes = dict(network.state_dict())
    for key in moved:
        _, part, name_inside = key.split(".", 2)
        size = tuple(slice(n) for n in shapes[f"{part.split('__')[0]}.{name_inside}"].shape)
        outside = supernet.state_dict()[key].clone(), before[key].clone()
        for tensor in outside:
            tensor[size] = 0
        assert torch.equal(*outside), key


@pytest.mark.parametrize("name", ["resnet-cifar", "spos-cifar-channels"])
@torch.no_grad()
def test_sorting_channels_keeps_the_outputs_of_widths_already_trained(name: str) -> None:
    space = SMALL[name]
    supernet = supernet_of(space)
    gene = {"resnet-cifar": "expand_ratio", "spos-cifar-channels": "channel_scale"}[name]
    (choices,) = {one.choices for one in space.block_genes if one.name == gene}
    opened = {gene: choices[-2:]} | ({"width": (0.75, 1.0), "expand_ratio": (0.5,)} if name == "resnet-cifar" else {})
    trained = space.open_choices(**opened)
    archs = [space.largest(), *map(space.decode, space.sample(np.random.default_rng(3), 10, trained))]
    narrow = [space.smallest(), *map(space.decode, space.sample(np.random.default_rng(4), 5))]
    before = [supernet(images_for(space, arch.resolution), arch) for arch in archs]
    narrow_before = [supernet(images_for(space, arch.resolution), arch) for arch in narrow]
    supernet.sort_channels(trained)
    for arch, expected in zip(archs, before, strict=True):
        assert torch.allclose(supernet(images_for(space, arch.resolution), arch), expected, atol=1e-3, rtol=1e-4)
    after = [supernet(images_for(space, arch.resolution), arch) for arch in narrow]
    assert not all(torch.allclose(a, b, atol=1e-3) for a, b in zip(after, narrow_before, strict=True))


@torch.no_grad()
def test_the_first_sort_puts_the_channels_that_are_read_most_first() -> None:
    space = SMALL["resnet-cifar"]
    supernet = supernet_of(space)
    images, arch = images_for(space, 16), space.largest()
    before = supernet(images, arch)
    supernet.sort_channels([[]] * space.num_genes)
    assert torch.allclose(supernet(images, arch), before, atol=1e-3, rtol=1e-4)
    for part in ("stage1_block1", "stage3_block2"):
        convs = [m for m in supernet.get_submodule(f"shared.{part}").modules() if isinstance(m, nn.Conv2d)]
        for reader in convs[-2:]:  # the 3 x 3 and the last 1 x 1
            importance = reader.weight.abs().sum((0, 2, 3))
            assert torch.all(importance[:-1] >= importance[1:])


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in SMALL if name[:4] != "mbv3" and name not in SLOW_LEARNERS])
def test_a_supernet_learns(name: str) -> None:
    space = replace(SMALL[name], classes=2)
    supernet = supernet_class(space.family)(space, torch.Generator().manual_seed(0)).train()
    optimiser = torch.optim.Adam(supernet.parameters(), 0.003)
    labels = torch.arange(16) % 2
    losses = []
    genomes = np.tile(space.sample(np.random.default_rng(0), 2), (10, 1))
    genomes[:, 0] = 0
    noise = images_for(space, space.resolutions[0], 16)
    images = noise + labels.view(-1, 1, 1, 1) * torch.linspace(-2, 2, space.resolutions[0])
    for genome in genomes:
        loss = F.cross_entropy(supernet(images, space.decode(genome)), labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert np.mean(losses[-4:]) < 0.5 * np.mean(losses[:4])


def test_a_copy_on_another_device_runs_on_its_own_tensors() -> None:
    space = SMALL["resnet-cifar"]
    supernet = supernet_of(space)
    arch = space.smallest()
    images = images_for(space, arch.resolution)
    expected = supernet(images, arch)
    supernet.double()
    assert supernet(images.double(), arch).dtype == torch.double
    assert torch.allclose(supernet.extract(arch)(images.double()), supernet(images.double(), arch))
    assert torch.allclose(supernet(images.double(), arch).float(), expected, atol=1e-4)


@pytest.mark.parametrize("name", ["mbv3-digits", "spos-cifar", "fairnas-cifar", "resnet-cifar"])
@torch.no_grad()
def test_a_subnet_runs_at_resolutions_that_are_no_choice_of_the_space(name: str) -> None:
    space = preset(name)
    supernet = supernet_of(space)
    arch = space.smallest().at(20)
    images = images_for(space, 20)
    assert torch.allclose(supernet.extract(arch)(images), supernet(images, arch), atol=1e-5)


@torch.no_grad()
def test_tensors_that_are_replaced_are_those_that_run() -> None:
    space = SMALL["resnet-cifar"]
    supernet, other = supernet_of(space), supernet_class(space.family)(space, torch.Generator()).eval()
    arch = space.smallest()
    images = images_for(space, arch.resolution)
    expected = supernet(images, arch)
    assert not torch.allclose(other(images, arch), expected)
    other.load_state_dict(supernet.state_dict(), assign=True)
    assert torch.equal(other(images, arch), expected)
    other.get_submodule("shared").double()
    assert torch.allclose(other(images.double(), arch).float(), expected, atol=1e-4)


def test_static_networks_of_a_thread_are_freed_with_the_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    space = SMALL["resnet-cifar"]
    supernet = supernet_of(space)
    made: list[weakref.ref[nn.Module]] = []

    def spied(records: Operators) -> nn.Sequential:
        network = static_layers(records)
        made.append(weakref.ref(network))
        return network

    monkeypatch.setattr(sliced, "static_layers", spied)
    arch = space.smallest()
    images = images_for(space, arch.resolution)
    with torch.no_grad(), ThreadPoolExecutor(1) as pool:
        logits = pool.submit(supernet, images, arch).result()
        assert made
        assert all(network() is not None for network in made)
        assert torch.equal(copy.deepcopy(supernet)(images, arch), logits)
    del logits
    gc.collect()
    assert all(network() is None for network in made)


@pytest.mark.parametrize("name", ["resnet-cifar", "fairnas-cifar"])
def test_threads_do_not_see_each_others_slices(name: str) -> None:
    space = SMALL[name]
    supernet = supernet_of(space)
    archs = archs_of(space, 10) * 4

    @torch.no_grad()
    def run(arch: Architecture) -> Tensor:
        return supernet(images_for(space, arch.resolution), arch)

    expected = list(map(run, archs))
    with ThreadPoolExecutor(4) as pool:
        assert all(map(torch.equal, pool.map(run, archs), expected))


# Published figures.


def blocks(space: SearchSpace, values: list[tuple[Value, ...]]) -> Architecture:
    rest = iter(values)
    stages = tuple(tuple(next(rest) for _ in range(depths[-1])) for depths in space.depths)
    return Architecture(space.resolutions[-1], stages)


def test_single_path_one_shots_published_network_has_its_published_cost() -> None:
    """328 M and 3.4 M: github.com/megvii-model/ShuffleNet-Series, OneShot/README.md and network.py."""
    space = preset("spos-imagenet-channels")
    choices = [0, 0, 3, 1, 1, 1, 0, 0, 2, 0, 2, 1, 1, 0, 2, 0, 2, 1, 3, 2]
    scales = [6, 5, 3, 5, 2, 6, 3, 4, 2, 5, 7, 5, 4, 6, 7, 4, 4, 5, 4, 3]  # indices into 0.2, 0.4, ...
    arch = blocks(space, [(choice, round(0.2 * (i + 1), 1)) for choice, i in zip(choices, scales, strict=True)])
    costs = of_architecture(space, arch)
    assert costs["flops"] == pytest.approx(328e6, rel=0.01)
    assert round(costs["params"] / 1e6, 1) == 3.4


@pytest.mark.parametrize(
    ("choices", "flops", "params"),
    [
        ("2 0 2 3 5 0 0 5 5 1 3 1 1 3 3 5 3 5 4", 388, 4.6),
        ("1 0 1 0 3 1 2 0 3 1 0 3 2 0 5 4 5 3 4", 345, 4.5),
        ("1 0 2 0 0 0 0 0 0 3 0 0 0 0 5 5 3 3 4", 321, 4.4),
    ],
)
def test_fairnas_published_networks_have_their_published_cost(choices: str, flops: int, params: float) -> None:
    """FairNAS-A, B and C: arXiv:1907.01845, table 1; their operators from github.com/xiaomi-automl/FairNAS, models/."""
    space = preset("fairnas-imagenet")
    costs = of_architecture(space, blocks(space, [(int(choice),) for choice in choices.split()]))
    assert costs["flops"] == pytest.approx(flops * 1e6, rel=0.01)
    assert costs["params"] == pytest.approx(params * 1e6, rel=0.015)


@pytest.mark.parametrize(
    ("widths", "head", "flops", "params"),
    [
        ((48, 96, 192), 1024, 41, 1.4),
        ((116, 232, 464), 1024, 146, 2.3),
        ((176, 352, 704), 1024, 299, 3.5),
        ((244, 488, 976), 2048, 591, 7.4),
    ],
)
def test_shufflenetv2_has_its_published_cost(widths: tuple[int, ...], head: int, flops: int, params: float) -> None:
    """Arxiv:1807.11164, table 8; parameters: github.com/megvii-model/ShuffleNet-Series, README.md."""
    layout = ShuffleNetV2Layout(24, 2, True, widths, (2, 2, 2), head, bias=True)
    choice = (Gene("choice", (0, 1, 2, 3)),)
    space = SearchSpace("shufflenetv2", "shufflenetv2", 1000, 3, (224,), ((4,), (8,), (4,)), choice, layout)
    costs = of_architecture(space, space.smallest())
    assert costs["flops"] == pytest.approx(flops * 1e6, rel=0.015)  # 41 M is printed for 40.5 M
    assert round(costs["params"] / 1e6, 1) == params


def test_mobilenetv2_has_its_published_cost() -> None:
    """300 M and 3.4 M: arXiv:1801.04381, table 4; 3,504,872 parameters: torchvision's `mobilenet_v2`."""
    widths, depths = (24, 32, 64, 96, 160, 320), ((2,), (3,), (4,), (3,), (3,), (1,))
    layout = MobileNetV2Layout(32, 2, 16, widths, (2, 2, 2, 1, 2, 1), 1280, ((3, 6),))
    space = SearchSpace("mobilenetv2", "mobilenetv2", 1000, 3, (224,), depths, (Gene("choice", (0,)),), layout)
    costs = of_architecture(space, space.smallest())
    assert costs["flops"] == pytest.approx(300e6, rel=0.01)
    assert costs["params"] == 3_504_872


def test_resnet50d_has_its_published_cost() -> None:
    """4.3 G: arXiv:1812.01187, table 5; 25.58 M: timm's results, resnet50d."""
    space = preset("resnet50d-imagenet")
    extra = tuple((name, 1) for name, _ in space.largest().extra)
    arch = Architecture(224, tuple(((0.25,),) * depth for depth in (3, 4, 6, 3)), extra)
    costs = of_architecture(space, arch)
    assert costs["flops"] == pytest.approx(4.3e9, rel=0.01)
    assert round(costs["params"] / 1e6, 2) == 25.58


@pytest.mark.parametrize("name", [*SMALL, *LARGE])
def test_different_genomes_are_different_networks(name: str) -> None:
    space = space_of(name)
    genomes = np.unique(space.sample(np.random.default_rng(0), 100), axis=0)
    near = [neighbours(space, genome) for genome in genomes[:1]]
    genomes = np.unique(np.concatenate([genomes, *near]), axis=0)
    ids = {space.id(genome) for genome in genomes}
    networks = {tuple(records for _, records in space.part_operators(space.decode(genome))) for genome in genomes}
    assert len(ids) == len(genomes) == len(networks)


# The interface to a family.


def test_a_stage_reads_the_width_that_the_one_before_puts_out() -> None:
    space = preset("resnet50d-imagenet")
    arch = space.largest()
    narrow = Architecture(
        arch.resolution, arch.stages, tuple((k, 0.65 if k == "stage1.width" else v) for k, v in arch.extra)
    )
    changed = {
        part.name
        for (part, a), (_, b) in zip(space.part_operators(arch), space.part_operators(narrow), strict=True)
        if a != b
    }
    assert changed == {f"stage1.block{b}" for b in range(1, 5)} | {"stage2.block1"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"stage2.width": 0.7}, "stage2.width is 0.7; its choices are 0.5, 0.75, 1.0"),
        ({"stages": [[[0.3]] * 3, [[0.25]], [[0.25]]]}, "stage1.depth is 3; its choices are 1, 2"),
        (
            {"stages": [[[0.3]], [[0.25]], [[0.25]]]},
            "stage1.block1.expand_ratio is 0.3; its choices are 0.25, 0.5",
        ),
        ({"stem.residual": 2}, "stem.residual is 2; its choices are 0, 1"),
    ],
)
def test_an_architecture_outside_its_space_is_refused(change: dict[str, Any], message: str) -> None:
    space = preset("resnet-cifar")
    with pytest.raises(ValueError, match=message):
        space.encode(Architecture.from_json({**space.smallest().to_json(), **change}))
    with pytest.raises(ValueError, match=r"stage1.block1.choice is 4; its choices are 0, 1, 2, 3"):
        preset("spos-cifar").encode(Architecture(32, (((4,),) * 2, ((0,),) * 4, ((0,),) * 2)))


def test_memory_of_a_bottleneck_by_hand() -> None:
    records = bottleneck(64, 128, 8, 2, 0.25)  # averaged to 4 x 4, widened to 128; 32 channels inside
    x, pooled, shortcut, inner, small, out = 64 * 64, 64 * 16, 128 * 16, 32 * 64, 32 * 16, 128 * 16
    assert live_elements(records) == [
        x + pooled,
        x + pooled + shortcut,  # the main branch still waits for x
        shortcut + x + inner,
        shortcut + inner + small,
        shortcut + small + out,
        shortcut + out + out,
    ]


def test_choices_that_run_different_operators_need_paths_of_their_own() -> None:
    space = preset("fairnas-cifar")

    class NoPaths(MobileNetV2Layout):
        def parts(self, space: SearchSpace) -> tuple[Part, ...]:
            return tuple(replace(part, paths=()) for part in super().parts(space))

    layout = NoPaths(**{field.name: getattr(space.layout, field.name) for field in fields(MobileNetV2Layout)})
    with pytest.raises(ValueError, match=r"the choices of stage1.block1 cannot share weights.*Part.paths"):
        SlicedSupernet(replace(space, layout=layout))


def space_around(block: Callable[[Value], Operators], choices: tuple[Value, ...], *, path: bool = False) -> SearchSpace:
    """A convolution to 8 channels of 4 x 4, a part made by one gene, a classifier."""

    class Around:
        def parts(self, space: SearchSpace) -> tuple[Part, ...]:
            stem, pool = Operator("conv", 1, 8, 4, 3, norm=True), Operator("pool", 8, 8, 4)
            return (
                Part("stem", (0,), lambda side: (stem,)),
                Part("block", (2,), block, paths=(2,) if path else ()),
                Part("head", (0,), lambda side: (pool, Operator("linear", 8, space.classes, 1))),
            )

    return SearchSpace("around", "mobilenetv2", 3, 1, (4,), ((1,),), (Gene("choice", choices),), Around())


def with_choice(choice: Value) -> Architecture:
    return Architecture(4, (((choice,),),))


def test_branches_of_different_length_need_paths_of_their_own() -> None:
    conv = Operator("conv", 8, 8, 4, norm=True)

    def block(choice: Value) -> Operators:
        return (Parallel("add", ((), (conv,) * int(choice)), 8, 4),)

    with pytest.raises(ValueError, match=r"the choices of block cannot share weights.*Part.paths"):
        SlicedSupernet(space_around(block, (1, 2)))
    space = space_around(block, (1, 2), path=True)
    supernet, images = SlicedSupernet(space, torch.Generator()).eval(), images_for(space, 4)
    for arch in (with_choice(1), with_choice(2)):
        assert torch.equal(supernet.extract(arch)(images), supernet(images, arch))


def test_a_path_may_be_to_leave_the_part_out() -> None:
    space = space_around(lambda choice: (Operator("conv", 8, 8, 4),) * int(choice), (0, 1), path=True)
    supernet, images = SlicedSupernet(space, torch.Generator()).eval(), images_for(space, 4)
    supernet.sort_channels(space.open_choices())
    skipped, kept = (with_choice(choice) for choice in (0, 1))
    assert [name for name, _ in supernet.extract(skipped).named_children()] == ["stem", "head"]
    assert torch.equal(supernet.extract(skipped)(images), supernet(images, skipped))
    assert not torch.allclose(supernet(images, kept), supernet(images, skipped))


@torch.no_grad()
def test_sorting_leaves_the_channels_of_grouped_convolutions_where_they_are() -> None:
    def block(_: Value) -> Operators:
        return Operator("conv", 8, 8, 4), Operator("conv", 8, 8, 4, 3, groups=2), Operator("conv", 8, 8, 4)

    space = space_around(block, (0,))
    supernet, images = SlicedSupernet(space, torch.Generator()).eval(), images_for(space, 4)
    before = supernet(images, space.largest())
    supernet.sort_channels([[]] * space.num_genes)
    assert torch.allclose(supernet(images, space.largest()), before, atol=1e-5)


def test_parts_need_names_of_their_own() -> None:
    class Twice(MobileNetV2Layout):
        def parts(self, space: SearchSpace) -> tuple[Part, ...]:
            return tuple(replace(part, name=part.name.replace("block2", "block1")) for part in super().parts(space))

    space = preset("fairnas-cifar")
    layout = Twice(**{field.name: getattr(space.layout, field.name) for field in fields(MobileNetV2Layout)})
    with pytest.raises(ValueError, match="more than one part is called stage1_block1, stage2_block1, stage3_block1;"):
        SlicedSupernet(replace(space, layout=layout))


@pytest.mark.parametrize(
    ("kind", "kernel", "stride", "message"),
    [
        ("conv", 2, 2, "conv has kernel size 2; .* odd"),
        ("max_pool", 2, 2, "max_pool has kernel size 2; .* odd"),
        ("avg_pool", 3, 2, "avg_pool has kernel size 3 and stride 2; they must be equal"),
    ],
)
def test_windows_whose_outputs_are_of_another_size_are_refused(
    kind: Kind, kernel: int, stride: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        Operator(kind, 8, 8, 8, kernel, stride)


class TwoConvolutions(MobileNetV2Layout):
    """A family of another package: a stem and a head, nothing else."""

    def parts(self, space: SearchSpace) -> tuple[Part, ...]:
        stem, *_, head = super().parts(space)
        between = Operator("conv", self.first_width, self.widths[-1], 1, norm=True)
        return stem, Part("between", (0,), lambda side: (replace(between, side=int(side) // 2),)), head


PRESETS = {
    "theirs": SearchSpace(
        "theirs", "theirs", 3, 1, (8,), ((1,),), (), TwoConvolutions(8, 2, 8, (16,), (1,), 16, ((3, 3),))
    )
}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Another package whose entry point names the family above."""
    point = EntryPoint("theirs", f"{__name__}:FAMILY", families.GROUP)
    monkeypatch.setattr(families, "entry_points", lambda group: [point] if group == families.GROUP else [])
    families.families.cache_clear()
    yield
    families.families.cache_clear()


FAMILY = Family(f"{__name__}:TwoConvolutions")


@pytest.mark.usefixtures("installed")
def test_a_family_of_another_package_is_found_by_its_entry_point() -> None:
    space = preset("theirs")
    assert space_from_json(space.to_json()) == space
    supernet = supernet_of(space)
    images = images_for(space, 8)
    network = supernet.extract(space.largest())
    assert torch.equal(network(images), supernet(images, space.largest()))
    onnx.checker.check_model(onnx.load_from_string(to_onnx(network, (1, 8, 8))))
    assert (
        CostTables(space).flops(space.encode(space.largest())[None])[0]
        == of_architecture(space, space.largest())["flops"]
    )


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("broken", "PRESETS", "is .*PRESETS, not a Family"),
        ("resnet", "FAMILY", "family 'resnet' of .* is already taken"),
    ],
)
def test_an_entry_point_that_is_no_family_is_refused(
    name: str, value: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    point = EntryPoint(name, f"{__name__}:{value}", families.GROUP)
    monkeypatch.setattr(families, "entry_points", lambda group: [point])
    families.families.cache_clear()
    with pytest.raises(ValueError, match=message):
        families.families()
    families.families.cache_clear()


def test_every_family_has_a_supernet_and_a_preset() -> None:
    assert {space.family for space in presets().values()} == families.families().keys() - {"converted"}
    for name in families.families():
        assert issubclass(supernet_class(name), Supernet)


@pytest.mark.parametrize("name", ["mbv3-lite-digits", "mbv3-lite-cifar", "mbv3-lite-imagenet-w1.0"])
def test_lite_networks_have_relu6_alone_and_pool_once(name: str) -> None:
    space, heavy = preset(name), preset(name.replace("-lite", ""))
    assert replace(space, name=heavy.name, layout=heavy.layout) == heavy
    for arch in archs_of(space, 3):
        records = space.operators(arch)
        assert {record.activation for record in records} == {"relu6", None}
        assert [record.kind for record in records].count("pool") == 1  # before the classifier, so none to multiply with
