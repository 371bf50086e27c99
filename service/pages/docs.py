"""The API's reference as a page."""

from functools import partial

from fastapi import FastAPI, Request, Response

from service.pages.pages import HEADERS, templates
from service.web.openapi import document

# Swagger UI draws its arrows from data: addresses in its style sheet.
DOCS_HEADERS = {
    **HEADERS,
    "Content-Security-Policy": HEADERS["Content-Security-Policy"].replace("img-src 'self'", "img-src 'self' data:"),
}


def install(app: FastAPI) -> None:
    """Serve /docs, and complete what `app` writes at /openapi.json."""
    app.openapi = partial(document, app)  # type: ignore[method-assign]  # FastAPI's documented way to do so

    @app.get("/docs", include_in_schema=False)
    def docs(request: Request) -> Response:
        return templates.TemplateResponse(request, "docs.html", headers=DOCS_HEADERS)
