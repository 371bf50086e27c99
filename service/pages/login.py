"""Logging in with a key."""

from typing import Annotated

from fastapi import APIRouter, Depends, Form, Request, Response
from fastapi.responses import RedirectResponse

from service.errors import SuppleError, UnauthorizedError
from service.pages.pages import HEADERS, PageRoute, render_page, same_origin
from service.web.auth import COOKIE, require_key
from service.web.dependencies import ContextOf

login_router = APIRouter(route_class=PageRoute, include_in_schema=False)


@login_router.get("/login")
def login_form(request: Request) -> Response:
    """Where a key is entered."""
    return render_page(request, "login.html", next="/")


@login_router.post("/login", dependencies=[Depends(same_origin)])
def login(
    request: Request, context: ContextOf, key: Annotated[str, Form()] = "", next: Annotated[str, Form()] = "/"
) -> Response:
    """Keep a key in a cookie that no script reads and no other site's form sends. A link from elsewhere may."""
    key = key.strip()
    try:
        if not key.isascii():
            raise UnauthorizedError("no key has such characters; `supple keys create NAME` makes one")
        require_key(context, f"Bearer {key}")
    except SuppleError as error:
        return render_page(request, "login.html", error.status, next=next, message=error.detail)
    own = next.startswith("/") and not next.startswith(("//", "/\\"))
    response = RedirectResponse(next if own else "/", 303, HEADERS)
    secure = request.url.scheme == "https"
    path = context.settings.root_path or "/"
    response.set_cookie(COOKIE, key, path=path, httponly=True, samesite="lax", secure=secure)
    return response


@login_router.post("/logout", dependencies=[Depends(same_origin)])
def logout(context: ContextOf) -> Response:
    """Forget the key."""
    response = RedirectResponse("/login", 303, HEADERS)
    response.delete_cookie(COOKIE, path=context.settings.root_path or "/", httponly=True, samesite="lax")
    return response
