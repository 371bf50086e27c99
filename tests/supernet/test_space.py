"""Architectures and genomes: identity, canonical form, moves, errors."""

import json
import subprocess
import sys
from dataclasses import replace
from itertools import product
from typing import cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from supernet.families import preset, presets, space_from_json
from supernet.families.mobilenetv3 import MobileNetV3Layout
from supernet.operators import make_divisible
from supernet.space import Architecture, Gene, SearchSpace
from tests.support.neighbours import neighbours
from tests.support.tiny import TINY, enumerate_space

SPACES = sorted(presets())


def tiny() -> SearchSpace:
    """Two resolutions, two stages of one or two blocks, two binary genes a block: 2 * (4 + 16)^2 = 800 subnets."""
    space = preset("mbv3-digits")
    return replace(
        space,
        resolutions=(8, 16),
        depths=((1, 2), (1, 2)),
        block_genes=(Gene("kernel_size", (3, 5)), Gene("expand_ratio", (2, 3))),
        layout=replace(
            cast(MobileNetV3Layout, space.layout),
            widths=(24, 32),
            strides=(2, 1),
            activations=("relu", "relu"),
            squeeze_excite=(False, True),
        ),
    )


def every_genome(space: SearchSpace) -> np.ndarray:
    everything = np.array(list(product(*(range(n) for n in space.num_choices))), np.int8)
    return np.unique(space.canonical(everything), axis=0)


@pytest.mark.parametrize("name", SPACES)
def test_genome_to_architecture_and_back_is_the_identity(name: str) -> None:
    space = preset(name)
    genomes = space.sample(np.random.default_rng(0), 200)
    assert np.array_equal(space.canonical(genomes), genomes)
    for genome in genomes:
        arch = space.decode(genome)
        assert np.array_equal(space.encode(arch), genome)
        assert Architecture.from_json(json.loads(json.dumps(arch.to_json()))) == arch


@pytest.mark.parametrize("name", SPACES)
def test_a_space_survives_json_with_its_hash(name: str) -> None:
    space = preset(name)
    again = space_from_json(json.loads(json.dumps(space.to_json())))
    assert again == space
    assert again.hash == space.hash
    assert replace(space, classes=space.classes + 1).hash != space.hash


def test_genes_of_dropped_blocks_do_not_change_the_subnet() -> None:
    space = preset("mbv3-digits")
    genome = np.zeros(space.num_genes, np.int8)
    other = genome.copy()
    other[space.gene_of_block(0, 1)] = 2  # the second block of a stage of depth 1
    assert space.id(other) == space.id(genome)
    assert space.decode(other) == space.decode(genome)
    other[space.depth_gene(0)] = 1  # now it is kept
    assert space.id(other) != space.id(genome)


def test_the_enumeration_of_a_tiny_space_has_one_id_per_subnet() -> None:
    space = tiny()
    genomes = every_genome(space)
    assert len(genomes) == 2 * (4 + 16) ** 2
    assert len({space.id(genome) for genome in genomes}) == len(genomes)
    assert len({space.decode(genome) for genome in genomes}) == len(genomes)


def test_neighbours_are_symmetric_distinct_and_connect_the_space() -> None:
    space = tiny()
    reached = {space.decode(np.zeros(space.num_genes, np.int8))}
    frontier = list(reached)
    while frontier:
        arch = frontier.pop()
        moves = [space.decode(genome) for genome in neighbours(space, space.encode(arch))]
        assert len(set(moves)) == len(moves)
        assert arch not in moves
        for move in moves:
            if move not in reached:
                reached.add(move)
                frontier.append(move)
    assert len(reached) == len(every_genome(space))
    one = space.encode(space.largest())
    for genome in neighbours(space, one):
        assert any(np.array_equal(one, back) for back in neighbours(space, genome))


