"""The supernet is Once-for-All's: its published figures, its logits, its kernel transforms, its channel sort."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch

from supernet.families import preset, supernet_class
from supernet.layers import ElasticDepthwiseConv
from supernet.operators import live_elements
from supernet.space import Architecture
from tests.supernet.subnets import archs_of, images_for, supernet_of

OFA = Path(__file__).parents[1] / "fixtures" / "ofa"
SMALL = ["mbv3-digits", "mbv3-cifar"]


def test_published_subnets_have_their_published_multiply_adds_and_parameters() -> None:
    space = preset("mbv3-imagenet-w1.2")
    for published in json.loads((OFA / "published_subnets.json").read_text()):
        arch = Architecture.from_json({"resolution": published["resolution"], "stages": published["stages"]})
        records = space.operators(arch)
        assert round(sum(record.flops for record in records) / 1e6) == published["published_macs_m"]
        assert round(sum(record.params for record in records) / 1e6, 1) == published["published_params_m"]


def _ofa_names(space_depth: int = 4) -> dict[str, str]:
    """Our state-dict names to Once-for-All's."""
    conv, norm = "conv.weight", ("weight", "bias", "running_mean", "running_var")
    names = {"stem.0.conv.weight": "first_conv.conv.weight", "head.4.weight": "classifier.linear.weight"}
    names |= {f"stem.0.norm.{n}": f"first_conv.bn.{n}" for n in norm}
    for layer, theirs in (("0", "depth_conv"), ("1", "point_linear")):
        names[f"stem.1.branches.1.{layer}.{conv}"] = f"blocks.0.conv.{theirs}.{conv}"
        names |= {f"stem.1.branches.1.{layer}.norm.{n}": f"blocks.0.conv.{theirs}.bn.{n}" for n in norm}
    for block in range(20):
        ours, theirs = f"stages.{block // space_depth}.{block % space_depth}", f"blocks.{block + 1}.conv"
        for layer, other in (
            ("expand", "inverted_bottleneck"),
            ("depthwise", "depth_conv"),
            ("project", "point_linear"),
        ):
            names[f"{ours}.{layer}.weight"] = f"{theirs}.{other}.conv.conv.weight"
            names |= {f"{ours}.{layer}_norm.{n}": f"{theirs}.{other}.bn.bn.{n}" for n in norm}
        names[f"{ours}.depthwise.matrices.5"] = f"{theirs}.depth_conv.conv.7to5_matrix"
        names[f"{ours}.depthwise.matrices.3"] = f"{theirs}.depth_conv.conv.5to3_matrix"
        for layer in ("reduce", "expand"):
            for n in ("weight", "bias"):
                names[f"{ours}.squeeze_excite.{layer}.{n}"] = f"{theirs}.depth_conv.se.fc.{layer}.{n}"
    names["head.0.conv.weight"] = "final_expand_layer.conv.weight"
    names |= {f"head.0.norm.{n}": f"final_expand_layer.bn.{n}" for n in norm}
    return names | {"head.2.conv.weight": "feature_mix_layer.conv.weight", "head.4.bias": "classifier.linear.bias"}


def _generated(name: str, shape: tuple[int, ...]) -> torch.Tensor:
    """The weights with which Once-for-All's own code computed the fixture's logits."""
    rng = np.random.default_rng(zlib.crc32(f"public:{name}".encode()))
    z: np.ndarray = rng.standard_normal(shape).astype(np.float32)
    if name.endswith("running_var"):
        z = 1 + 0.1 * np.abs(z)
    elif name.endswith("running_mean"):
        z = 0.1 * z
    elif name.endswith("_matrix"):
        z = np.eye(shape[0], dtype=np.float32) + 0.05 * z
    elif len(shape) == 4:
        z = z * np.sqrt(2.0 / (shape[1] * shape[2] * shape[3]))
    elif name.endswith(".bn.weight"):
        z = 1 + 0.1 * z
    else:
        z = 0.05 * z
    return torch.from_numpy(np.asarray(z, np.float32))


