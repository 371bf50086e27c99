"""What Once-for-All published is read as it is meant, and anything else is refused by name."""

import json
import re
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from evolution.costs import CostTables
from evolution.predictors.latency import LatencyModel
from evolution.predictors.once_for_all import from_once_for_all
from supernet import ofa as module
from supernet.costs.architecture import of_architecture
from supernet.families import preset, supernet_class
from supernet.networks.supernet import Supernet
from supernet.ofa import Checkpoint, read_checkpoint, read_latency_tables, read_predictor
from tests.support.published import (
    architecture,
    entries,
    fixture,
    generated_state,
    image,
    milliseconds,
    predictor_state,
    proxyless_entries,
    table,
    tolerance,
    write_proxyless_table,
    write_tables,
)

State = dict[str, Any]

MBV3 = "ofa_mbv3_w10_parity.json"
SPACES = {
    MBV3: "mbv3-imagenet-w1.0",
    "ofa_proxyless_w13_parity.json": "proxyless-imagenet-w1.3",
    "ofa_resnet50d_parity.json": "resnet50d-imagenet",
}


def read(state: Any, folder: Path) -> Checkpoint:
    path = folder / "checkpoint.pth"
    torch.save(state, path)
    try:
        return read_checkpoint(path)
    finally:
        path.unlink()


@pytest.fixture(scope="module")
def state() -> State:
    """The state dict of the MobileNetV3 supernet at width 1.0."""
    return generated_state(fixture(MBV3)["state_dict_shapes"])


@pytest.mark.slow
@pytest.mark.parametrize("name", SPACES)
@torch.no_grad()
def test_a_checkpoint_has_the_logits_and_costs_that_once_for_all_computes(name: str, tmp_path: Path) -> None:
    published = fixture(name)
    found = read({"state_dict": generated_state(published["state_dict_shapes"])}, tmp_path)
    assert found.space == preset(SPACES[name])
    supernet: Supernet = supernet_class(found.space.family)(found.space).eval()
    supernet.load_state_dict({key: torch.from_numpy(array) for key, array in found.weights.items()})
    for subnet in published["subnets"]:
        arch = architecture(subnet)
        logits = supernet(image(arch.resolution), arch)
        assert (logits[:, :10] - torch.tensor(subnet["logits"])).abs().max() <= tolerance(subnet)
        assert float(logits.norm()) == pytest.approx(subnet["logit_norm"], rel=1e-4)
        costs = of_architecture(found.space, arch)
        assert costs["params"] == subnet["params"]
        # The first fixture's multiply-adds went through single precision: exact to half its spacing, 32 at 5.7e8.
        rounding = np.spacing(np.float32(subnet["macs"])) / 2 if name == MBV3 else 0
        assert abs(costs["flops"] - subnet["macs"]) <= rounding


def halved(name: str) -> str:
    return name.replace(".bn.bn.", ".bn.").replace(".conv.conv.", ".conv.").replace(".linear.linear.", ".linear.")


