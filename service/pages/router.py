"""The web pages. They call the same functions as the API's endpoints.

Every address answers with a whole page. htmx takes from it the part that changed; without JavaScript the same forms and
links still work. Scripts and styles come from this service alone, and the policy sent with every page allows no others.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, FastAPI, Form, Query, Request, Response
from fastapi.responses import RedirectResponse
from fastapi.staticfiles import StaticFiles
from sqlalchemy.orm import Session
from starlette.exceptions import HTTPException

from evolution.costs import Cost
from service.candidates.fronts import merge_front
from service.candidates.schemas import Cost as CostName
from service.context import Context
from service.costs import COSTS, cost_kind, counted_costs, device_costs
from service.devices import queries as device_queries
from service.devices.show import list_all_devices
from service.errors import SuppleError, problem_document_of
from service.jobs.locks import count_workers
from service.jobs.queue import UNFINISHED
from service.pages import show
from service.pages.charts import beside_latency, chart, cost_names, search_chart
from service.pages.form import Budget, BudgetError
from service.pages.login import login_router
from service.pages.pages import HEADERS, HERE, PageRoute, explain_to_browser, own_form, render_page, templates
from service.predictors.show import show_predictors
from service.searches import ask
from service.searches.answer import predicted_cost
from service.searches.show import get_search, list_searches
from service.storage.tables import Supernet
from service.supernets import queries as supernet_queries
from service.supernets.extractable import why_not_extractable
from service.supernets.schemas import SupernetOut
from service.supernets.show import show_supernet
from service.web.auth import needs
from service.web.dependencies import ContextOf

RECENT = 12  # searches listed on the front page

templates.env.filters.update({**show.FILTERS, "predicted_cost": predicted_cost})
router = APIRouter(route_class=PageRoute, include_in_schema=False)


def install(app: FastAPI) -> None:
    """Serve the pages from `app`."""
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    app.include_router(login_router)
    app.include_router(router)
    app.add_exception_handler(HTTPException, explain_to_browser)


@router.get("/", dependencies=[needs("read")])
def home(request: Request, context: ContextOf, budget: Annotated[Budget, Query()]) -> Response:
    """The form, filled in from the address, and the newest searches."""
    with context.database.reading() as session:
        values = _home(session, context, budget)
    return render_page(request, "home.html", **values)


@router.post("/searches", dependencies=[needs("search"), Depends(own_form)])
def create_search(request: Request, context: ContextOf, budget: Annotated[Budget, Form()]) -> Response:
    """Create a search and go to its page; or show the form again, with what is wrong."""
    try:
        search = ask.create_search(context, budget.question())
    except BudgetError as error:
        problem: dict[str, Any] = {"fields": error.fields}
    except (SuppleError, ValueError) as error:
        problem = problem_document_of(error)
        if "floors" not in problem:
            problem["title"] = "This cannot be searched"
    else:
        query = "?stored=true" if search.answered_from else ""
        return RedirectResponse(f"/searches/{search.id}{query}", 303, HEADERS)
    with context.database.reading() as session:
        values = _home(session, context, budget)
    values |= {"problem": problem, "raised": _raised(budget, problem)}
    return render_page(request, "home.html", 422, {"HX-Push-Url": "false"}, **values)


@router.get("/searches/{search_id}", dependencies=[needs("read")])
def show_search(search_id: str, request: Request, context: ContextOf, stored: bool = False) -> Response:
    """A search with its answer, and the form that asks for it again.

    stored: whether the request was just sent again and answered from storage.
    """
    with context.database.reading() as session:
        search = get_search(session, context, search_id)
        supernet = supernet_queries.get(session, search.supernet)
        budget = Budget.from_request(search.request)
        form = _form(session, context, budget)
    manifest, volume = supernet.manifest, search.hypervolume
    return render_page(
        request,
        "search.html",
        **form,
        search=search,
        running=search.status in UNFINISHED,
        stored=stored,
        space=manifest["space"],
        not_extractable=why_not_extractable(supernet),
        views=manifest["views"]["count"],
        chart=search_chart(search, manifest["space"]),
        beside_latency=beside_latency(search.latency_models, search.front),
        front=search.front,
        size=search.front_size,
        latency_models=search.latency_models,
        counted=[kind.name for kind in counted_costs()],
        volumes=volume and show.volumes(volume.per_generation, volume.reference),
        problem=search.problem,
        raised=_raised(budget, search.problem),
        needs_key=context.settings.needs_key,
    )


@router.get("/fronts", dependencies=[needs("read")])
def show_front(
    request: Request,
    context: ContextOf,
    supernet: str = "",
    device: str = "",
    x: CostName | Literal[""] = "",
    y: CostName | Literal[""] = "",
) -> Response:
    """The front over all stored candidates of a supernet, and a form to choose another front.

    What the address leaves out, and a cost that the device does not tell, is the first choice of the form.
    """
    with context.database.reading() as session:
        form = _form(session, context, Budget(supernet=supernet, device=device))
        if not form["supernets"]:
            return RedirectResponse("/", 303, HEADERS)
        chosen: SupernetOut = form["supernet"]
        row = supernet_queries.get(session, chosen.id)
        offered = [kind.name for kind in form["costs"]]
        first = x if x in offered else next(name for name in offered if name != y)
        second = y if y in offered else None
        is_on_device = any(kind.name in (first, second) for kind in device_costs())
        on_device = form["device"] if is_on_device else None
        merged = merge_front(session, context, chosen.id, first, second, on_device)
        predictors = show_predictors(session, context, chosen.id)
    latency_models = [form["device"]] if form["device"] else []
    names = cost_names(latency_models, merged.items)
    axis = next((name for name in names if name.partition("@")[0] == first), names[0])
    space = row.manifest["space"]
    return render_page(
        request,
        "fronts.html",
        supernets=[(choice.id, f"{choice.name} · {choice.id[:8]}") for choice in form["supernets"]],
        supernet=chosen,
        devices=[(name, name) for name in form["devices"]],
        device=form["device"],
        costs=[(kind.name, kind.label) for kind in form["costs"]],
        merged=merged,
        predictors=predictors,
        front=merged.items,
        size=merged.size,
        latency_models=latency_models,
        counted=[kind.name for kind in counted_costs()],
        volumes=show.volumes([merged.hypervolume], merged.reference) if merged.items else None,
        space=space,
        chart=chart(merged.items, None, names, axis, space),
        beside_latency=beside_latency(latency_models, merged.items),
        not_extractable=why_not_extractable(row),
    )


@router.post("/searches/{search_id}/cancel", dependencies=[needs("search"), Depends(own_form)])
def cancel_search(search_id: str, context: ContextOf) -> Response:
    """Cancel a search."""
    ask.cancel_search(context, search_id)
    return RedirectResponse(f"/searches/{search_id}", 303, HEADERS)


def _home(session: Session, context: Context, budget: Budget) -> dict[str, Any]:
    """The values of home.html."""
    return _form(session, context, budget) | {"recent": list_searches(session, context, RECENT).items}


def _form(session: Session, context: Context, budget: Budget) -> dict[str, Any]:
    """The values of the form: the choices, the range of each cost, and the number of workers."""
    rows = supernet_queries.list_all(session)
    if not rows:
        return {"supernets": [], "budget": budget}
    row = next((row for row in rows if row.id == budget.supernet), rows[0])
    measured = [
        device.name
        for device in list_all_devices(session)
        if row.space_hash in {model.space_hash for model in device.latency_models}
    ]
    device = budget.device if budget.device in measured else next(iter(measured), None)
    on_device = costs_on_device(session, context, row, device)
    return {
        "supernets": [show_supernet(row) for row in rows],
        "supernet": show_supernet(row),
        "devices": measured,
        "device": device,
        "costs": [kind for kind in COSTS if kind.build or kind.name in on_device],
        "ranges": cost_ranges(session, context, row, device),
        "budget": budget,
        "workers": count_workers(context.database),
    }


def cost_ranges(
    session: Session, context: Context, supernet: Supernet, device: str | None
) -> dict[str, tuple[float, float]]:
    """By field of the form: the lowest value that the cost can have, and the largest architecture's."""
    tables = context.tables(supernet)
    counted: dict[str, Cost] = {kind.name: tables.cost(kind.name) for kind in counted_costs()}
    costs = counted | costs_on_device(session, context, supernet, device)
    largest = tables.space.encode(tables.space.largest())[None]
    ranges = {
        cost_kind(name).field: (float(cost.floors.min()), float(cost(largest)[0])) for name, cost in costs.items()
    }
    return {field: ends for field, ends in ranges.items() if all(map(math.isfinite, ends))}


def costs_on_device(session: Session, context: Context, supernet: Supernet, device: str | None) -> dict[str, Cost]:
    """By name, the costs that a device's models predict for a supernet's networks; none without a device."""
    if device is None:
        return {}
    row = device_queries.get_models(session, [device], supernet.space_hash)[device]
    model = context.latency_model(row, context.tables(supernet))
    beside = {name: other.cost(name) for name, other in model.limitable.items()}
    return {"latency_ms": model.cost("latency_ms"), **beside}


def _raised(budget: Budget, problem: Mapping[str, Any] | None) -> str | None:
    """The query of the front page that raises a refused budget to what the closest architecture needs."""
    if problem is None or "smallest" not in problem or None in problem["smallest"]["costs"].values():
        return None  # the device was not measured at this architecture's resolution
    raised = budget.raised(problem)
    return urlencode(raised.model_dump(exclude_defaults=True)) if raised != budget else None
