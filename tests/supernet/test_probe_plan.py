"""A plan covers every block once, is equal for equal seeds, and its files run."""

import hashlib
import json
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from service.devices import probe
from supernet.conversion.convert import convert
from supernet.export.parity import run_onnx
from supernet.export.probe_plan import ProbeModel, network_model, probe_plan, reference_models, write_plan
from supernet.families import preset
from supernet.operators import block_key
from supernet.space import Architecture
from tests.support.networks import NETWORKS, SIZE

SPACE = replace(preset("mbv3-digits"), name="tiny", resolutions=(8, 12), depths=((1, 2), (1,), (1,)))


def plan(seed: int = 0, networks: int = 3) -> list[ProbeModel]:
    return probe_plan(SPACE, np.random.default_rng(seed), networks)


def test_every_block_of_every_architecture_is_in_the_plan_once() -> None:
    models = plan()
    names = [model.name for model in models]
    assert len(set(names)) == len(names)
    keys = [model.details["key"] for model in models if model.kind == "block"]
    genomes = SPACE.sample(np.random.default_rng(1), 2000)
    needed = {block_key(records) for genome in genomes for _, records in SPACE.part_operators(SPACE.decode(genome))}
    assert sorted(keys) == sorted(needed)


@pytest.mark.parametrize("name", ["plain", "squeezed-resnext"])
def test_the_blocks_of_a_converted_network_run_alone(name: str) -> None:
    space = replace(convert(NETWORKS[name](), SIZE, name).space, resolutions=(SIZE,))
    for model in probe_plan(space, np.random.default_rng(0), 1):
        output = run_onnx(model.onnx(), np.ones((1, *model.input_shape), np.float32))
        assert np.isfinite(output).all(), model.name


def test_networks_are_distinct_and_spread_over_the_resolutions() -> None:
    models = [model for model in plan(networks=4) if model.kind == "network"]
    archs = [Architecture.from_json(model.details["architecture"]) for model in models]
    assert sorted(arch.resolution for arch in archs) == [8] * 4 + [12] * 4
    assert len(set(archs)) == 8
    for model, arch in zip(models, archs, strict=True):
        assert model.name == f"network-{SPACE.id(arch)}"
        assert model.input_shape == (1, arch.resolution, arch.resolution)


def test_edges_are_the_shapes_between_parts() -> None:
    models = plan()
    edges = {(model.details["edge"], model.details["layers"]) for model in models if model.kind == "edge"}
    shapes = {"16x8", "24x4", "32x2", "48x2", "16x12", "24x6", "32x3", "48x3"}
    assert edges == {(f"edge-{shape}", layers) for shape in shapes for layers in (1, 2)}
    blocks = {model.details["key"]: model for model in models if model.kind == "block"}
    parts = dict(zip((part.name for part in SPACE.parts), SPACE.parts, strict=True))
    for name, expected in (
        ("stem", ["edge-16x8"]),
        ("stage1.block1", ["edge-16x8", "edge-24x4"]),
        ("head", ["edge-48x2"]),
    ):
        part = parts[name]
        records = part.operators(*(SPACE.genes[gene].choices[0] for gene in part.genes))
        assert blocks[block_key(records)].details["edges"] == expected


@pytest.mark.slow
def test_every_file_runs_and_no_activation_dies_out_or_overflows() -> None:
    rng = np.random.default_rng(0)
    for model in plan():
        outputs = run_onnx(model.onnx(), rng.standard_normal((2, *model.input_shape), np.float32))
        assert len(outputs) == 2
        assert 1e-3 < np.abs(outputs).max() < 1e3, model.name


def test_references_change_with_their_version() -> None:
    """A device's latencies are ratios to these files, so other files need another version (`probe.REFERENCES`)."""
    digest = hashlib.sha256(b"".join(model.onnx() for model in reference_models())).hexdigest()
    assert (probe.REFERENCES, digest[:16]) == (1, "2f62b8cd0d1bc732")


def test_deep_networks_keep_ordinary_activations() -> None:
    space = preset("mbv3-imagenet-w1.0")
    images = np.random.default_rng(0).standard_normal((1, 3, 112, 112), np.float32)
    for arch in (space.largest().at(112), space.smallest()):
        assert 1e-3 < np.abs(run_onnx(network_model(space, arch).onnx(), images)).max() < 1e3


@pytest.mark.slow
def test_a_plan_is_a_function_of_its_seed_and_leaves_global_generators_alone(tmp_path: Path) -> None:
    torch_state, numpy_state = torch.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"]  # noqa: NPY002
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        write_plan(tmp_path / name, SPACE, plan(seed, 1))
    data = [(tmp_path / name).read_bytes() for name in "abc"]
    assert data[0] == data[1] != data[2]
    assert torch.equal(torch.get_rng_state(), torch_state)
    assert np.array_equal(np.random.get_state(legacy=False)["state"]["key"], numpy_state)  # noqa: NPY002


@pytest.mark.slow
def test_a_written_plan_lists_its_files_and_is_much_smaller_than_they_are(tmp_path: Path) -> None:
    models = plan()
    seen: list[tuple[int, int]] = []
    write_plan(tmp_path / "plan.zip", SPACE, models, lambda done, total: seen.append((done, total)))
    count = len(models) + len(reference_models())
    assert seen == [(i, count) for i in range(1, count + 1)]
    with zipfile.ZipFile(tmp_path / "plan.zip") as file:
        listed = json.loads(file.read("plan.json"))
        sizes = {entry.filename: entry.file_size for entry in file.infolist()}
        entries = [*listed["references"], *listed["models"]]
        for entry, model in zip(entries, [*reference_models(), *models], strict=True):
            assert file.read(entry["file"]) == model.onnx()
            assert (entry["name"], entry["kind"]) == (model.name, model.kind)
            assert tuple(entry["shape"]) == model.input_shape
    assert listed["space_hash"] == SPACE.hash
    assert (tmp_path / "plan.zip").stat().st_size < sum(sizes.values()) / 3


def test_a_plan_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="missing"):
        write_plan(tmp_path / "missing" / "plan.zip", SPACE, plan()[:2])
    assert list(tmp_path.iterdir()) == []
