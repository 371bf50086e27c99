"""The OpenAPI document, with every problem that a route can respond with."""

from typing import Any

from fastapi import FastAPI

from service.web.conditional import TAGGED
from service.web.events import JobState
from service.web.schemas import ProblemDocument

ALL_ROUTES = {
    401: "The request carries no valid key.",
    403: "The key lacks the scope that is named under security, or a page of another site sent the request.",
    429: "The key has sent too many requests. Repeat the request after Retry-After seconds.",
    500: "An unexpected error, which the service's log describes.",
    503: "The database or the store does not work at the moment.",
}
WITH_BODY = {413: "The body is too large."}
WITH_PATH = {404: "Nothing has this name."}
NOT_MODIFIED = "The client has this response already: `If-None-Match` named its ETag."
IF_NONE_MATCH = {
    "name": "If-None-Match",
    "in": "header",
    "required": False,
    "schema": {"type": "string"},
    "description": "An ETag of an earlier response. If the response is still the same, the status is 304.",
}
ETAG = {"description": "Changes when the response does.", "schema": {"type": "string"}}
EVENTS = "text/event-stream"
EVENT_CONTENT = {  # as FastAPI and OpenAPI 3.2 describe events
    "itemSchema": {
        "type": "object",
        "properties": {
            "event": {"type": "string", "enum": ["progress", "ended"]},
            "id": {"type": "string"},
            "retry": {"type": "integer", "minimum": 0},
            "data": {
                "type": "string",
                "contentMediaType": "application/json",
                "contentSchema": {"$ref": "#/components/schemas/JobState"},
            },
        },
        "required": ["data"],
    }
}
WITH_INPUT = {422: "The request is malformed or cannot be carried out; `detail` says why."}


def document(app: FastAPI) -> dict[str, Any]:
    """FastAPI's OpenAPI document, with the problems that follow from a route's method, body and parameters.

    A route declares further problems in `responses`; this function adds their schema.
    """
    if app.openapi_schema is not None:
        return app.openapi_schema
    openapi = FastAPI.openapi(app)
    schemas = openapi["components"]["schemas"]
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    schemas["ProblemDocument"] = ProblemDocument.model_json_schema()
    schemas["JobState"] = JobState.model_json_schema()
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}}
    for path, operations in openapi["paths"].items():
        for method, operation in operations.items():
            responses = operation["responses"]
            responses.pop("422", None)
            if path.startswith("/v1/") and method == "get" and TAGGED & responses["200"].get("content", {}).keys():
                responses["304"] = {"description": NOT_MODIFIED}
                responses["200"]["headers"] = {"ETag": ETAG}
                operation.setdefault("parameters", []).append(IF_NONE_MATCH)
            for status, meaning in _problems(path, operation).items():
                responses.setdefault(str(status), {"description": meaning})
            if EVENTS in responses.get("200", {}).get("content", {}):
                responses["200"]["content"][EVENTS] = EVENT_CONTENT
            operation["responses"] = {
                status: {**responses[status], "content": problem} if status >= "4" else responses[status]
                for status in sorted(responses)
            }
    return openapi


def _problems(path: str, operation: dict[str, Any]) -> dict[int, str]:
    """The problems that follow from a route's method, body and parameters, by status."""
    if not path.startswith("/v1/"):
        return {}
    parameters, body = operation.get("parameters", []), "requestBody" in operation
    return {
        **ALL_ROUTES,
        **(WITH_BODY if body else {}),
        **(WITH_PATH if any(parameter["in"] == "path" for parameter in parameters) else {}),
        **(WITH_INPUT if body or parameters else {}),
    }
