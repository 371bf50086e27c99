"""Rendering pages: templates, headers and error pages."""

from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Annotated, Any

from fastapi import Header, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from fastapi.templating import Jinja2Templates
from starlette.exceptions import HTTPException

from service.errors import SuppleError, shortened
from service.web import problems
from service.web.auth import COOKIE
from service.web.dependencies import get_context

HERE = Path(__file__).parent
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}
templates = Jinja2Templates(directory=HERE / "templates")
templates.env.trim_blocks = templates.env.lstrip_blocks = True


def same_origin(sec_fetch_site: Annotated[str, Header(include_in_schema=False)] = "") -> None:
    """Refuse a form that a page of another site sent. A service without keys has no other protection against it."""
    if sec_fetch_site not in ("", "same-origin", "none"):
        raise HTTPException(403, f"this form was sent from another site ({sec_fetch_site})")


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
    if isinstance(error, SuppleError):
        problem = error.problem_document()
        if error.status == 401:
            back = request.url.path if request.method == "GET" else "/"
            return render_page(request, "login.html", 401, {"HX-Refresh": "true"}, next=back)
    elif isinstance(error, HTTPException):
        problem = {"title": "Refused", "status": error.status_code, "detail": error.detail}
        if error.status_code == 404:
            problem |= {"title": "There is no such page", "detail": f"nothing is at {shortened(request.url.path)}"}
    elif isinstance(error, RequestValidationError):
        problem = {"title": "Not understood", "status": 422, "detail": "the form or the address has an unknown shape"}
    else:
        problem, _ = problems.explain(request, error)
    return render_page(request, "problem.html", problem["status"], problem=problem)


async def explain_to_browser(request: Request, error: Exception) -> Response:
    """An error outside every page: as a page for a browser, and otherwise as a problem document."""
    if request.url.path.startswith("/v1/") or "text/html" not in request.headers.get("accept", ""):
        return await problems.answer(request, error)
    return _explain(request, error)


def render_page(
    request: Request, template: str, status: int = 200, headers: Mapping[str, str] | None = None, /, **values: Any
) -> Response:
    """A template as a response, with the headers of every page."""
    values["signed_in"] = COOKIE in request.cookies
    values["root"] = get_context(request).settings.root_path
    return templates.TemplateResponse(request, template, values, status, {**HEADERS, **(headers or {})})