@torch.no_grad()
def test_logits_equal_once_for_alls_own_on_generated_weights() -> None:
    fixture = json.loads((OFA / "ofa_mbv3_w10_parity.json").read_text())
    space = preset("mbv3-imagenet-w1.0")
    supernet = supernet_class(space.family)(space).eval()
    names = _ofa_names()
    state = supernet.state_dict()
    shapes = {key: tuple(shape) for key, shape in fixture["state_dict_shapes"].items()}
    loadable = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    assert {names[key]: tuple(value.shape) for key, value in loadable.items()} == {
        key: shape for key, shape in shapes.items() if not key.endswith("num_batches_tracked")
    }
    for key, value in loadable.items():
        value.copy_(_generated(names[key], tuple(value.shape)))
    for subnet in fixture["subnets"]:
        genes = list(zip(subnet["kernel_sizes"], subnet["expand_ratios"], strict=True))
        stages = tuple(tuple(genes[4 * s : 4 * s + depth]) for s, depth in enumerate(subnet["depths"]))
        arch = Architecture(subnet["resolution"], stages)
        seed = zlib.crc32(f"public:image:{arch.resolution}".encode())
        pixels = (
            np.random.default_rng(seed).standard_normal((2, 3, arch.resolution, arch.resolution)).astype(np.float32)
        )
        logits = supernet(torch.from_numpy(pixels), arch)
        expected = torch.tensor(subnet["logits"])
        assert (logits[:, :10] - expected).abs().max() <= 1e-4 * max(1.0, float(expected.abs().max()))
        records = space.operators(arch)
        assert sum(record.params for record in records) == subnet["params"]
        # The fixture's multiply-adds went through single precision: exact to half its spacing, 32 at 5.7e8.
        rounding = np.spacing(np.float32(subnet["macs"])) / 2
        assert abs(sum(record.flops for record in records) - subnet["macs"]) <= rounding


def test_a_smaller_kernel_is_the_transformed_centre_of_the_next_larger() -> None:
    conv = ElasticDepthwiseConv(4, (3, 5, 7), 1)
    conv.reset(torch.Generator().manual_seed(0))
    assert torch.equal(conv.weight_for(3, 3), conv.weight[:3, :, 2:5, 2:5])  # identity matrices: the plain centre
    matrix = torch.randn(25, 25, generator=torch.Generator().manual_seed(1))
    conv.matrices["5"].data.copy_(matrix)
    five = (conv.weight[:, 0, 1:6, 1:6].reshape(4, 25) @ matrix.T).view(4, 1, 5, 5)
    assert torch.allclose(conv.weight_for(4, 5), five)
    assert torch.allclose(conv.weight_for(4, 3), five[:, :, 1:4, 1:4])  # three comes by way of five


@pytest.mark.parametrize("name", SMALL)
@torch.no_grad()
def test_sorting_channels_leaves_the_largest_network_unchanged_and_keeps_the_important_ones(name: str) -> None:
    supernet = supernet_of(preset(name))
    arch = supernet.space.largest()
    images = images_for(supernet.space, arch.resolution)
    before = supernet(images, arch)
    supernet.sort_channels([[]] * supernet.space.num_genes)
    assert torch.allclose(supernet(images, arch), before, atol=1e-4)
    for key, weight in supernet.state_dict().items():
        if key.endswith("project.weight"):
            importance = weight.abs().sum((0, 2, 3))
            assert torch.all(importance[:-1] >= importance[1:])


@torch.no_grad()
def test_a_later_sort_keeps_the_outputs_of_widths_already_trained() -> None:
    supernet = supernet_of(preset("mbv3-digits"))
    trained = [
        arch for arch in archs_of(supernet.space, 40) if all(r in (3, 4) for stage in arch.stages for _, r in stage)
    ]
    arch = supernet.space.largest()
    trained.append(Architecture(16, tuple(tuple((kernel, 3) for kernel, _ in stage) for stage in arch.stages)))
    before = [supernet(images_for(supernet.space, arch.resolution), arch) for arch in trained]
    supernet.sort_channels(supernet.space.open_choices(expand_ratio=(3, 4)))
    for arch, expected in zip(trained, before, strict=True):
        assert torch.allclose(supernet(images_for(supernet.space, arch.resolution), arch), expected, atol=1e-4)


def test_images_of_another_side_than_the_resolution_are_refused() -> None:
    supernet = supernet_of(preset("mbv3-digits"))
    arch = supernet.space.largest()
    with pytest.raises(ValueError, match="images are 8x8 pixels; the architecture's resolution is 16"):
        supernet(torch.zeros(1, 1, 8, 8), arch)


def test_extracting_copies_so_that_changing_the_copy_leaves_the_supernet() -> None:
    supernet = supernet_of(preset("mbv3-digits"))
    before = {key: value.clone() for key, value in supernet.state_dict().items()}
    network = supernet.extract(supernet.space.largest())
    for parameter in network.parameters():
        parameter.data.zero_()
    assert all(torch.equal(value, before[key]) for key, value in supernet.state_dict().items())


def test_live_memory_of_one_block_is_what_its_tensors_add_up_to() -> None:
    space = preset("mbv3-digits")
    block = next(part for part in space.parts if part.name == "stage2.block2")
    records = block.operators(16, 2, 3, 2)  # 32 channels of 4 x 4, 64 inside, 16 squeezed
    inputs, inner, squeezed = 32 * 16, 64 * 16, 16
    assert live_elements(records) == [
        inputs + inner,
        inputs + inner + inner,
        inputs + inner + 64,
        inputs + inner + 64 + squeezed,
        inputs + inner + 64 + squeezed,
        inputs + inner + 64 + inner,
        inputs + inner + inputs,
        3 * inputs,
    ]
