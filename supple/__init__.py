"""Supple for notebooks and programs: every name in `__all__` is stable.

The packages `service`, `evolution` and `supernet` are internal and may change in any release.

>>> import supple
>>> bundle = supple.open_bundle("runs/digits/bundle")
>>> answer = supple.search(bundle, {"flops": 1_000_000})
>>> best = supple.Architecture.from_json(answer["best"]["arch"])
>>> supple.describe(bundle.space, best)["flops"] <= 1_000_000
True
>>> exported = supple.export(bundle, best, "best.onnx")

`import supple` loads numpy, but neither torch nor a web framework. Only `export` and a search that measures load torch.
"""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from evolution.refusal import Refused
from service.client import Client, ServiceError
from supernet.bundle import Bundle
from supernet.costs.architecture import of_architecture
from supernet.families import preset, presets
from supernet.space import Architecture, SearchSpace

__all__ = [
    "Architecture",
    "Bundle",
    "Client",
    "Refused",
    "SearchSpace",
    "ServiceError",
    "describe",
    "export",
    "finetune",
    "open_bundle",
    "preset",
    "presets",
    "search",
]
__version__ = version("supple")


def open_bundle(path: str | Path) -> Bundle:
    """Open a bundle, the folder that `supple train` writes, and verify the hash of every file.

    >>> bundle = open_bundle("runs/digits/bundle")
    >>> bundle.name, bundle.space.resolutions, list(bundle.devices)
    ('untrained digits', (8, 12, 16), [])

    Raises:
        BundleError: a file is missing or altered.
    """
    return Bundle.open(Path(path))


def search(
    bundle: Bundle,
    limits: Mapping[str, float],
    *,
    device: str | Path | None = None,
    resolution: int | None = None,
    max_resolution: int | None = None,
    choices: Mapping[str, Sequence[float]] | None = None,
    minimise: str | None = None,
    min_accuracy: float | None = None,
    evaluations: int | None = None,
    seconds: float | None = None,
    seed: int = 0,
    strategy: str | None = None,
    evaluate: Literal["predicted", "inherited"] = "predicted",
    metric: Literal["accuracy", "top5", "f1_macro", "log_likelihood"] = "accuracy",
) -> dict[str, Any]:
    """Find the architecture of a bundle that has the best accuracy within hard limits.

    >>> bundle = open_bundle("runs/digits/bundle")
    >>> answer = search(bundle, {"flops": 1_000_000, "params": 90_000}, seed=1)
    >>> answer["best"]["flops"] <= 1_000_000 and answer["best"]["params"] <= 90_000
    True

    limits: by cost, the largest value allowed: `flops` (multiply-adds), `params`, `model_bytes`, `peak_memory_bytes`,
        and on `device` `latency_ms`, `device_memory_bytes` and `energy_mj`. `latency_ms@OTHER` limits the latency on a
        further device.
    device: a device inside the bundle, or a file that `supple probe` wrote.
    resolution, max_resolution: the only image size allowed, and the largest image size allowed, in pixels.
    choices: the choices that genes are restricted to, by name: `kernel_size` in all blocks, `stage2.kernel_size` in one
        stage, `stage2.block1.kernel_size` in one block; as in `{"kernel_size": [3, 5], "stage3.depth": [2]}`.
    minimise: the cost to minimise at `min_accuracy`, a fraction, instead of maximising accuracy.
    evaluations: how many architectures to evaluate at most. seconds: how long to search at most.
    seed: equal seeds give equal answers, unless `seconds` ended a search; the answer's `ended_by` says why it ended.
    strategy: how to search; by default `exact` where that proves its answer, otherwise `evolution`.
    evaluate: `predicted` ranks architectures by the accuracy predictor. `inherited` measures each on the bundle's
        held-out images with the supernet's weights, by `metric`, after recalibration of batch norm. That loads torch,
        and each takes some ten milliseconds to seconds, so the default is then 300 evaluations. What is measured stays
        beside the bundle, in BUNDLE.pairs.jsonl, and is not measured again.

    Raises:
        Refused: no architecture was found within the limits; the message says which limits would be possible.
        InputError: there is no such device, or the subnets cannot be measured. ValueError: another argument cannot be
            used. OSError: the measurements cannot be written.
    """
    from service.bundles.search import search_bundle

    return search_bundle(
        bundle,
        limits,
        device=None if device is None else str(device),
        resolution=resolution,
        max_resolution=max_resolution,
        choices=choices,
        minimise=minimise,
        min_accuracy=min_accuracy,
        evaluations=evaluations,
        seconds=seconds,
        seed=seed,
        strategy=strategy,
        evaluate=evaluate,
        metric=metric,
    )


