"""Rendering pages: templates, headers and error pages."""

import hmac
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.templating import Jinja2Templates
from starlette.exceptions import HTTPException

from service.errors import SuppleError, shortened
from service.keys.sessions import form_token
from service.web import problems
from service.web.auth import COOKIE
from service.web.dependencies import get_context
from service.web.sites import check_site

HERE = Path(__file__).parent
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Cache-Control": "no-store",
}
templates = Jinja2Templates(directory=HERE / "templates")
templates.env.trim_blocks = templates.env.lstrip_blocks = True


async def own_form(request: Request) -> None:
    """Refuse a form that is not of this site, or not of the browser's session."""
    check_site(request)
    if token := request.cookies.get(COOKIE):
        sent = str((await request.form()).get("form_token", ""))
        if not hmac.compare_digest(sent.encode(), form_token(token).encode()):
            raise HTTPException(403, "this form is of an earlier session; load the page again and repeat what you did")


class PageRoute(APIRoute):
    """A route that answers errors with pages."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """The route's handler; its errors become pages that explain them."""
        handle = super().get_route_handler()

        async def handle_or_explain(request: Request) -> Response:
            try:
                return await handle(request)
            except Exception as error:
                return _explain(request, error)

        return handle_or_explain


def _explain(request: Request, error: Exception) -> Response:
    extra: dict[str, str] = {}
    if isinstance(error, SuppleError):
        problem = error.problem_document()
        if error.status == 401:
            back = request.url.path if request.method == "GET" else "/"
            return render_page(request, "login.html", 401, {"HX-Refresh": "true"}, next=back)
        if error.status == 429:
            extra = {"Retry-After": str(error.more["retry_after"])}
    elif isinstance(error, HTTPException):
        problem = {"title": "Refused", "status": error.status_code, "detail": error.detail}
        if error.status_code == 404:
            problem |= {"title": "There is no such page", "detail": f"nothing is at {shortened(request.url.path)}"}
    elif isinstance(error, RequestValidationError):
        problem = {"title": "Not understood", "status": 422, "detail": "the form or the address has an unknown shape"}
    else:
        problem, _ = problems.explain(request, error)
    return render_page(request, "problem.html", problem["status"], extra, problem=problem)


async def explain_to_browser(request: Request, error: Exception) -> Response:
    """An error outside every page: as a page for a browser, and otherwise as a problem document."""
    if request.url.path.startswith("/v1/") or "text/html" not in request.headers.get("accept", ""):
        return await problems.answer(request, error)
    return _explain(request, error)


def render_page(
    request: Request, template: str, status: int = 200, headers: Mapping[str, str] | None = None, /, **values: Any
) -> Response:
    """A template as a response, with the headers of every page."""
    token = request.cookies.get(COOKIE)
    values["form_token"] = form_token(token) if token else None
    values["root"] = get_context(request).settings.root_path
    return templates.TemplateResponse(request, template, values, status, {**HEADERS, **(headers or {})})
