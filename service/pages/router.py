"""The web pages. They ask the same functions as the API's callers do, and every address answers with a whole page: htmx
takes from it the part that changed, and without JavaScript the same forms and links still work.

The scripts and the style are files of ours; the policy that goes out with every page lets nothing else run.
"""

import json
import math
from collections.abc import Callable, Coroutine, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, FastAPI, Form, Header, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates
from starlette.exceptions import HTTPException

from evolution.constraints import Limit, cost_of
from service import errors
from service.auth import COOKIE, require_key
from service.candidates import rules as candidates
from service.candidates.schemas import CandidateOut, Cost
from service.context import Context, ContextOf
from service.devices import queries as device_queries
from service.devices import rules as device_rules
from service.errors import SuppleError, UnauthorizedError, problem_of
from service.pages import show
from service.pages.budget import COST_FIELDS, Budget, BudgetError
from service.searches import endpoints as searches
from service.searches.queries import UNFINISHED
from service.searches.schemas import SearchOut
from service.supernets import endpoints as supernets
from service.supernets import queries as supernet_queries
from service.supernets import rules as supernet_rules
from service.supernets.schemas import SupernetOut

HERE = Path(__file__).parent
RECENT = 12  # searches listed on the front page
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}

templates = Jinja2Templates(directory=HERE / "templates")
templates.env.filters.update(show.FILTERS)
templates.env.trim_blocks = templates.env.lstrip_blocks = True


def install(app: FastAPI) -> None:
    """Serve the pages from `app`."""
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    app.include_router(doors)
    app.include_router(router, dependencies=[Depends(require_key)])


def same_origin(sec_fetch_site: Annotated[str, Header(include_in_schema=False)] = "") -> None:
    """Refuse a form that another site's page sent: an open service has no key that would keep it out."""
    if sec_fetch_site not in ("", "same-origin", "none"):
        raise HTTPException(403, f"this form was sent from another site ({sec_fetch_site})")


class PageRoute(APIRoute):
    """A route whose errors are pages."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The handler, with what it raises explained to a person."""
        handle = super().get_route_handler()

        async def handle_or_explain(request: Request) -> Response:
            try:
                return await handle(request)
            except Exception as error:
                return await _explain(request, error)

        return handle_or_explain


async def _explain(request: Request, error: Exception) -> Response:
    if isinstance(error, SuppleError):
        problem = error.problem()
        if error.status == 401:
            back = request.url.path if request.method == "GET" else "/"
            return _page(request, "login.html", 401, {"HX-Refresh": "true"}, next=back)
    elif isinstance(error, HTTPException):
        problem = {"title": "Refused", "status": error.status_code, "detail": error.detail}
    elif isinstance(error, RequestValidationError):
        problem = {"title": "Not understood", "status": 422, "detail": "the form or the address has an unknown shape"}
    else:
        problem = json.loads(bytes((await errors.answer(request, error)).body))
    return _page(request, "problem.html", problem["status"], problem=problem)


def _page(
    request: Request, template: str, status: int = 200, headers: Mapping[str, str] | None = None, /, **values: Any
) -> Response:
    values["signed_in"] = COOKIE in request.cookies
    return templates.TemplateResponse(request, template, values, status, {**HEADERS, **(headers or {})})


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
        problem = problem_of(error)
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
    budget, supernet = Budget.of(search.request), supernets.one(search.supernet, context)
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
        counted=show.COUNTED,
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
    x: Cost | Literal[""] = "",
    y: Cost | Literal[""] = "",
) -> Response:
    """The front over everything stored, with a form that chooses another; unless asked, the first there is."""
    form = _form(context, Budget(supernet=supernet, device=device))
    if not form["supernets"]:
        return RedirectResponse("/", 303, HEADERS)
    chosen: SupernetOut = form["supernet"]
    first, second = x or form["sought"][0], y or None
    on = form["device"] if "latency_ms" in (first, second) else None
    with context.database.reading() as session:
        found = candidates.front(session, context, chosen.id, first, second, on)
    latency = [form["device"]] if form["device"] else []
    names = {"latency_ms": f"latency_ms@{form['device']}"} if latency else {}
    names |= {name: name for name in show.COUNTED}
    return _page(
        request,
        "fronts.html",
        supernets=[(one.id, f"{one.name} · {one.id[:8]}") for one in form["supernets"]],
        supernet=chosen,
        devices=[(name, name) for name in form["devices"]],
        device=form["device"],
        costs=[(name, show.in_sentence(name)) for name in form["sought"]],
        found=found,
        front=found.items,
        size=found.size,
        latency_models=latency,
        counted=show.COUNTED,
        volumes=show.volumes([found.hypervolume], found.reference) if found.items else None,
        space=(space := supernets.one(chosen.id, context).space),
        chart=chart(found.items, None, list(names.values()), names[first], space),
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
        known = [supernet_rules.summary(supernet) for supernet in supernet_queries.every(session)]
        known_devices = device_rules.every(session)
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
        "sought": [name for name in get_args(Cost) if measured or name != "latency_ms"],
        "ranges": ranges(context, supernet, device),
        "budget": budget,
    }


def ranges(context: Context, supernet: SupernetOut, device: str | None) -> dict[str, tuple[float, float]]:
    """By field of the form: the least its cost can be, and what the largest architecture has."""
    with context.database.reading() as session:
        tables = context.loaded(supernet_queries.get(session, supernet.id)).tables
        costs = {name: cost_of(Limit(name, 1.0), tables, {}) for name in show.COUNTED}
        if device is not None:
            row = device_queries.models_for(session, [device], supernet.space_hash)[device]
            costs["latency_ms"] = context.latency_model(row, tables).cost("latency_ms")
    largest = tables.space.encode(tables.space.largest())[None]
    found = {COST_FIELDS[name]: (float(cost.floors.min()), float(cost(largest)[0])) for name, cost in costs.items()}
    return {field: reach for field, reach in found.items() if all(map(math.isfinite, reach))}


