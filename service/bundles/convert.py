"""`supple convert`: a network that somebody trained becomes a bundle to start from."""

import importlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from service.bundles.import_ofa import IMAGENET
from service.errors import InputError
from supernet.bundle import MANIFEST, Bundle
from supernet.bundle_writing import write_bundle
from supernet.conversion.convert import Conversion, convert
from supernet.data import Normalization
from supernet.evaluation.views import Views
from supernet.files import sha256

LISTED = 5  # names in a message, at most
COUNTER = "num_batches_tracked"  # in every batch norm; no output depends on it


@dataclass(frozen=True)
class Converted:
    """A bundle without predictor and images, and how its network was converted."""

    bundle: Bundle
    conversion: Conversion


def convert_network(
    factory: str,
    output: Path,
    *,
    weights: Path | None = None,
    image_size: int = 224,
    resolutions: Sequence[int] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    classes: Path | None = None,
    name: str | None = None,
) -> Converted:
    """Write a bundle whose largest subnet is the network that a factory returns, completely or not at all.

    factory: MODULE:FACTORY; the module may lie in the working directory. weights: a state dict for the network, as
    safetensors or as torch saves it; reading it runs no code. image_size: the largest resolution, pixels. resolutions:
    the smaller ones; from half of the image size unless given. mean, std: of each image channel, on pixels in [0, 1],
    as the network was trained; ImageNet's unless given. classes: a text file with the name of a class on each line, in
    the order of the logits; numbers unless given.

    Raises:
        InputError: an argument cannot be used. ConversionError (a ValueError): the network is not covered; the message
            names the node. OSError: a file cannot be read or written.
    """
    if output.exists() and not (output / MANIFEST).is_file():
        raise InputError(f"`output` is {output}, which exists and is not a bundle; choose a new folder", "output")
    network = make_network(factory)
    if weights is not None:
        load_weights(network, weights)
    conversion = convert(network, image_size, name or factory.rpartition(":")[2], resolutions)
    space = conversion.space
    bundle = write_bundle(
        output,
        name=space.name,
        space=space,
        supernet=conversion.supernet,
        classes=_class_names(space.classes, classes),
        normalization=_normalization(space.in_channels, mean, std),
        calibration=None,
        holdout=None,
        views=Views(),
        predictor=None,
        report={
            "corners": {},
            "predictor": None,
            "conversion": {
                "difference": conversion.difference,
                "left_whole": dict(conversion.left_whole),
                "remarks": list(conversion.remarks),
            },
        },
        provenance={
            "dataset": f"what {factory} was trained on",
            "images": {"calibration": 0},
            "converted": {
                "factory": factory,
                "image_size": image_size,
                "weights": None if weights is None else {weights.name: sha256(weights)},
            },
            "versions": {package: version(package) for package in ("supple", "torch", "numpy")},
        },
    )
    return Converted(bundle, conversion)


def make_network(factory: str) -> nn.Module:
    """The network that MODULE:FACTORY returns, on the CPU in single precision.

    Raises:
        InputError: there is no such module or attribute, it cannot be called, or it returns something else.
    """
    module_name, colon, path = factory.partition(":")
    if not (module_name and colon and path):
        raise InputError(
            f"`factory` is {factory!r}; write MODULE:FACTORY, such as torchvision.models:resnet18", "factory"
        )
    with _importable_working_directory():
        try:
            value: Any = importlib.import_module(module_name)
        except Exception as error:  # whatever the user's module raises
            where = f"the working directory, {Path.cwd()}, and the installed packages were searched"
            raise InputError(f"module {module_name!r} cannot be imported: {error!r}; {where}", "factory") from error
        try:
            for attribute in path.split("."):
                value = getattr(value, attribute)
        except AttributeError as error:
            raise InputError(
                f"module {module_name!r} has no {path!r}; name a function that returns a network"
            ) from error
        if not callable(value) or isinstance(value, nn.Module):
            raise InputError(f"{factory} is {type(value).__name__}; name a function or class that returns a network")
        try:
            network = value()
        except Exception as error:
            raise InputError(
                f"{factory}() failed: {error!r}; name a function that needs no arguments and returns a network"
            ) from error
    if not isinstance(network, nn.Module):
        raise InputError(f"{factory}() returns {type(network).__name__}; it must return a torch.nn.Module")
    return network.to("cpu", torch.float32)


@contextmanager
def _importable_working_directory() -> Iterator[None]:
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def load_weights(network: nn.Module, path: Path) -> None:
    """Load a state dict into a network. Every tensor must be there, be known, and have the network's shape.

    Raises:
        InputError: the file is no state dict, or does not fit; the message names the tensors. OSError: the file cannot
            be read.
    """
    state = _read_state(path)
    expected = network.state_dict()
    faults = {
        "missing": [name for name in expected if name not in state and not name.endswith(COUNTER)],
        "unknown": [name for name in state if name not in expected],
        "of another shape": [
            f"{name} {tuple(tensor.shape)} instead of {tuple(expected[name].shape)}"
            for name, tensor in state.items()
            if name in expected and tensor.shape != expected[name].shape
        ],
    }
    if any(faults.values()):
        listed = "; ".join(f"{kind}: {_listed(names)}" for kind, names in faults.items() if names)
        raise InputError(f"`weights` is {path}, which does not fit {type(network).__name__}: {listed}", "weights")
    network.load_state_dict(state, strict=False)  # without some counters, at most


def _read_state(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            state: Any = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # of pickle, zip or safetensors
        reason = str(error).splitlines()[0]
        raise InputError(
            f"`weights` is {path}, which is neither safetensors nor a state dict that torch reads without running "
            f"code: {reason}; save network.state_dict()",
            "weights",
        ) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        kind = f"a dict of {_listed(list(map(str, state)))}" if isinstance(state, Mapping) else type(state).__name__
        raise InputError(f"`weights` is {path}, which holds {kind}; save network.state_dict() alone", "weights")
    return dict(state)


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more


def _class_names(count: int, path: Path | None) -> tuple[str, ...]:
    if path is None:
        return tuple(map(str, range(count)))
    names = tuple(path.read_text().splitlines())
    if len(names) != count or len(set(names)) != count or "" in names:
        raise InputError(
            f"`classes` is {path} with {len(set(names) - {''})} different names on {len(names)} lines; the network has "
            f"{count} classes, so it needs {count} different names, one on each line",
            "classes",
        )
    return names


def _normalization(channels: int, mean: Sequence[float] | None, std: Sequence[float] | None) -> Normalization:
    if (mean is None) != (std is None):
        raise InputError("`mean` and `std` belong together; give both or none", "mean", "std")
    if mean is None or std is None:
        if channels != len(IMAGENET.mean):
            raise InputError(f"`mean` and `std` are missing; the images have {channels} channels", "mean", "std")
        return IMAGENET
    for option, values in (("mean", mean), ("std", std)):
        if len(values) != channels or (option == "std" and min(values) <= 0):
            numbers = "a positive number" if option == "std" else "a number"
            raise InputError(
                f"`{option}` is {list(values)}; {numbers} for each of {channels} channels is needed", option
            )
    return Normalization(tuple(mean), tuple(std))
