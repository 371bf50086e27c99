"""The form: what a person typed, and the question it makes."""

import decimal
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Self

from pydantic import BaseModel, ValidationError

from service.quantities import BYTES, COUNTS, UNITS, Units, fraction, quantity
from service.searches.question import SHORTHANDS
from service.searches.schemas import SearchIn

COST_FIELDS = {cost: field for field, cost in SHORTHANDS.items()}


class BudgetError(ValueError):
    """Some fields of the form cannot be read. fields: a message for each of these."""

    def __init__(self, fields: Mapping[str, str]) -> None:
        super().__init__("; ".join(f"{field}: {message}" for field, message in fields.items()))
        self.fields = dict(fields)


class Budget(BaseModel):
    """The form as typed: every field is text, empty where it was left so. The names are those of `SearchIn`.

    objective: the cost to make least once `min_accuracy` is reached; without the latter it means nothing. front: the
    cost to seek the whole front against, instead of one network.
    """

    supernet: str = ""
    device: str = ""
    max_latency_ms: str = ""
    max_flops: str = ""
    max_params: str = ""
    max_model_bytes: str = ""
    max_peak_memory_bytes: str = ""
    max_resolution: str = ""
    min_accuracy: str = ""
    objective: str = ""
    front: str = ""
    resolution: str = ""
    verify: str = ""

    @classmethod
    def of(cls, request: Mapping[str, Any]) -> Self:
        """The form that asks a stored search's question, as far as it has fields for it."""
        texts = {"supernet": request["supernet"], "device": request["device"] or ""}
        for limit in request["limits"]:
            texts[COST_FIELDS[limit["cost"]]] = written(limit["max"], UNITS[limit["cost"]])
            texts["device"] = limit["device"] or texts["device"]
        if request["min_accuracy"] is not None:
            texts |= {"min_accuracy": f"{100 * request['min_accuracy']:.10g}%", "objective": request["objective"]}
        if request["objectives"]:
            texts["front"] = request["objectives"][0]
        for field in ("resolution", "max_resolution"):
            texts[field] = str(request.get(field) or "")
        return cls(**texts, verify="on" if request["verify"] else "")

    def question(self) -> SearchIn:
        """The question it asks.

        Raises:
            BudgetError: fields that cannot be read, or that no question has.
        """
        values: dict[str, Any] = {"supernet": self.supernet or None, "verify": bool(self.verify)}
        errors: dict[str, str] = {}
        for field, read in READERS.items():
            if text := getattr(self, field).strip():
                try:
                    values[field] = read(text)
                except ValueError as error:
                    errors[field] = str(error)
        if self.front:
            values |= {"objective": "pareto", "objectives": [self.front]}
        elif self.min_accuracy.strip():
            values["objective"] = self.objective
        if "max_latency_ms" in values or "latency_ms" in (values.get("objective"), self.front):
            values["device"] = self.device or None
        try:
            question = SearchIn.model_validate(values)
        except ValidationError as error:
            errors = {str(one["loc"][0]): one["msg"] for one in error.errors()} | errors
        if errors:
            raise BudgetError(errors)
        return question

    def raised(self, problem: Mapping[str, Any]) -> Self:
        """This budget with every limit raised, where it must be, to what the architecture in a refusal needs."""
        needed: dict[str, float] = problem["smallest"]["costs"]
        costs = {name: name.partition("@")[0] for name in problem["limits"]}
        short = {costs[name]: need for name, need in needed.items() if name in costs and need > problem["limits"][name]}
        raised = {COST_FIELDS[cost]: written(rounded_up(need), UNITS[cost]) for cost, need in short.items()}
        return self.model_copy(update=raised)


READERS: Mapping[str, Callable[[str], Any]] = {
    **{COST_FIELDS[cost]: partial(quantity, units=units) for cost, units in UNITS.items()},
    "min_accuracy": fraction,
    "resolution": int,
    "max_resolution": int,
}
SIZES = (("G", 1e9), ("M", 1e6), ("k", 1e3), ("", 1))
BYTE_SIZES = (
    ("GB", 1e9),
    ("GiB", 2.0**30),
    ("MB", 1e6),
    ("MiB", 2.0**20),
    ("KB", 1e3),
    ("KiB", 2.0**10),
    ("", 1),
)


def rounded_up(value: float, digits: int = 4) -> float:
    """The value, or the next larger one of so many significant digits where it is not whole."""
    if value == round(value):
        return value
    return float(decimal.Context(prec=digits, rounding=decimal.ROUND_CEILING).create_decimal(repr(value)))


def written(value: float, units: Units = COUNTS) -> str:
    """A limit as one types it: the shortest text that is read as the same number."""
    texts = [
        text
        for unit, size in (BYTE_SIZES if units is BYTES else SIZES)
        if (not unit or unit.lower() in units) and value >= size and "e" not in (text := f"{value / size:.4g}{unit}")
    ]
    exact = [text for text in texts if quantity(text, units) == value]
    return min(exact, key=len, default=repr(value) if value != round(value) else str(round(value)))
