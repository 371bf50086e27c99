"""Logs of the service's processes: one line a record for people, or one JSON object a record for machines.

Each record carries the request or the job that it was written for, wherever in the code it was written.
"""

import json
import logging
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Literal

from opentelemetry import trace

LogFormat = Literal["plain", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]
CONTEXT: ContextVar[Mapping[str, str]] = ContextVar("log_context", default=MappingProxyType({}))
# What every record has; anything else came in `extra`.
STANDARD = {*vars(logging.makeLogRecord({})), "message", "asctime", "taskName", "context"}
ENGINE = ("applicationID", "applicationVersion", "executorID", "operationUUID", "traceId")  # the job engine's extras


@contextmanager
def log_context(**values: str) -> Iterator[None]:
    """A block whose log records carry these values beside those of the blocks around it. Empty ones are left out."""
    token = CONTEXT.set({**CONTEXT.get(), **{name: value for name, value in values.items() if value}})
    try:
        yield
    finally:
        CONTEXT.reset(token)


def request_id() -> str:
    """The id of the request that is being answered, or that the running job was made for; empty if there is none."""
    return CONTEXT.get().get("request_id", "")


class JsonFormatter(logging.Formatter):
    """A record as one line of JSON: time, level, logger, message, context, what `extra` held, and any traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        content: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            "process": record.process,
            **CONTEXT.get(),
            **_trace(),
            **{name: value for name, value in vars(record).items() if name not in STANDARD and name not in ENGINE},
        }
        if record.exc_info:
            content["exception"] = self.formatException(record.exc_info)
        return json.dumps(content, default=str, ensure_ascii=False)


def _trace() -> dict[str, str]:
    """The ids of the current trace and span; empty outside a trace."""
    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return {}
    return {"trace_id": trace.format_trace_id(span.trace_id), "span_id": trace.format_span_id(span.span_id)}


class PlainFormatter(logging.Formatter):
    """A record as a line for people: time, level, logger and message, then the context in brackets."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%d %H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """The line, without any traceback."""
        context = " ".join(f"{name}={value}" for name, value in CONTEXT.get().items())
        return super().formatMessage(record) + (f" [{context}]" if context else "")


def are_json() -> bool:
    """Whether the logs of this process are JSON."""
    return any(isinstance(handler.formatter, JsonFormatter) for handler in logging.getLogger().handlers)


def set_up_logs(log_format: LogFormat, level: LogLevel) -> None:
    """Send the logs of this process to its standard error. Uncaught exceptions are records, too.

    level: of Supple's own records. Libraries are heard from `warning` on.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else PlainFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("supple").setLevel(level.upper())
    engine = logging.getLogger("dbos")  # it prints its own lines unless it finds its handler replaced
    engine.handlers, engine.propagate = [logging.NullHandler()], True
    logging.captureWarnings(True)
    log = logging.getLogger("supple")

    def on_exception(kind: type[BaseException], error: BaseException, traceback: Any) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.__excepthook__(kind, error, traceback)
        else:
            log.critical("this process ends by an unexpected error", exc_info=(kind, error, traceback))

    sys.excepthook = on_exception
    threading.excepthook = lambda thread: log.critical(
        "a thread ends by an unexpected error", exc_info=thread.exc_value
    )
