"""A plan of what a device measures, as ONNX files in a zip: blocks and whole networks of a space, or networks alone.

`service/devices/probe.py` runs the plan on the device. The weights are not trained: latency does not depend on them.
"""

import io
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from supernet.costs.tables import PartTables
from supernet.export.writer import to_onnx
from supernet.families.mobilenetv3 import inverted_residual
from supernet.files import write_atomically
from supernet.networks.static import static_layers
from supernet.space import Architecture, Genomes, SearchSpace

FORMAT = 2
PERIOD = 509  # weights repeat a pattern this long, so that a plan of hundreds of networks compresses to a few megabytes


@dataclass(frozen=True)
class ProbeModel:
    """One entry of a plan. details: further fields of its entry in `plan.json`. build: makes the untrained network."""

    name: str
    kind: str
    input_shape: tuple[int, int, int]
    build: Callable[[], nn.Module]
    details: dict[str, Any] = field(default_factory=dict)

    def onnx(self) -> bytes:
        """The ONNX file, from the writer that also writes downloads. Its bytes are the same every time."""
        with torch.device("meta"):  # takes no time and no global random numbers for weights that are replaced
            network = self.build()
        return to_onnx(fill(network.to_empty(device="cpu")), self.input_shape)


def probe_plan(
    space: SearchSpace, rng: np.random.Generator, networks_per_resolution: int = 12, checks: int = 0
) -> list[ProbeModel]:
    """Everything to measure for a space's latency model: an empty network, the distinct blocks, edges, and networks.

    The same number of networks is sampled uniformly at each resolution; equal networks are listed once. The order is
    random, so that a slow spell of the machine does not fall on one kind of model or on one resolution.

    checks: so many more networks, where the space has them. The probe measures them in a second run, and no latency
        model is fitted on them, so that they tell its error.
    """
    models = [ProbeModel("empty", "empty", (1, 1, 1), nn.Identity)]
    models += _blocks(space)
    seen = set()
    for r in range(len(space.resolutions)):
        genomes = space.sample(rng, networks_per_resolution)
        genomes[:, 0] = r
        for genome in genomes:
            arch = space.decode(genome)
            if arch not in seen:
                seen.add(arch)
                models.append(network_model(space, arch))
    models = [models[i] for i in rng.permutation(len(models))]
    for genome in space.sample(rng, 4 * checks):
        arch = space.decode(genome)
        if arch not in seen and checks:
            seen.add(arch)
            checks -= 1
            models.append(network_model(space, arch, is_check=True))
    return models


def network_plan(space: SearchSpace, genomes: Genomes) -> list[ProbeModel]:
    """Whole networks alone, in the order of (N, G) genomes, which a probe may cut down from its end."""
    return [network_model(space, space.decode(genome)) for genome in genomes]


def reference_models() -> list[ProbeModel]:
    """The reference networks, between which every sample is taken. They are the same for all spaces and plans.

    The small one fits into a second-level cache; the large one, with 2.5 MB of weights, does not. A model is compared
    with the one of about its latency.
    """
    small = inverted_residual(24, 96, 24, 14, 5, 1, "h_swish", squeeze_excite=True)
    large = [inverted_residual(112, 672, 112, 4, 5, 1, "h_swish", squeeze_excite=False)] * 4
    return [
        ProbeModel("reference-small", "reference", (24, 14, 14), partial(static_layers, small)),
        ProbeModel(
            "reference-large",
            "reference",
            (112, 4, 4),
            lambda: nn.Sequential(*map(static_layers, large)),
        ),
    ]


