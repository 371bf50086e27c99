"""How the pages read and write numbers and architectures."""

from dataclasses import asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.costs import COSTS, counted_costs
from service.pages import show
from service.pages.form import Budget, BudgetError, rounded_up
from service.quantities import BYTES, COUNTS, quantity, read_choices, written, written_choices
from service.searches.question import make_request
from service.storage.tables import Supernet


@given(st.floats(1e-6, 1e12))
def test_a_limit_is_written_as_what_it_is(value: float) -> None:
    for kind in COSTS:
        assert quantity(written(value, kind.units), kind.units) == value
    assert value <= rounded_up(value) <= value * 1.001


@pytest.mark.parametrize(
    ("value", "text"), [(1.2e6, "1.2M"), (1e9, "1G"), (169_152, "169152"), (0.06, "0.06"), (8, "8"), (12_000, "12k")]
)
def test_a_limit_is_written_as_one_types_it(value: float, text: str) -> None:
    assert written(value, COUNTS) == text


@pytest.mark.parametrize(
    ("value", "text"), [(1.5e6, "1.5MB"), (2**20, "1MiB"), (512_000, "512KB"), (3 * 2**10, "3KiB"), (1234.5, "1234.5")]
)
def test_a_size_is_written_as_one_types_it(value: float, text: str) -> None:
    assert written(value, BYTES) == text


def test_numbers_for_people() -> None:
    gap = show.GAP
    assert show.milliseconds(0.043) == "0.0430"
    assert [show.milliseconds(ms) for ms in (8, 12.34, 123.4, 1234.5, None)] == [
        "8.00",
        "12.3",
        "123",
        "1,234",
        show.UNKNOWN,
    ]
    assert show.cost(978_296, "flops") == f"978{gap}k"
    assert show.cost(999_999, "params") == f"1{gap}M"
    assert show.cost(0.0429, "latency_ms@board") == f"0.0429{gap}ms"
    assert show.cost(592_518, "model_bytes") == f"579{gap}KiB"
    assert show.cost(1020 * 2**10, "model_bytes") == f"1,020{gap}KiB"
    assert show.cost(2.0**50, "model_bytes") == f"1,048,576{gap}GiB"
    assert show.cost(2**20 - 1, "peak_memory_bytes") == f"1{gap}MiB"
    assert show.exact(1_163_480, "flops") == "1,163,480"
    assert show.exact(1.2e6, "flops") == f"1.2{gap}M"
    assert show.exact(1.5e6, "model_bytes") == f"1.5{gap}MB"
    assert show.exact(2**21, "peak_memory_bytes") == f"2{gap}MiB"
    assert show.exact(123_456, "peak_memory_bytes") == "123,456"
    assert show.nearest({"max": 978_296, "proven": True}, "flops") == f"978{gap}k"
    assert show.nearest({"max": 978_296, "proven": False}, "flops") == f"978{gap}k (not proven)"
    assert show.nearest({"max": None, "proven": True}, "flops") == "none"
    assert show.nearest(None, "flops") == show.UNKNOWN
    assert show.percent(0.984) == f"98.40{gap}%"
    assert show.cost_name("latency_ms@board@0.9") == "Latency on board, bound at 90%"
    message = "model_bytes is limited to 12, flops to 3, latency_ms@flops-board@0.9 to 1 and latency_ms@board to 1"
    assert show.named(message, ["latency_ms@board", "flops", "latency_ms@flops-board@0.9", "model_bytes"]) == (
        "file size is limited to 12, FLOPs to 3, latency on flops-board, bound at 90% to 1 and latency on board to 1"
    )
    assert [show.cost_name(kind.name) for kind in counted_costs()] == [
        "FLOPs",
        "Parameters",
        "File size",
        "Peak memory",
    ]


def test_architectures_of_other_genes_are_shown_too() -> None:
    space = {"depths": [[1, 3]], "block_genes": [{"name": "width", "choices": [0.65, 0.8, 1.0]}]}
    arch = {"resolution": 32, "stages": [[[0.65], [1.0]]]}
    (stage,) = show.stages(arch, space)
    assert [(box.label, box.shade, box.height) for box in stage.boxes] == [("width 0.65", 0, 0), ("width 1.0", 2, 0)]
    assert stage.left_out == 1
    assert show.line(arch, space) == f"32{show.GAP}px | width 0.65, width 1.0"


