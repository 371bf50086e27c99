"""The families of networks: what the spaces of a family are made of.

A family is a layout: a frozen dataclass whose `parts(space)` describes the network as operator records. Everything else
follows from these records: costs, probe blocks, the supernet, extraction, export. docs/families.md shows how to write
one. Families of other packages are found by their entry points in the group `supple.families`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from supernet.space import Gene, SearchSpace

GROUP = "supple.families"


@dataclass(frozen=True, slots=True)
class Family:
    """The places of a family's two classes, as "module:Class", so that torch loads only when a supernet is made.

    layout: the layout class, in a module that needs only numpy and holds the family's presets in `PRESETS`.
    supernet: the `supernet.networks.supernet.Supernet`; the default shares weights according to `Part.paths`.
    """

    layout: str
    supernet: str = "supernet.networks.sliced:SlicedSupernet"


FAMILIES: Mapping[str, Family] = {
    "converted": Family("supernet.families.converted:ConvertedLayout"),
    "mobilenetv2": Family("supernet.families.mobilenetv2:MobileNetV2Layout"),
    "mobilenetv3": Family(
        "supernet.families.mobilenetv3:MobileNetV3Layout", "supernet.networks.mobilenetv3:MobileNetV3Supernet"
    ),
    "resnet": Family("supernet.families.resnet:ResNetLayout"),
    "shufflenetv2": Family("supernet.families.shufflenetv2:ShuffleNetV2Layout"),
}


@cache
def families() -> dict[str, Family]:
    """All families by name: the built-in ones and the ones that other packages register.

    Raises:
        ValueError: an entry point is not a `Family`, or takes the name of another family.
    """
    result = dict(FAMILIES)
    for point in entry_points(group=GROUP):
        family = point.load()
        if not isinstance(family, Family):
            raise ValueError(f"entry point {point.name} of group {GROUP} is {point.value}, not a Family")
        if point.name in result:
            raise ValueError(f"family {point.name!r} of {point.value} is already taken; rename the entry point")
        result[point.name] = family
    return result


def _family(name: str) -> Family:
    if name not in families():
        raise ValueError(f"unknown family {name!r}; there are {', '.join(sorted(families()))}")
    return families()[name]


def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def layout_class(family: str) -> Any:
    """The layout class of a family. numpy only."""
    return _load(_family(family).layout)


def supernet_class(family: str) -> Any:
    """The torch half of a family: a `supernet.networks.supernet.Supernet`. Loads torch."""
    return _load(_family(family).supernet)


def presets() -> dict[str, SearchSpace]:
    """All preset spaces by name.

    >>> [name for name in presets() if name.startswith("mbv3-lite")]
    ['mbv3-lite-digits', 'mbv3-lite-cifar', 'mbv3-lite-imagenet-w1.0']
    """
    modules = [family.layout.partition(":")[0] for family in families().values()]
    return {name: space for module in modules for name, space in import_module(module).PRESETS.items()}


def preset(name: str, *, classes: int | None = None, in_channels: int | None = None) -> SearchSpace:
    """A preset space, with another number of classes or image channels if given.

    >>> preset("mbv3-digits", classes=26).classes
    26

    Raises:
        ValueError: no preset has this name.
    """
    spaces = presets()
    if name not in spaces:
        raise ValueError(f"unknown space {name!r}; the presets are {', '.join(sorted(spaces))}")
    space = spaces[name]
    return replace(space, classes=classes or space.classes, in_channels=in_channels or space.in_channels)


def space_from_json(data: Mapping[str, Any]) -> SearchSpace:
    """The space that `SearchSpace.to_json` wrote.

    Raises:
        ValueError: `data` does not have this form, or names an unknown family.
    """
    try:
        fields = {key: _frozen(value) for key, value in data.items() if key != "layout"}
        for key in ("block_genes", "extra_genes"):
            fields[key] = tuple(Gene(gene["name"], tuple(gene["choices"])) for gene in data[key])
        layout = _layout_from_json(layout_class(data["family"]), data["layout"])
        return SearchSpace(**fields, layout=layout)
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise ValueError(f"not a search space: {error!r}") from error


def _layout_from_json(layout: Any, data: Mapping[str, Any]) -> Any:
    """A layout from its fields, or by its own `from_json` if its fields are more than numbers, words and tuples."""
    if hasattr(layout, "from_json"):
        return layout.from_json(data)
    return layout(**{key: _frozen(value) for key, value in data.items()})


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
