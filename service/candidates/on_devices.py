"""What networks are predicted to need on devices: latency, and memory and energy where a device told them."""

import math
from collections.abc import Mapping

from evolution.arrays import Floats
from evolution.predictors.latency import LatencyModel
from service.costs import device_costs
from supernet.space import Genomes

OnDevice = Mapping[str, Floats]  # by cost, (N,) values of N networks; inf where it cannot be predicted


def predict_on_device(model: LatencyModel, genomes: Genomes) -> OnDevice:
    """What a device's models predict for (N, G) genomes. A model that refuses limits predicts nothing."""
    beside = {name: other.predict(genomes) for name, other in model.limitable.items()}
    return {"latency_ms": model.predict(genomes), **beside}


def by_cost(on_devices: Mapping[str, OnDevice], row: int) -> dict[str, dict[str, float]]:
    """By cost and device, what is predicted for one network. on_devices: by device."""
    return {
        kind.name: {
            device: kind.number(values[kind.name][row])
            for device, values in on_devices.items()
            if kind.name in values and math.isfinite(values[kind.name][row])
        }
        for kind in device_costs()
    }