@pytest.mark.parametrize(
    ("text", "choices"),
    [
        ("", {}),
        ("kernel_size=3,5", {"kernel_size": [3, 5]}),
        ("  stage3.depth=2   expand_ratio=0.25,0.35 ", {"stage3.depth": [2], "expand_ratio": [0.25, 0.35]}),
    ],
)
def test_restricted_choices_are_read_and_written(text: str, choices: dict[str, list[float]]) -> None:
    assert read_choices(text) == choices
    assert Budget(choices=text).question().choices == choices
    assert written_choices(choices) == " ".join(text.split())


@pytest.mark.parametrize("text", ["kernel_size", "=3", "kernel_size=", "kernel_size=3,,5", "a=nan", "a=1 a=2", "a= 1"])
def test_choices_that_cannot_be_read_are_explained_at_their_field(text: str) -> None:
    with pytest.raises(BudgetError) as refused:
        Budget(choices=text).question()
    assert set(refused.value.fields) == {"choices"}


ON_DEVICES = [
    {"cost": "latency_ms", "max": 0.05, "device": "desk", "confidence": None},
    {"cost": "latency_ms", "max": 8.0, "device": "phone", "confidence": 0.9},
    {"cost": "latency_ms", "max": 12.5, "device": "tablet", "confidence": None},
    {"cost": "latency_ms", "max": 0.1, "device": "desk", "confidence": 0.95},
    {"cost": "flops", "max": 1e6, "device": None, "confidence": None},
    {"cost": "flops", "max": 2e6, "device": None, "confidence": None},
]


def test_a_form_asks_for_limits_on_several_devices_again() -> None:
    stored = {
        "supernet": "s",
        "device": None,
        "limits": ON_DEVICES,
        "min_accuracy": None,
        "objectives": ["flops", "params"],
        "verify": False,
    }
    budget = Budget.from_request(stored)
    assert budget.latencies == "desk=0.1@95% phone=8@90% tablet=12.5"
    request = make_request(budget.question(), Supernet(id="s"))
    assert [asdict(limit) for limit in request.limits] == sorted(
        ON_DEVICES[:5], key=lambda limit: (limit["cost"], limit["device"] or "", limit["confidence"] or 0)
    )
    assert request.objectives == ("flops", "params")


def test_a_refused_limit_on_another_device_is_raised_there() -> None:
    typed = {"device": "desk", "max_latency_ms": "0.05", "latencies": "phone=8ms@90% tablet=12.5"}
    problem = {
        "limits": {"latency_ms@desk": 0.05, "latency_ms@phone@0.9": 8.0, "latency_ms@tablet": 12.5},
        "smallest": {"costs": {"latency_ms@desk": 0.04, "latency_ms@phone@0.9": 9.0, "latency_ms@tablet": 13.0}},
    }
    raised = Budget.model_validate(typed).raised(problem).model_dump()
    assert (raised["max_latency_ms"], raised["latencies"]) == ("0.05", "phone=9@90% tablet=13")


@pytest.mark.parametrize("latencies", ["8.5", "=8.5", "phone", "phone=fast", "phone=8@180%", "phone=8@40%", "a b=8"])
def test_latency_limits_that_cannot_be_read_are_explained_at_their_field(latencies: str) -> None:
    with pytest.raises(BudgetError) as refused:
        Budget(latencies=latencies).question()
    assert set(refused.value.fields) == {"latencies"}


def test_an_objective_needs_a_least_accuracy_to_mean_anything() -> None:
    assert Budget(objective="flops").question().objective == "accuracy"
    assert Budget(min_accuracy="97.5 %", objective="flops").question().min_accuracy == 0.975
    with pytest.raises(BudgetError) as refused:
        Budget(min_accuracy="100%", objective="flops", device="no such name").question()
    assert set(refused.value.fields) == {"min_accuracy"}
