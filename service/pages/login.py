"""Signing in with a key, and signing out."""

from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request, Response
from fastapi.responses import RedirectResponse

from service.errors import SuppleError, UnauthorizedError
from service.keys import queries
from service.keys.keys import hash_key
from service.keys.sessions import open_session
from service.pages.pages import HEADERS, PageRoute, own_form, render_page
from service.web.auth import COOKIE, check_key
from service.web.dependencies import ContextOf
from service.web.sites import check_site

login_router = APIRouter(route_class=PageRoute, include_in_schema=False)


@login_router.get("/login")
def login_form(request: Request) -> Response:
    """Where a key is entered."""
    return render_page(request, "login.html", next="/")


@login_router.post("/login", dependencies=[Depends(check_site)])
def login(
    request: Request, context: ContextOf, key: Annotated[str, Form()] = "", next: Annotated[str, Form()] = "/"
) -> Response:
    """Open a session. Its cookie is no key, no script reads it, and no other site's form sends it; a link may."""
    key = key.strip()
    response = RedirectResponse(next if _is_own(next) else "/", 303, HEADERS)
    try:
        if not key.isascii():
            raise UnauthorizedError("no key has such characters; `supple keys create NAME` makes one")
        if not context.settings.needs_key:
            return response
        check_key(context, key)
    except SuppleError as error:
        return render_page(request, "login.html", error.status, next=next, message=error.detail)
    with context.database.writing() as session:
        token = open_session(session, key)
    path, secure = context.settings.root_path or "/", request.url.scheme == "https"
    response.set_cookie(COOKIE, token, path=path, httponly=True, samesite="lax", secure=secure)
    return response


@login_router.post("/logout", dependencies=[Depends(own_form)])
def logout(request: Request, context: ContextOf) -> Response:
    """End the session."""
    if token := request.cookies.get(COOKIE):
        with context.database.writing() as session:
            queries.delete_session(session, hash_key(token))
    response = RedirectResponse("/login", 303, HEADERS)
    response.delete_cookie(COOKIE, path=context.settings.root_path or "/", httponly=True, samesite="lax")
    return response


def _is_own(path: str) -> bool:
    """Whether a path leads to this service."""
    return path.startswith("/") and not path.startswith(("//", "/\\"))
