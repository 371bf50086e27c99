"""The form on the pages: what a person typed, and the request for a search that follows from it."""

import decimal
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ValidationError, create_model

from service.costs import COSTS, cost_kind, device_costs
from service.quantities import (
    LatencyLimit,
    fraction,
    quantity,
    read_choices,
    read_latency_limits,
    written,
    written_choices,
)
from service.searches.schemas import SearchIn


class BudgetError(ValueError):
    """Some fields of the form cannot be read. fields: by field, what is wrong with it."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{field}: {message}" for field, message in fields.items()))
        self.fields = dict(fields)


class Choice(BaseModel):
    """The supernet and the device that the form has chosen."""

    supernet: str = ""
    device: str = ""


if TYPE_CHECKING:
    CostLimits = Choice
else:
    CostLimits = create_model("CostLimits", __base__=Choice, **{kind.field: (str, "") for kind in COSTS})


class Budget(CostLimits):
    """The form as typed: each field is text, empty where nothing was typed. `SearchIn` has the same names.

    objective: the cost to minimise at `min_accuracy`; without a `min_accuracy` it means nothing. front: the cost, or
    the two costs with a space between, whose whole front against accuracy to search for, instead of one network.
    latencies: limits on further devices and on bounds, as `read_latency_limits` reads them. choices: as `read_choices`
    reads them.
    """

    latencies: str = ""
    choices: str = ""
    max_resolution: str = ""
    min_accuracy: str = ""
    objective: str = ""
    front: str = ""
    resolution: str = ""
    verify: str = ""

    @classmethod
    def from_request(cls, request: Mapping[str, Any]) -> Self:
        """The form that asks a stored search's question again, as far as it has fields for the question."""
        # Of several limits on one cost the lowest counts, so it is written last.
        limits = sorted(request["limits"], key=lambda limit: limit["max"], reverse=True)
        names = sorted(limit["device"] for limit in limits if limit["device"] and limit["confidence"] is None)
        texts = {"supernet": request["supernet"], "device": request["device"] or next(iter(names), "")}
        further = []
        for limit in limits:
            kind, device = cost_kind(limit["cost"]), limit["device"]
            is_elsewhere = device is not None and device != texts["device"]
            if kind.name == "latency_ms" and (limit["confidence"] is not None or is_elsewhere):
                further.append(LatencyLimit(device, limit["max"], limit["confidence"]))
            elif not is_elsewhere:
                texts[kind.field] = written(limit["max"], kind.units)
        texts["latencies"] = " ".join(map(str, sorted(further, key=str)))
        if request["min_accuracy"] is not None:
            texts |= {"min_accuracy": f"{100 * request['min_accuracy']:.10g}%", "objective": request["objective"]}
        if request["objectives"]:
            texts["front"] = " ".join(request["objectives"])
        for field in ("resolution", "max_resolution"):
            texts[field] = str(request.get(field) or "")
        texts["choices"] = written_choices(request.get("choices", {}))
        return cls(**texts, verify="on" if request["verify"] else "")

    def question(self) -> SearchIn:
        """The form as a request for a search.

        Raises:
            BudgetError: some fields cannot be read, or no search takes their values.
        """
        values: dict[str, Any] = {"supernet": self.supernet or None, "verify": bool(self.verify)}
        errors: dict[str, str] = {}
        for field, read in READERS.items():
            if text := getattr(self, field).strip():
                try:
                    values[field] = read(text)
                except ValueError as error:
                    errors[field] = str(error)
        if latencies := values.pop("latencies", None):
            values["limits"] = [
                {"cost": "latency_ms", "max": limit.max_ms, "device": limit.device, "confidence": limit.confidence}
                for limit in latencies
            ]
        fronts = self.front.split()
        if fronts:
            values |= {"objective": "pareto", "objectives": fronts}
        elif self.min_accuracy.strip():
            values["objective"] = self.objective
        if any(kind.field in values or kind.name in (values.get("objective"), *fronts) for kind in device_costs()):
            values["device"] = self.device or None
        try:
            question = SearchIn.model_validate(values)
        except ValidationError as error:
            fields = {"limits": "latencies", "objectives": "front"}
            errors = {
                fields.get(field := str(detail["loc"][0]), field): detail["msg"] for detail in error.errors()
            } | errors
        if errors:
            raise BudgetError(errors)
        return question

    def raised(self, problem: Mapping[str, Any]) -> Self:
        """This budget, with each limit that the closest architecture of a refusal exceeds raised to its cost."""
        limits: dict[str, float] = problem["limits"]
        costs: dict[str, float] = problem["smallest"]["costs"]
        exceeded = {name: rounded_up(cost) for name, cost in costs.items() if name in limits and cost > limits[name]}
        further = {limit.name: limit for limit in read_latency_limits(self.latencies)}
        fields: dict[str, str] = {}
        for name, value in exceeded.items():
            kind = cost_kind(name)
            if name in further:
                further[name] = replace(further[name], max_ms=value)
            else:
                fields[kind.field] = written(value, kind.units)
        return self.model_copy(update={**fields, "latencies": " ".join(map(str, further.values()))})


READERS: Mapping[str, Callable[[str], Any]] = {
    **{kind.field: partial(quantity, units=kind.units) for kind in COSTS},
    "min_accuracy": fraction,
    "resolution": int,
    "max_resolution": int,
    "choices": read_choices,
    "latencies": read_latency_limits,
}


def rounded_up(value: float, digits: int = 4) -> float:
    """A whole value as it is; any other one rounded up to this many significant digits."""
    if value == round(value):
        return value
    return float(decimal.Context(prec=digits, rounding=decimal.ROUND_CEILING).create_decimal(repr(value)))
