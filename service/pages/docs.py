"""The API's reference at /docs."""

from functools import partial

from fastapi import FastAPI, Request, Response

from service.pages.pages import HEADERS, render_page
from service.web.openapi import document

# The style sheet of Swagger UI draws its arrows from data: addresses.
DOCS_HEADERS = {
    **HEADERS,
    "Content-Security-Policy": HEADERS["Content-Security-Policy"].replace("img-src 'self'", "img-src 'self' data:"),
}


def install(app: FastAPI) -> None:
    """Serve /docs, and make /openapi.json list every problem."""
    app.openapi = partial(document, app)  # type: ignore[method-assign]  # FastAPI's documented way to extend it

    @app.get("/docs", include_in_schema=False)
    def docs(request: Request) -> Response:
        return render_page(request, "docs.html", 200, DOCS_HEADERS)
