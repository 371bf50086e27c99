"""The supernet is Once-for-All's: its published figures, its logits, its kernel transforms, its channel sort."""

import json
from pathlib import Path

import pytest
import torch

from supernet.costs.memory import live_elements
from supernet.families import preset
from supernet.networks.elastic import ElasticDepthwiseConv
from supernet.space import Architecture
from tests.support.subnets import archs_of, images_for, supernet_of

OFA = Path(__file__).parents[1] / "fixtures" / "ofa"
SMALL = ["mbv3-digits", "mbv3-cifar"]


def test_published_subnets_have_their_published_multiply_adds_and_parameters() -> None:
    space = preset("mbv3-imagenet-w1.2")
    for published in json.loads((OFA / "published_subnets.json").read_text()):
        arch = Architecture.from_json({"resolution": published["resolution"], "stages": published["stages"]})
        records = space.operators(arch)
        assert round(sum(record.flops for record in records) / 1e6) == published["published_macs_m"]
        assert round(sum(record.params for record in records) / 1e6, 1) == published["published_params_m"]


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


def test_images_of_another_size_than_the_resolution_are_refused() -> None:
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
