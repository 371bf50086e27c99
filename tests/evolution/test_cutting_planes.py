"""Cutting planes against linear programs, and the bounds that they lead to."""

import doctest

import numpy as np
import pytest
from scipy.optimize import linprog

from evolution import cutting_planes
from evolution.cutting_planes import Planes


@pytest.mark.parametrize("limits", [1, 2, 4])
@pytest.mark.parametrize("seed", range(5))
def test_the_highest_point_is_that_of_the_linear_program(seed: int, limits: int) -> None:
    rng = np.random.default_rng([seed, limits])
    planes, values, slopes = Planes(limits, largest=8.0), rng.normal(0, 1, 12), rng.normal(0, 1, (12, limits))
    for count in range(1, 13):
        planes.add(float(values[count - 1]), slopes[count - 1])
        multipliers, height = planes.highest()
        program = linprog(
            np.append(np.zeros(limits), -1.0),
            A_ub=np.column_stack([-slopes[:count], np.ones(count)]),
            b_ub=values[:count],
            bounds=[(0, 8)] * limits + [(None, None)],
        )
        assert height == pytest.approx(-program.fun, abs=1e-9)
        assert (values[:count] + slopes[:count] @ multipliers).min() == pytest.approx(height, abs=1e-9)


def test_the_example_is_right() -> None:
    assert doctest.testmod(cutting_planes, extraglobs={"Planes": Planes, "np": np}).failed == 0
