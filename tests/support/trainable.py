"""Bundles that record how they were trained, for tests of what trains on from them."""

from pathlib import Path
from typing import Any

from service.bundles.config import DatasetConfig, EvaluationConfig, TrainingConfig, config_json, load_data
from supernet.bundle import Bundle
from supernet.evaluation.views import Views
from supernet.training.augmentation import Augmentation
from supernet.training.schedule import Phase, Schedule
from tests.support.bundles import write

HELD_OUT = 100
# 138 training images, so two steps an epoch.
CONFIG = TrainingConfig(
    "short",
    "mbv3-digits",
    DatasetConfig("digits", holdout=1300),
    Schedule(
        (Phase("largest", 1, 0.05, {"depth": (2,)}), Phase("all", 1, 0.02, sampler="sandwich")),
        batch_size=64,
        augmentation=Augmentation(shift=0.06),
    ),
    EvaluationConfig(10, 32, Views()),
    threads=1,
)


def write_trainable(path: Path, config: TrainingConfig = CONFIG, **changes: Any) -> Bundle:
    """A bundle with random weights, and with the images of its configuration, few of them held out."""
    dataset, space = load_data(config, path.parent)
    fields = {
        "name": config.name,
        "space": space,
        "classes": dataset.classes,
        "normalization": dataset.normalization,
        "calibration": dataset.train[:32],
        "holdout": dataset.holdout[:HELD_OUT],
        "views": config.evaluation.views,
        "provenance": {"config": config_json(config)},
    }
    return write(path, **{**fields, **changes})
