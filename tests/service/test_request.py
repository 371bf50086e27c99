"""The canonical request: what is stored and hashed, whatever release stored it."""

import hashlib
import json
from typing import Any

import pytest

from evolution.limits import Limit
from service.searches.findings import Findings
from service.searches.request import SearchRequest, canonical_choices

STORED: dict[str, Any] = {
    "supernet": "374ff9d47b336b69",
    "limits": [
        {"cost": "flops", "max": 2e6, "device": None, "confidence": None},
        {"cost": "latency_ms", "max": 0.05, "device": "board", "confidence": 0.9},
    ],
    "device": "board",
    "objectives": ["latency_ms"],
    "strategy": "nsga2",
    "objective": "pareto",
    "min_accuracy": None,
    "resolution": None,
    "max_resolution": 16,
    "seed": 3,
    "budget": 600,
    "warm_start": True,
    "verify": False,
}


def test_the_json_is_what_earlier_releases_stored_to_the_byte() -> None:
    assert json.dumps(SearchRequest.from_json(STORED).to_json()) == json.dumps(STORED)
    digest = hashlib.sha256(json.dumps(STORED, sort_keys=True).encode()).hexdigest()
    assert digest == "fa34352533ec9fa8d7b0385b3d0ef2e22251170e18ef26f43acfadf39951d4f2"


def test_restricted_choices_are_stored_in_one_order() -> None:
    choices: dict[str, list[float]] = {"stage3.depth": [2.0], "kernel_size": [5, 3, 3]}
    request = SearchRequest("some", choices=canonical_choices(choices))
    assert request.to_json()["choices"] == {"kernel_size": [3, 5], "stage3.depth": [2]}
    assert json.dumps(request.to_json()["choices"]) == '{"kernel_size": [3, 5], "stage3.depth": [2]}'
    assert SearchRequest.from_json(request.to_json()) == request
    assert hash(request) == hash(SearchRequest("some", choices=canonical_choices(dict(reversed(choices.items())))))


def test_a_request_is_a_value() -> None:
    request = SearchRequest.from_json(STORED)
    assert len({request, SearchRequest.from_json(STORED)}) == 1
    assert request.limits[1] == Limit("latency_ms", 0.05, "board", 0.9)
    assert request.evaluations == 600
    assert request.devices == ["board"]
    assert request.first_cost == ("latency_ms", "board")


@pytest.mark.parametrize("missing", ["max_resolution", "objectives"])
def test_fields_that_an_earlier_release_did_not_store_have_their_defaults(missing: str) -> None:
    default = getattr(SearchRequest("some"), missing)
    stored = {name: value for name, value in STORED.items() if name != missing}
    assert getattr(SearchRequest.from_json(stored), missing) == default


@pytest.mark.parametrize(
    "stored",
    [
        {
            "front_size": 1,
            "sensitivity": [
                {
                    "cost": "flops",
                    "limit": 2e6,
                    "step": 1e5,
                    "gained": 0.002,
                    "lost": None,
                    "cheapest": {"gene": "g", "old": 7.0, "new": 3.0, "accuracy": -0.1, "cost": -5.0},
                    "gained_per_unit": 0.002 / 1e5,
                    "lost_per_unit": None,
                }
            ],
            "two_opt": None,
            "two_opt_evaluations": 60,
            "gained_last_1000": None,
            "reached": True,
        },
        {
            "front_size": 2,
            "sensitivity": [],
            "two_opt": False,
            "two_opt_evaluations": 0,
            "gained_last_1000": 0.0,
            "hypervolume": {"reference": {"error": 1.0, "flops": 2e6}, "per_generation": [1.0, 2.0]},
        },
    ],
)
def test_findings_are_stored_as_before(stored: dict[str, Any]) -> None:
    assert json.dumps(Findings.from_json(stored).to_json()) == json.dumps(stored)


@pytest.mark.parametrize("stored", [None, {}, {"front_size": 3}])
def test_findings_of_earlier_releases_are_read(stored: dict[str, Any] | None) -> None:
    findings = Findings.from_json(stored)
    assert findings.front_size == (stored or {}).get("front_size")
    assert findings.two_opt is None
    assert findings.sensitivity == ()
