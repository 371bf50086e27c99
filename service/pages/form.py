"""The form on the pages: what a person typed, and the request for a search that follows from it."""

import decimal
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel, ValidationError, create_model

from service.costs import COSTS, cost_kind
from service.quantities import fraction, quantity, read_choices, written, written_choices
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

    objective: the cost to minimise at `min_accuracy`; without a `min_accuracy` it means nothing. front: the cost whose
    whole front against accuracy to search for, instead of one network. choices: as `read_choices` reads them.
    """

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
        texts = {"supernet": request["supernet"], "device": request["device"] or ""}
        for limit in request["limits"]:
            kind = cost_kind(limit["cost"])
            texts[kind.field] = written(limit["max"], kind.units)
            texts["device"] = limit["device"] or texts["device"]
        if request["min_accuracy"] is not None:
            texts |= {"min_accuracy": f"{100 * request['min_accuracy']:.10g}%", "objective": request["objective"]}
        if request["objectives"]:
            texts["front"] = request["objectives"][0]
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
        if self.front:
            values |= {"objective": "pareto", "objectives": [self.front]}
        elif self.min_accuracy.strip():
            values["objective"] = self.objective
        if "max_latency_ms" in values or "latency_ms" in (values.get("objective"), self.front):
            values["device"] = self.device or None
        try:
            question = SearchIn.model_validate(values)
        except ValidationError as error:
            errors = {str(detail["loc"][0]): detail["msg"] for detail in error.errors()} | errors
        if errors:
            raise BudgetError(errors)
        return question

    def raised(self, problem: Mapping[str, Any]) -> Self:
        """This budget, with each limit that the closest architecture of a refusal exceeds raised to its cost."""
        limits: dict[str, float] = problem["limits"]
        costs: dict[str, float] = problem["smallest"]["costs"]
        exceeded = {cost_kind(name): cost for name, cost in costs.items() if name in limits and cost > limits[name]}
        raised = {kind.field: written(rounded_up(cost), kind.units) for kind, cost in exceeded.items()}
        return self.model_copy(update=raised)


READERS: Mapping[str, Callable[[str], Any]] = {
    **{kind.field: partial(quantity, units=kind.units) for kind in COSTS},
    "min_accuracy": fraction,
    "resolution": int,
    "max_resolution": int,
    "choices": read_choices,
}


def rounded_up(value: float, digits: int = 4) -> float:
    """A whole value as it is; any other one rounded up to this many significant digits."""
    if value == round(value):
        return value
    return float(decimal.Context(prec=digits, rounding=decimal.ROUND_CEILING).create_decimal(repr(value)))