RENAMES: dict[str, Callable[[str], str]] = {
    "as they are": lambda name: name,
    "mobile_inverted_conv": lambda name: name.replace(
        ".conv.", ".mobile_inverted_conv.", int(name.startswith("blocks."))
    ),
    "without the doubled part": halved,
    "doubled everywhere": lambda name: (
        halved(name)
        .replace(".bn.", ".bn.bn.")
        .replace("conv.weight", "conv.conv.weight")
        .replace("linear.", "linear.linear.", int(name.startswith("classifier")))
    ),
    "the oldest": lambda name: halved(
        name.replace(".conv.", ".mobile_inverted_conv.", int(name.startswith("blocks.")))
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rename", "counters"),
    [*((rename, True) for rename in RENAMES.values()), (RENAMES["the oldest"], False)],
    ids=[*RENAMES, "the oldest, without num_batches_tracked"],
)
def test_older_names_mean_todays_tensors(
    rename: Callable[[str], str], counters: bool, state: State, tmp_path: Path
) -> None:
    todays = read(state, tmp_path)
    kept = {name: value for name, value in state.items() if counters or "num_batches_tracked" not in name}
    renamed = {rename(name): value for name, value in kept.items()}
    assert len(renamed) == len(kept)
    older = read(renamed, tmp_path)
    assert older.space == todays.space
    assert older.weights.keys() == todays.weights.keys()
    assert all((older.weights[key] == todays.weights[key]).all() for key in todays.weights)


def test_the_width_follows_from_the_shapes(tmp_path: Path) -> None:
    space = preset("mbv3-imagenet-w1.2")
    with torch.device("meta"):
        ours = supernet_class(space.family)(space).state_dict()
    learned = [name for name in ours if not name.endswith("num_batches_tracked")]
    names = module._published_names(space, learned)
    assert set(names.values()) == {name for name in fixture(MBV3)["state_dict_shapes"] if "num_batches" not in name}
    assert read({theirs: torch.zeros(ours[key].shape) for key, theirs in names.items()}, tmp_path).space == space


LAST = "blocks.20.conv.point_linear.conv.conv.weight"
CHANGES: dict[str, tuple[Callable[[State], Any], list[str]]] = {
    "missing": (lambda state: {k: v for k, v in state.items() if k != LAST}, [f"missing: {LAST}$"]),
    "unknown": (lambda state: {**state, "extra.weight": torch.zeros(1)}, ["unknown: extra.weight$"]),
    "of another shape": (
        lambda state: {**state, LAST: torch.zeros(160, 80, 1, 1)},
        [rf"of another shape: {LAST} \(160, 80, 1, 1\) instead of \(160, 960, 1, 1\)$"],
    ),
    "renamed": (
        lambda state: {k.replace("classifier.linear", "fc"): v for k, v in state.items()},
        ["missing: classifier.linear.bias, classifier.linear.weight; unknown: fc.bias, fc.weight$"],
    ),
    "twice": (
        lambda state: {**state, LAST.replace(".conv.conv.", ".conv."): state[LAST]},
        ["holds one tensor twice", LAST],
    ),
    "of another network": (
        lambda state: {"fc.weight": torch.zeros(3, 4)},
        ["is none of", r"and \d+ more; unknown: fc"],
    ),
    "no tensors": (lambda state: {"state_dict": {"a": 1}}, ["is not a state dict: tensors by name"]),
    "a list": (lambda state: [1, 2], ["is not a state dict: tensors by name"]),
    "not finite": (
        lambda state: {**state, LAST: torch.full((160, 960, 1, 1), torch.nan)},
        [f"holds numbers that are not finite in {LAST}$"],
    ),
    "code": (lambda state: {"a": Path("/")}, ["without running code"]),
}


@pytest.mark.slow
@pytest.mark.parametrize(("change", "messages"), CHANGES.values(), ids=CHANGES)
def test_any_other_checkpoint_is_refused_with_its_tensors(
    change: Callable[[State], Any], messages: list[str], state: State, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match=r"checkpoint\.pth ") as refused:
        read(change(state), tmp_path)
    for message in messages:
        assert re.search(message, str(refused.value))


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 cut off"])
def test_a_file_that_torch_cannot_read_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "broken.pth").write_bytes(content)
    for reader in (read_checkpoint, read_predictor):
        with pytest.raises(ValueError, match=r"broken\.pth is not a state dict that torch can read"):
            reader(tmp_path / "broken.pth")
        with pytest.raises(FileNotFoundError):
            reader(tmp_path / "none.pth")


# The accuracy predictor.


def test_the_predictor_is_read_as_inputs_by_outputs(tmp_path: Path) -> None:
    state = predictor_state()
    torch.save(state, tmp_path / "predictor.pth")
    layers = read_predictor(tmp_path / "predictor.pth")
    assert [weight.shape for weight, _ in layers] == [(128, 400), (400, 400), (400, 400), (400, 1)]
    x = torch.randn(5, 128, generator=torch.Generator().manual_seed(1))
    expected = x
    for layer in "024":
        expected = torch.relu(torch.nn.functional.linear(expected, state[f"{layer}.weight"], state[f"{layer}.bias"]))
    expected = torch.nn.functional.linear(expected, state["6.weight"], state["6.bias"])
    actual = x.numpy()
    for weight, bias in layers[:-1]:
        actual = np.maximum(actual @ weight + bias, 0)
    assert actual @ layers[-1][0] + layers[-1][1] == pytest.approx(expected.numpy(), abs=1e-5)
    genomes = preset("mbv3-imagenet-w1.2").sample(np.random.default_rng(0), 3)
    assert from_once_for_all(preset("mbv3-imagenet-w1.2"), layers, {}).predict(genomes).shape == (3,)


