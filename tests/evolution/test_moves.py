"""Moves as a table against what the space enumerates one by one."""

import numpy as np
import pytest

from evolution.choices import Choices
from evolution.moves import Moves
from supernet.families import preset
from supernet.space import Genomes, SearchSpace
from tests.support.neighbours import neighbours
from tests.support.tiny import TINY

SPACES = [TINY, preset("mbv3-digits"), preset("mbv3-imagenet-w1.2")]


def distinct(genomes: Genomes) -> set[bytes]:
    return {genome.tobytes() for genome in genomes}


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_neighbours_are_those_of_the_space(space: SearchSpace) -> None:
    moves = Moves(Choices(space))
    for genome in space.sample(np.random.default_rng(0), 20):
        made = moves.neighbours(genome)
        assert distinct(made) == distinct(neighbours(space, genome))
        assert len(distinct(made)) == len(made)


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_two_moves_make_the_neighbours_of_the_neighbours(space: SearchSpace) -> None:
    moves = Moves(Choices(space))
    for genome in space.sample(np.random.default_rng(1), 3):
        once = neighbours(space, genome)
        twice = set.union(distinct(once), *(distinct(neighbours(space, near)) for near in once))
        made = moves.within_two(genome)
        assert distinct(made) == twice - {genome.tobytes()}
        assert len(distinct(made)) == len(made)
        assert (made == space.canonical(made)).all()
