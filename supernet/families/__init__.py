"""The families of networks. Each has a numpy half here (its layout and presets) and a torch half beside the layers.

To add a family: write a layout (a frozen dataclass with `parts`) and its `PRESETS` here, a `Supernet` class in its own
module, and name both in `FAMILIES`.
"""

from dataclasses import replace
from importlib import import_module
from typing import Any

from supernet.space import SearchSpace

# family: (module and class of the layout, module and class of the torch half)
FAMILIES = {
    "mobilenetv3": (
        ("supernet.families.mobilenetv3", "MobileNetV3Layout"),
        ("supernet.mobilenetv3", "MobileNetV3Supernet"),
    ),
}


def _load(family: str, half: int) -> Any:
    if family not in FAMILIES:
        raise ValueError(f"unknown family {family!r}; there are {', '.join(sorted(FAMILIES))}")
    module, name = FAMILIES[family][half]
    return getattr(import_module(module), name)


def layout_class(family: str) -> Any:
    """The layout class of a family. numpy only."""
    return _load(family, 0)


def supernet_class(family: str) -> Any:
    """The torch half of a family: a `supernet.layers.Supernet`. Loads torch."""
    return _load(family, 1)


def presets() -> dict[str, SearchSpace]:
    """Every preset space by name."""
    return {
        name: space for (module, _), _ in FAMILIES.values() for name, space in import_module(module).PRESETS.items()
    }


def preset(name: str, *, classes: int | None = None, in_channels: int | None = None) -> SearchSpace:
    """A preset space, for another number of classes or image channels where asked.

    Raises:
        ValueError: no preset has this name.
    """
    spaces = presets()
    if name not in spaces:
        raise ValueError(f"unknown space {name!r}; the presets are {', '.join(sorted(spaces))}")
    space = spaces[name]
    return replace(space, classes=classes or space.classes, in_channels=in_channels or space.in_channels)