def test_another_predictor_is_refused_by_name(tmp_path: Path) -> None:
    torch.save({"0.weight": torch.zeros(3, 4), "bias": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=r"other\.pth is not Once-for-All's .* holds 0\.weight, bias, not 0\.bias"):
        read_predictor(tmp_path / "other.pth")


# Latency tables.


@pytest.mark.parametrize("name", ["mbv3-imagenet-w1.0", "mbv3-imagenet-w1.2"])
def test_tables_add_up_as_once_for_all_adds_them(name: str, tmp_path: Path) -> None:
    space = preset(name)
    sides = (176, 192)  # both end with blocks of 6 x 6, which their tables time differently
    found = read_latency_tables(write_tables(tmp_path / "tables", name, sides), space)
    assert tuple(found) == sides
    model = LatencyModel.from_published(CostTables(space), found, "a test")
    genomes = space.sample(np.random.default_rng(0), 200)
    for genome, predicted in zip(genomes, model.predict(genomes), strict=True):
        arch = space.decode(genome)
        side = arch.resolution
        expected = sum(milliseconds(side, entry) for entry in entries(name, arch)) if side in sides else np.inf
        assert predicted == pytest.approx(expected)
    assert model.card["resolutions"] == list(sides)


@pytest.mark.parametrize("name", ["proxyless-imagenet-w1.0", "fairnas-imagenet"])
def test_latencies_of_proxylessnas_are_the_sums_of_its_entries(name: str, tmp_path: Path) -> None:
    space = preset(name)
    blocks = dict(enumerate(product((3, 6), (3, 5, 7))))
    by_resolution = read_latency_tables(write_proxyless_table(tmp_path / "mobile_trim.yaml", name), space)
    assert list(by_resolution) == [224]
    model = LatencyModel.from_published(CostTables(space), by_resolution, "a test")
    archs = [space.decode(genome) for genome in space.sample(np.random.default_rng(0), 100)]
    for arch, predicted in zip(archs, model.predict(np.stack([space.encode(arch) for arch in archs])), strict=True):
        stages = [
            [block if len(block) == 2 else blocks[int(block[0])][::-1] for block in stage] for stage in arch.stages
        ]
        times = [milliseconds(224, entry) for entry in proxyless_entries(name, 224, stages)]
        assert predicted == pytest.approx(sum(times) if arch.resolution == 224 else np.inf)


def test_a_table_of_proxylessnas_is_of_plain_inverted_residuals_and_complete(tmp_path: Path) -> None:
    path = write_proxyless_table(tmp_path / "mobile_trim.yaml", "proxyless-imagenet-w1.0")
    for other in ("mbv3-imagenet-w1.0", "mbv3-lite-imagenet-w1.0", "resnet50d-imagenet"):
        with pytest.raises(
            ValueError, match=r"mobile_trim.yaml is one file, in ProxylessNAS's form, .*, and .* has others"
        ):
            read_latency_tables(path, preset(other))
    with pytest.raises(ValueError, match=r"complete at no resolution; of fairnas-imagenet at 224 it lacks .*56x56x32"):
        read_latency_tables(path, preset("fairnas-imagenet"))


def test_tables_of_another_family_are_refused() -> None:
    with pytest.raises(ValueError, match="for MobileNetV3 spaces, and resnet50d-imagenet is not one"):
        read_latency_tables(Path("tables"), preset("resnet50d-imagenet"))


def test_other_tables_are_refused_by_name(tmp_path: Path) -> None:
    space = preset("mbv3-imagenet-w1.2")
    with pytest.raises(ValueError, match=r"holds no RESOLUTION_lookup_table.yaml for .*: 112, 128,.* 224$"):
        read_latency_tables(tmp_path, space)
    path = tmp_path / "160_lookup_table.yaml"
    rows: dict[str, Any] = dict(table(space.name, 160))
    gone = next(name for name in rows if name.startswith("expanded_conv"))
    slow = next(name for name in rows if name.startswith("Logits"))
    for content, message in [
        ("a: [", "is not YAML"),
        ("[1]", "is not a latency table"),
        (json.dumps({name: row for name, row in rows.items() if name != gone}), f"lacks {re.escape(gone)}; the table"),
        (
            json.dumps({**rows, slow: {"mean": -1}}),
            f"{re.escape(slow)} needs a mean that is a positive number of ms, n",
        ),
        (json.dumps({**rows, slow: "fast"}), f"{re.escape(slow)} needs a mean"),
        (
            json.dumps(table("mbv3-imagenet-w1.0", 160)),
            r"lacks .* and \d+ more; the table is incomplete, or not for",
        ),
    ]:
        path.write_text(content)
        with pytest.raises(ValueError, match=rf"160_lookup_table\.yaml:? {message}"):
            read_latency_tables(tmp_path, space)
