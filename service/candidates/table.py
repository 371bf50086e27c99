"""Candidates as the rows of a table."""

import json
from collections.abc import Sequence

from starlette.responses import Response

from service.candidates.schemas import CandidateOut
from service.costs import counted_costs
from service.web.tables import csv_response

ACCURACIES = ("predicted_accuracy", "predicted_accuracy_std", "verified_accuracy", "verified_images")
ON_DEVICES = (  # each by device
    "predicted_latency_ms",
    "predicted_latency_bound_ms",
    "measured_latency_ms",
    "predicted_device_memory_bytes",
    "measured_device_memory_bytes",
    "predicted_energy_mj",
    "measured_energy_mj",
)


def candidates_csv(candidates: Sequence[CandidateOut], name: str) -> Response:
    """Candidates as a CSV file of this name. A cost of devices has a column for each: `predicted_latency_ms@phone`."""
    plain = ("id", "supernet", "resolution", *(kind.name for kind in counted_costs()), *ACCURACIES)
    on_devices = [_on_devices(candidate) for candidate in candidates]
    by_device = sorted({column for row in on_devices for column in row}, key=_place)
    rows = [
        {
            **{column: getattr(candidate, column) for column in (*plain, "predictor", "onnx")},
            **measured,
            "created_at": candidate.created_at.isoformat(),
            "arch": json.dumps(candidate.arch),
        }
        for candidate, measured in zip(candidates, on_devices, strict=True)
    ]
    return csv_response([*plain, *by_device, "predictor", "onnx", "created_at", "arch"], rows, name)


def _on_devices(candidate: CandidateOut) -> dict[str, float]:
    values: dict[str, dict[str, float]] = {kind: getattr(candidate, kind) or {} for kind in ON_DEVICES}
    return {f"{kind}@{device}": value for kind, devices in values.items() for device, value in devices.items()}


def _place(column: str) -> tuple[int, str]:
    kind, _, device = column.partition("@")
    return ON_DEVICES.index(kind), device