def describe(space: SearchSpace, arch: Architecture) -> dict[str, int]:
    """Count the exact costs of one architecture, for one image at its resolution.

    >>> describe(preset("mbv3-digits"), preset("mbv3-digits").smallest())
    {'flops': 169152, 'params': 33914, 'model_bytes': 142856, 'peak_memory_bytes': 12288}

    Raises:
        ValueError: the architecture lies outside the space, or its resolution is not a multiple of 4.
    """
    return of_architecture(space, arch)


def export(
    bundle: Bundle,
    arch: Architecture,
    output: str | Path,
    *,
    batch_norm: Literal["recalibrated", "stored"] = "recalibrated",
) -> dict[str, Any]:
    """Extract a subnet with its weights and write it as an ONNX file, after onnxruntime agreed with torch on it.

    >>> bundle = open_bundle("runs/digits/bundle")
    >>> exported = export(bundle, bundle.space.largest(), "largest.onnx")
    >>> exported["bytes"] == Path("largest.onnx").stat().st_size
    True

    batch_norm: `recalibrated` computes the subnet's own statistics; `stored` keeps the supernet's.

    Raises:
        BundleError: the bundle has no weights. ValueError: it has no images to recalibrate with, or onnxruntime and
            torch disagree; nothing is written.
    """
    from service.bundles.export import export_subnet_of

    return export_subnet_of(bundle, arch, Path(output), batch_norm=batch_norm)


def finetune(
    bundle: Bundle,
    arch: Architecture,
    output: str | Path,
    *,
    epochs: int,
    from_scratch: bool = False,
    learning_rate: float | None = None,
    distillation: float | None = None,
    seed: int = 0,
    images: str | Path | None = None,
    data_root: str | Path = "data",
) -> dict[str, Any]:
    """Train a subnet further as a network of its own; write its weights and its ONNX file to the folder `output`.

    It trains by the bundle's recipe on the bundle's training images. The answer has its scores on the held-out images,
    `inherited` and `fine-tuned` (or `from-scratch`). An interrupted run continues in the same folder. The bundle stays
    as it is; `supple finetune` also puts the network into it.

    >>> bundle = open_bundle("runs/mine/bundle")
    >>> trained = finetune(bundle, bundle.space.smallest(), "runs/tuned", epochs=1)
    >>> trained["epochs"], trained["fine-tuned"]["views"]["images"] > 0, Path("runs/tuned/network.onnx").exists()
    (1, True, True)

    from_scratch: start from random weights. learning_rate: by default that of the recipe's last phase; from scratch, of
    its first. distillation: weight of the soft labels of the bundle's largest network, by default 1; from scratch, 0.
    images: the folder of the training images, if it is not where the bundle says. data_root: for downloaded datasets.

    Raises:
        BundleError: the bundle records no recipe, or lacks weights or images. ValueError: a setting cannot be used, the
            images are not those of the bundle, or training failed. OSError: the disk is full.
    """
    from service.bundles.finetune import Plan, fine_tune

    plan = Plan(epochs, from_scratch, learning_rate, distillation, seed)
    found = None if images is None else str(images)
    return fine_tune(bundle, arch, plan, Path(output), images=found, data_root=Path(data_root))
