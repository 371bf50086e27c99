"""What endpoints ask FastAPI for."""

from typing import Annotated

from fastapi import Depends, Request

from service.context import Context


def _of(request: Request) -> Context:
    context: Context = request.app.state.context
    return context


ContextOf = Annotated[Context, Depends(_of)]  # how an endpoint asks for it