def write_plan(
    path: Path, space: SearchSpace, models: Sequence[ProbeModel], progress: Callable[[int, int], None] | None = None
) -> None:
    """Write a plan for `service/devices/probe.py`: a zip of plan.json and the ONNX files. It is never half-written.

    progress: called with the number of models written so far and the number of all models.

    Raises:
        OSError: the disk is full or the folder cannot be written.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:

        def add(name: str, data: bytes | str) -> None:
            entry = zipfile.ZipInfo(name)  # has no time of day, so that equal plans have equal bytes
            file.writestr(entry, data, zipfile.ZIP_DEFLATED, compresslevel=1)

        entries: list[dict[str, Any]] = []
        references = reference_models()
        for done, model in enumerate([*references, *models], 1):
            file_name = f"{model.name}.onnx"
            add(file_name, model.onnx())
            described = {"name": model.name, "kind": model.kind, "file": file_name, "shape": model.input_shape}
            entries.append({**described, **model.details})
            if progress:
                progress(done, len(references) + len(models))
        plan = {
            "format": FORMAT,
            "space": space.name,
            "space_hash": space.hash,
            "references": entries[: len(references)],
            "models": entries[len(references) :],
        }
        add("plan.json", json.dumps(plan, indent=1))
    write_atomically(path, buffer.getvalue())


def network_model(space: SearchSpace, arch: Architecture, *, is_check: bool = False) -> ProbeModel:
    """One whole network, untrained. is_check: measured in a second run (`probe_plan`)."""
    parts = [records for _, records in space.part_operators(arch)]
    shape = (space.in_channels, arch.resolution, arch.resolution)
    return ProbeModel(
        f"network-{space.id(arch)}",
        "network",
        shape,
        lambda: nn.Sequential(*map(static_layers, parts)),
        {"architecture": arch.to_json(), **({"check": True} if is_check else {})},
    )


def _blocks(space: SearchSpace) -> list[ProbeModel]:
    """Every distinct block once, then every edge: a shape of tensors between blocks."""
    blocks: dict[str, ProbeModel] = {}
    edges: dict[str, ProbeModel] = {}
    tables = PartTables(space)
    last_part = len(space.parts) - 1
    for part, key, records in zip(tables.parts, tables.block_keys, tables.operators, strict=True):
        if key is None or key in blocks:
            continue
        first, last = records[0], records[-1]
        ends = {} if part == 0 else {"in": (first.in_channels, first.side)}
        if part != last_part:
            ends["out"] = (last.out_channels, last.out_side)
        for channels, side in ends.values():
            edges |= {model.name: model for model in _edge(channels, side)}
        blocks[key] = ProbeModel(
            f"block-{key}",
            "block",
            (first.in_channels, first.side, first.side),
            partial(static_layers, records),
            {"key": key, "edges": [f"edge-{channels}x{side}" for channels, side in ends.values()]},
        )
    return [*blocks.values(), *edges.values()]


def _edge(channels: int, side: int) -> list[ProbeModel]:
    """A chain of one and a chain of two cheap layers for which onnxruntime uses a memory layout of its own.

    Their latencies tell what it costs to convert a tensor of this shape to that layout and back. A block pays this cost
    when it is measured alone, but not inside a network (`service.devices.probe.correct`).
    """
    edge = f"edge-{channels}x{side}"

    def chain(layers: int) -> nn.Module:
        return nn.Sequential(*(nn.Conv2d(channels, channels, 1, groups=channels) for _ in range(layers)))

    return [
        ProbeModel(
            f"{edge}-{layers}",
            "edge",
            (channels, side, side),
            partial(chain, layers),
            {"edge": edge, "layers": layers},
        )
        for layers in (1, 2)
    ]


@torch.no_grad()
def fill(network: nn.Module) -> nn.Module:
    """Set fixed weights of ordinary magnitude, in place, so that activations neither vanish nor overflow."""
    pattern = torch.from_numpy(np.random.default_rng(0).standard_normal(PERIOD, np.float32))
    for parameter in network.parameters():
        values = pattern.repeat(-(-parameter.numel() // PERIOD))[: parameter.numel()].view(parameter.shape)
        if parameter.ndim > 1:
            parameter.copy_(values * parameter[0].numel() ** -0.5)
        else:
            parameter.copy_(values * 0.1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.weight.fill_(1.0)
            module.reset_running_stats()
    return network.eval()
