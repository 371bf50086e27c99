"""Requests that pages of other sites make a browser send."""

from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import Request

from service.errors import shortened

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")


def check_site(request: Request) -> None:
    """Refuse a request that changes something if a page of another site made the browser send it.

    Browsers say so in Sec-Fetch-Site; older ones only name the page's origin. Programs send neither.

    Raises:
        HTTPException: 403.
    """
    headers = request.headers
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is not None:
        own = site in ("same-origin", "none")
    else:
        own = origin is None or urlsplit(origin).netloc == headers.get("host", "")
    if not own:
        raise HTTPException(403, f"this request was sent from another site ({shortened(site or str(origin))})")


def comes_from_a_page(request: Request) -> bool:
    """Whether a browser's headers say which page sent the request."""
    return "sec-fetch-site" in request.headers or "origin" in request.headers