def test_neighbours_are_exactly_the_moves_counted_by_hand() -> None:
    space = tiny()
    # Smallest: 1 resolution move, 2 living blocks with 2 binary genes (4), 2 stages grow with 4 choices each (8).
    assert len(neighbours(space, space.encode(space.smallest()))) == 1 + 4 + 8
    # Largest: 1 resolution move, 4 living blocks (8), 2 stages shrink (2).
    assert len(neighbours(space, space.encode(space.largest()))) == 1 + 8 + 2


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_sampling_is_seeded_canonical_and_within_the_open_choices(seed: int) -> None:
    space = preset("mbv3-imagenet-w1.0")
    open_choices = space.open_choices(kernel_size=(7,), depth=(3, 4))
    genomes = space.sample(np.random.default_rng(seed), 8, open_choices)
    assert np.array_equal(genomes, space.sample(np.random.default_rng(seed), 8, open_choices))
    for genome in genomes:
        for stage in space.decode(genome).stages:
            assert len(stage) in (3, 4)
            assert all(kernel == 7 for kernel, _ in stage)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"resolution": 100}, "resolution is 100; its choices are 8, 12, 16"),
        ({"stages": [[[3, 2]], [[3, 2]]]}, "2 stages given; mbv3-digits has 3"),
        ({"stages": [[[9, 2]], [[3, 2]], [[3, 2]]]}, "stage1.block1.kernel_size is 9; its choices are 3, 5, 7"),
        ({"stages": [[[3, 2]], [[3, 8]], [[3, 2]]]}, "stage2.block1.expand_ratio is 8; its choices are 2, 3, 4"),
        ({"stages": [[[3, 2]] * 3, [[3, 2]], [[3, 2]]]}, "stage1.depth is 3; its choices are 1, 2"),
        ({"stages": [[[3]], [[3, 2]], [[3, 2]]]}, "stage1.block1 has 1 values"),
        ({"width": 2}, "has no gene 'width'"),
        ({"resolution": 8.5}, "a whole number is needed"),
        ({"resolution": True}, "a number is needed"),
        ({"resolution": float("inf")}, "resolution holds inf; a number is needed"),
        ({"resolution": 10**400}, "resolution holds 1000.*; a number is needed, smaller than"),
        ({"stages": [[[float("nan"), 2]], [[3, 2]], [[3, 2]]]}, "stage 1 holds nan"),
        ({"stages": "no"}, "list of blocks"),
        ({"stages": None}, "an architecture is written"),
    ],
)
def test_an_architecture_outside_its_space_is_refused_by_gene_value_and_choices(
    change: dict[str, object], message: str
) -> None:
    space = preset("mbv3-digits")
    with pytest.raises(ValueError, match=message):
        space.encode(Architecture.from_json({**space.smallest().to_json(), **change}))


@pytest.mark.parametrize("names", [("b", "a"), ("a", "a"), ("resolution",), ("stages",)])
def test_extra_genes_have_an_order_and_keys_of_their_own(names: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="extra genes need names in ascending order, other than resolution and stages"):
        replace(preset("mbv3-digits"), extra_genes=tuple(Gene(name, (0, 1)) for name in names))


def test_a_stage_keeps_its_greatest_depth_where_all_that_are_asked_are_greater() -> None:
    space = replace(preset("mbv3-digits"), depths=((1,), (1, 2), (2, 3)))
    opened = space.open_choices(depth=(2,))
    assert [opened[space.depth_gene(stage)] for stage in range(3)] == [[0], [1], [0]]
    with pytest.raises(ValueError, match=r"stage3\.depth: none of"):
        space.open_choices(depth=(1,))


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown space 'nope'"):
        preset("nope")
    with pytest.raises(ValueError, match="has no gene 'kernels'"):
        preset("mbv3-digits").open_choices(kernels=(3,))
    with pytest.raises(ValueError, match="none of"):
        preset("mbv3-digits").open_choices(kernel_size=(11,))
    with pytest.raises(ValueError, match="not a search space"):
        space_from_json({"family": "mobilenetv3"})


@pytest.mark.parametrize(("width", "expected"), [(1.0, (24, 40, 80, 112, 160)), (1.2, (32, 48, 96, 136, 192))])
def test_imagenet_stage_widths_are_once_for_alls(width: float, expected: tuple[int, ...]) -> None:
    space = preset(f"mbv3-imagenet-w{width}")
    assert space.layout.widths == expected  # type: ignore[attr-defined]
    assert space.resolutions == tuple(range(112, 225, 16))


@pytest.mark.parametrize(("value", "expected"), [(16, 16), (19.2, 24), (28.8, 32), (67.2, 64), (134.4, 136), (3, 8)])
def test_make_divisible(value: float, expected: int) -> None:
    assert make_divisible(value) == expected


def test_the_space_does_not_load_torch() -> None:
    code = "import sys, supernet.families as f; f.presets(); assert 'torch' not in sys.modules, 'torch was loaded'"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_the_number_of_architectures_is_that_of_all_canonical_genomes() -> None:
    assert tiny().num_architectures == 800
    assert TINY.num_architectures == len(enumerate_space(TINY))
    assert by_block().num_architectures == len(enumerate_space(by_block())) == 2 * (2 + 2 * 4) * (4 + 4 * 1)


def by_block() -> SearchSpace:
    """The tiny space, whose blocks have choices of their own."""
    choices = (((3,), (2, 3)), ((3, 5), (2, 3))), (((3, 5), (2, 3)), ((5,), (3,)))
    return replace(tiny(), block_choices=choices)


def test_blocks_may_have_choices_of_their_own() -> None:
    space = by_block()
    assert [gene.choices for gene in space.genes[3:]] == [(3,), (2, 3), (3, 5), (2, 3), (3, 5), (2, 3), (5,), (3,)]
    assert space.largest().stages == (((3, 3), (5, 3)), ((5, 3), (5, 3)))
    assert space_from_json(space.to_json()) == space
    assert space.hash != tiny().hash
    with pytest.raises(ValueError, match=r"stage1\.block1\.kernel_size is 5; its choices are 3"):
        space.encode(tiny().largest())


def test_choices_of_blocks_that_do_not_fit_the_depths_are_refused() -> None:
    with pytest.raises(ValueError, match="block_choices need choices for each gene of each block"):
        replace(tiny(), block_choices=((((3,), (2,)),), (((3,), (2,)),)))
