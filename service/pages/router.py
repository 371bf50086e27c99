"""The web pages. They ask the same functions as the API's callers do, and every address answers with a whole page: htmx
takes from it the part that changed, and without JavaScript the same forms and links still work.

The scripts and the style are files of ours; the policy that goes out with every page lets nothing else run.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, FastAPI, Form, Query, Request, Response
from fastapi.responses import RedirectResponse
from fastapi.staticfiles import StaticFiles

from evolution.costs import Cost
from service.candidates import fronts as candidates
from service.candidates.schemas import Cost as CostName
from service.context import Context
from service.costs import COSTS, cost_kind, counted_costs
from service.devices import queries as device_queries
from service.devices.show import every
from service.errors import SuppleError, problem_document_of
from service.pages import show
from service.pages.charts import chart, cost_names, search_chart
from service.pages.form import Budget, BudgetError
from service.pages.login import doors
from service.pages.pages import HEADERS, HERE, PageRoute, _page, same_origin, templates
from service.searches import endpoints as searches
from service.searches.queries import UNFINISHED
from service.supernets import endpoints as supernets
from service.supernets import queries as supernet_queries
from service.supernets.extractable import why_not_extractable
from service.supernets.schemas import SupernetOut
from service.supernets.show import summary
from service.web.auth import require_key
from service.web.dependencies import ContextOf

RECENT = 12  # searches listed on the front page

templates.env.filters.update(show.FILTERS)


def install(app: FastAPI) -> None:
    """Serve the pages from `app`."""
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    app.include_router(doors)
    app.include_router(router, dependencies=[Depends(require_key)])


# The pages.

router = APIRouter(route_class=PageRoute, include_in_schema=False)


@router.get("/")
def home(request: Request, context: ContextOf, budget: Annotated[Budget, Query()]) -> Response:
    """The form, filled in as the address says, and the searches before."""
    return _page(request, "home.html", **_form(context, budget), **_recent(context))


@router.post("/searches", dependencies=[Depends(same_origin)])
async def ask(request: Request, context: ContextOf, budget: Annotated[Budget, Form()]) -> Response:
    """Ask, and go to the answer; or the form again, with what is wrong."""
    try:
        search = await searches.ask(budget.question(), context, Response())
    except BudgetError as error:
        problem: dict[str, Any] = {"fields": error.fields}
    except (SuppleError, ValueError) as error:
        problem = problem_document_of(error)
        if "floors" not in problem:
            problem["title"] = "This cannot be searched"
    else:
        query = "?stored=true" if search.answered_from else ""
        return RedirectResponse(f"/searches/{search.id}{query}", 303, HEADERS)
    found = _form(context, budget) | {"problem": problem, "raised": _raised(budget, problem)}
    return _page(request, "home.html", 422, {"HX-Push-Url": "false"}, **found, **_recent(context))


@router.get("/searches/{search_id}")
def answer(search_id: str, request: Request, context: ContextOf, stored: bool = False) -> Response:
    """One search and its answer, with the form that asks it again. stored: it was asked again, and not searched for."""
    search = searches.one(search_id, context)
    budget, supernet = Budget.from_request(search.request), supernets.one(search.supernet, context)
    return _page(
        request,
        "search.html",
        **_form(context, budget),
        search=search,
        running=search.status in UNFINISHED,
        stored=stored,
        space=supernet.space,
        wanting=_wanting(context, search.supernet),
        views=supernet.provenance["views"]["count"],
        chart=search_chart(search, supernet.space),
        front=search.front,
        size=search.front_size,
        latency_models=search.latency_models,
        counted=[kind.name for kind in counted_costs()],
        volumes=(found := search.hypervolume) and show.volumes(found.per_generation, found.reference),
        problem=search.problem,
        raised=_raised(budget, search.problem),
        needs_key=context.settings.needs_key,
    )


@router.get("/fronts")
def fronts(
    request: Request,
    context: ContextOf,
    supernet: str = "",
    device: str = "",
    x: CostName | Literal[""] = "",
    y: CostName | Literal[""] = "",
) -> Response:
    """The front over everything stored, with a form that chooses another; unless asked, the first there is."""
    form = _form(context, Budget(supernet=supernet, device=device))
    if not form["supernets"]:
        return RedirectResponse("/", 303, HEADERS)
    chosen: SupernetOut = form["supernet"]
    first, second = x or form["costs"][0].name, y or None
    on = form["device"] if "latency_ms" in (first, second) else None
    with context.database.reading() as session:
        found = candidates.front(session, context, chosen.id, first, second, on)
    latency = [form["device"]] if form["device"] else []
    names = cost_names(latency)
    axis = next(name for name in names if name.partition("@")[0] == first)
    return _page(
        request,
        "fronts.html",
        supernets=[(one.id, f"{one.name} · {one.id[:8]}") for one in form["supernets"]],
        supernet=chosen,
        devices=[(name, name) for name in form["devices"]],
        device=form["device"],
        costs=[(kind.name, kind.label) for kind in form["costs"]],
        found=found,
        front=found.items,
        size=found.size,
        latency_models=latency,
        counted=[kind.name for kind in counted_costs()],
        volumes=show.volumes([found.hypervolume], found.reference) if found.items else None,
        space=(space := supernets.one(chosen.id, context).space),
        chart=chart(found.items, None, names, axis, space),
        wanting=_wanting(context, chosen.id),
    )


@router.post("/searches/{search_id}/cancel", dependencies=[Depends(same_origin)])
def cancel(search_id: str, context: ContextOf) -> Response:
    """Stop a search."""
    searches.cancel(search_id, context)
    return RedirectResponse(f"/searches/{search_id}", 303, HEADERS)


def _form(context: Context, budget: Budget) -> dict[str, Any]:
    """What the form shows: what there is to choose from, and how far each cost reaches."""
    with context.database.reading() as session:
        known = [summary(supernet) for supernet in supernet_queries.every(session)]
        known_devices = every(session)
    if not known:
        return {"supernets": [], "budget": budget}
    supernet = next((one for one in known if one.id == budget.supernet), known[0])
    measured = [
        device.name
        for device in known_devices
        if supernet.space_hash in {model.space_hash for model in device.latency_models}
    ]
    device = budget.device if budget.device in measured else next(iter(measured), None)
    return {
        "supernets": known,
        "supernet": supernet,
        "devices": measured,
        "device": device,
        "costs": [kind for kind in COSTS if measured or kind.build],
        "ranges": ranges(context, supernet, device),
        "budget": budget,
    }


def ranges(context: Context, supernet: SupernetOut, device: str | None) -> dict[str, tuple[float, float]]:
    """By field of the form: the least its cost can be, and what the largest architecture has."""
    with context.database.reading() as session:
        tables = context.loaded(supernet_queries.get(session, supernet.id)).tables
        costs: dict[str, Cost] = {kind.name: tables.cost(kind.name) for kind in counted_costs()}
        if device is not None:
            row = device_queries.models_for(session, [device], supernet.space_hash)[device]
            costs["latency_ms"] = context.latency_model(row, tables).cost("latency_ms")
    largest = tables.space.encode(tables.space.largest())[None]
    found = {cost_kind(name).field: (float(cost.floors.min()), float(cost(largest)[0])) for name, cost in costs.items()}
    return {field: reach for field, reach in found.items() if all(map(math.isfinite, reach))}


def _wanting(context: Context, supernet_id: str) -> str | None:
    """Why a supernet gives no networks to verify and download, None where it does."""
    with context.database.reading() as session:
        return why_not_extractable(supernet_queries.get(session, supernet_id))


def _recent(context: Context) -> dict[str, Any]:
    return {"recent": searches.every(context, RECENT).items}


def _raised(budget: Budget, problem: Mapping[str, Any] | None) -> str | None:
    """The query of the front page that fills in a budget which the architecture in a refusal is within."""
    if problem is None or "smallest" not in problem or None in problem["smallest"]["costs"].values():
        return None  # a cost is not known where the device was measured in part
    raised = budget.raised(problem)
    return urlencode(raised.model_dump(exclude_defaults=True)) if raised != budget else None


# The way in and out of a service that asks for keys.
