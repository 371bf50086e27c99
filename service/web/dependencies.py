"""The service's context as a FastAPI dependency."""

from typing import Annotated

from fastapi import Depends, Request

from service.context import Context


def get_context(request: Request) -> Context:
    """The context of the application that serves this request."""
    context: Context = request.app.state.context
    return context


ContextOf = Annotated[Context, Depends(get_context)]
