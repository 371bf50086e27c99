"""Searching needs neither torch nor the service: they must not load with it."""

import subprocess
import sys
from pathlib import Path

import pytest

import evolution

MODULES = sorted(
    ".".join(("evolution", *path.relative_to(Path(evolution.__path__[0])).with_suffix("").parts))
    for path in Path(evolution.__path__[0]).rglob("*.py")
    if path.name != "__init__.py"
)


def test_importing_evolution_loads_no_torch_and_nothing_of_the_service() -> None:
    assert "evolution.strategies.random" in MODULES
    code = f"import sys, {', '.join(MODULES)}, supernet.space; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert set(MODULES) <= set(loaded)
    roots = {name.split(".")[0] for name in loaded}
    assert not roots & {"torch", "sqlalchemy", "fastapi", "service", "onnx", "onnxruntime"}


@pytest.mark.slow
def test_fitting_ridge_and_predicting_load_no_torch() -> None:
    code = """
import sys
import numpy as np
from evolution.predictors.accuracy import AccuracyPredictor
from supernet.families import preset
space, rng = preset("mbv3-digits"), np.random.default_rng(0)
genomes = space.sample(rng, 40)
predictor = AccuracyPredictor.fit(space, genomes, rng.uniform(0.9, 1, 40), None, rng)
assert predictor.predict(genomes).shape == (40,)
print("torch" in sys.modules)
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert answer.strip() == "False"
