"""Candidates as the rows of a table."""

import json
from collections.abc import Sequence

from starlette.responses import Response

from service.candidates.schemas import CandidateOut
from service.costs import counted_costs
from service.web.tables import csv_response

ACCURACIES = ("predicted_accuracy", "predicted_accuracy_std", "verified_accuracy", "verified_images")
LATENCIES = ("predicted_latency_ms", "predicted_latency_bound_ms", "measured_latency_ms")  # each by device


def candidates_csv(candidates: Sequence[CandidateOut], name: str) -> Response:
    """Candidates as a CSV file of this name. A latency has a column for each device: `predicted_latency_ms@phone`."""
    plain = ("id", "supernet", "resolution", *(kind.name for kind in counted_costs()), *ACCURACIES)
    latencies = [_latencies(candidate) for candidate in candidates]
    by_device = sorted({column for row in latencies for column in row}, key=_place)
    rows = [
        {
            **{column: getattr(candidate, column) for column in (*plain, "predictor", "onnx")},
            **measured,
            "created_at": candidate.created_at.isoformat(),
            "arch": json.dumps(candidate.arch),
        }
        for candidate, measured in zip(candidates, latencies, strict=True)
    ]
    return csv_response([*plain, *by_device, "predictor", "onnx", "created_at", "arch"], rows, name)


def _latencies(candidate: CandidateOut) -> dict[str, float]:
    values: dict[str, dict[str, float]] = {kind: getattr(candidate, kind) or {} for kind in LATENCIES}
    return {f"{kind}@{device}": ms for kind, devices in values.items() for device, ms in devices.items()}


def _place(column: str) -> tuple[int, str]:
    kind, _, device = column.partition("@")
    return LATENCIES.index(kind), device
