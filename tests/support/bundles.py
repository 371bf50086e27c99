"""Bundles for tests."""

from pathlib import Path
from typing import Any

import torch

from supernet.bundle import Bundle
from supernet.bundle_writing import write_bundle
from supernet.data import Images, Normalization
from supernet.evaluation.views import Views
from supernet.families import preset, supernet_class
from supernet.networks.supernet import Supernet

SPACE = preset("mbv3-digits")


def images(count: int) -> Images:
    generator = torch.Generator().manual_seed(count)
    pixels = torch.randint(0, 256, (count, 1, 16, 16), dtype=torch.uint8, generator=generator)
    return Images(pixels, torch.arange(count) % 10)


def write(path: Path, **changes: Any) -> Bundle:
    supernet: Supernet = supernet_class(SPACE.family)(SPACE, torch.Generator().manual_seed(0))
    fields: dict[str, Any] = {
        "name": "small",
        "space": SPACE,
        "supernet": supernet,
        "classes": tuple("0123456789"),
        "normalization": Normalization((0.3,), (0.4,)),
        "calibration": images(40),
        "holdout": images(20),
        "views": Views(2, 0),
        "predictor": None,
        "report": {"corners": {}},
        "provenance": {"dataset": "noise"},
    }
    return write_bundle(path, **{**fields, **changes})