def _wanting(context: Context, supernet_id: str) -> str | None:
    """Why a supernet gives no networks to verify and download, None where it does."""
    with context.database.reading() as session:
        return supernet_rules.why_not_extractable(supernet_queries.get(session, supernet_id))


def _recent(context: Context) -> dict[str, Any]:
    return {"recent": searches.every(context, RECENT).items}


def _raised(budget: Budget, problem: Mapping[str, Any] | None) -> str | None:
    """The query of the front page that fills in a budget which the architecture in a refusal is within."""
    if problem is None or "smallest" not in problem or None in problem["smallest"]["costs"].values():
        return None  # a cost is not known where the device was measured in part
    raised = budget.raised(problem)
    return urlencode(raised.model_dump(exclude_defaults=True)) if raised != budget else None


def search_chart(search: SearchOut, space: Mapping[str, Any]) -> dict[str, Any]:
    """What the chart of a search's front is drawn from."""
    names = [*(f"latency_ms@{device}" for device in search.latency_models), *show.COUNTED]
    limits = {
        f"{limit.cost}@{limit.device}" if limit.device else limit.cost: limit.max
        for limit in search.limits
        if limit.confidence is None
    }
    sought = [f"{cost}@{search.request['device']}" if cost == "latency_ms" else cost for cost in _sought(search)]
    axis = next((name for name in names if name in (sought or limits)), names[0])
    return chart(search.front, search.best, names, axis, space, limits, search.request["min_accuracy"])


def _sought(search: SearchOut) -> list[str]:
    objective, objectives = search.request["objective"], search.request["objectives"]
    return objectives if objective == "pareto" else [] if objective == "accuracy" else [objective]


def chart(
    front: Sequence[CandidateOut],
    best: CandidateOut | None,
    names: Sequence[str],
    axis: str,
    space: Mapping[str, Any],
    limits: Mapping[str, float] | None = None,
    least: float | None = None,
) -> dict[str, Any]:
    """What the chart of a front is drawn from: predictions and verified accuracies, each by itself.

    names: the costs to choose from for the horizontal axis. axis: the one shown first. least: the accuracy asked.
    """
    limits = limits or {}
    others = [one for one in front if best is None or one.id != best.id]
    return {
        "axis": names.index(axis),
        "axes": [
            {"name": show.cost_name(name), "unit": show.kind(name), "limit": limits.get(name)}
            | ({"limit_text": f"limit {show.asked(limits[name], name)}"} if name in limits else {})
            for name in names
        ],
        "min_accuracy": least,
        "min_accuracy_text": f"at least {show.percent(least)}",
        "points": [
            {
                "id": one.id,
                "architecture": show.line(one.arch, space),
                "predicted": one.predicted_accuracy,
                "verified": one.verified_accuracy,
                "costs": [_cost(one, name) for name in names],
                "best": one is best,
                "rows": _rows(one, names),
            }
            for one in (*others, *([best] if best else []))
        ],
    }


def _rows(one: CandidateOut, names: Sequence[str]) -> list[tuple[str, str]]:
    """What a pointer on a candidate is told: names and numbers."""
    rows = [("Predicted accuracy", show.percent(one.predicted_accuracy))]
    if one.verified_accuracy is not None:
        rows.append(("Verified accuracy", show.percent(one.verified_accuracy)))
    rows += [
        (f"{show.cost_name(name)}{', predicted' if '@' in name else ''}", show.cost(_cost(one, name), name))
        for name in names
    ]
    for device, ms in (one.measured_latency_ms or {}).items():
        rows.append((f"Latency on {device}, measured", show.cost(ms, "latency_ms")))
    return rows


def _cost(candidate: CandidateOut, name: str) -> float | None:
    kind, _, device = name.partition("@")
    return candidate.predicted_latency_ms.get(device) if device else getattr(candidate, kind)


# The way in and out of a service that asks for keys.

doors = APIRouter(route_class=PageRoute, include_in_schema=False)


@doors.get("/login")
def login_form(request: Request) -> Response:
    """Where a key is entered."""
    return _page(request, "login.html", next="/")


@doors.post("/login", dependencies=[Depends(same_origin)])
def login(
    request: Request, context: ContextOf, key: Annotated[str, Form()] = "", next: Annotated[str, Form()] = "/"
) -> Response:
    """Keep a key in a cookie that no script reads and no other site's form sends. A link from elsewhere may."""
    try:
        if not key.isascii():
            raise UnauthorizedError("no key has such characters; `supple keys create NAME` makes one")
        require_key(context, f"Bearer {key}")
    except SuppleError as error:
        return _page(request, "login.html", error.status, next=next, message=error.detail)
    own = next.startswith("/") and not next.startswith(("//", "/\\"))
    response = RedirectResponse(next if own else "/", 303, HEADERS)
    secure = request.url.scheme == "https"
    response.set_cookie(COOKIE, key, httponly=True, samesite="lax", secure=secure)
    return response


@doors.post("/logout", dependencies=[Depends(same_origin)])
def logout() -> Response:
    """Forget the key."""
    response = RedirectResponse("/login", 303, HEADERS)
    response.delete_cookie(COOKIE, httponly=True, samesite="lax")
    return response
