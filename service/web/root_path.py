"""The path prefix under which a reverse proxy offers the service, such as /supple in https://example.org/supple/."""

from starlette.datastructures import URL, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send


class RootPath:
    """ASGI middleware that takes the prefix off a request's path and puts it before the `Location` of its response.

    Everything behind it sees paths without the prefix. A proxy may strip the prefix or leave it.

    prefix: such as `/supple`; empty: nothing changes.
    """

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app = app
        self._prefix = prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http" or not self._prefix:
            await self._app(scope, receive, send)
            return
        scope = {**scope, "path": self._without(scope["path"])}
        if raw_path := scope.get("raw_path"):
            scope["raw_path"] = self._without(raw_path.decode("latin-1")).encode("latin-1")

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                if "location" in headers:
                    headers["location"] = self._with(URL(headers["location"]), URL(scope=scope))
            await send(message)

        await self._app(scope, receive, sending)

    def _without(self, path: str) -> str:
        return path.removeprefix(self._prefix) or "/" if f"{path}/".startswith(f"{self._prefix}/") else path

    def _with(self, location: URL, request: URL) -> str:
        own = location.netloc in ("", request.netloc) and location.path.startswith("/")
        return str(location.replace(path=self._prefix + location.path) if own else location)
