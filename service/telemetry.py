"""Traces by OpenTelemetry, when its environment variables ask for them: a span for each request, job and step.

A job's span continues the trace of the request that made the job. Without configuration the spans cost nothing.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from opentelemetry import propagate, trace

from service.errors import InvalidError

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
FLUSH_MS = 3_000
tracer = trace.get_tracer("supple", version("supple"))


def set_up_telemetry() -> None:
    """Export spans as OTEL_TRACES_EXPORTER and OTEL_EXPORTER_OTLP_ENDPOINT say; nothing if neither is set.

    Raises:
        InvalidError: the packages for it are not installed, or the exporter is none that is known.
    """
    name = os.environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    name = name or ("otlp" if any(map(os.environ.get, ENDPOINTS)) else "none")
    if name == "none" or os.environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        exporter = _exporter(name)
    except ImportError as error:
        raise InvalidError(
            f"OpenTelemetry is configured ({name}), and {error.name} is not installed; "
            "run `pip install 'supple[telemetry]'`, or set OTEL_TRACES_EXPORTER=none"
        ) from error
    named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "")
    resource = Resource.create({"service.version": version("supple"), **({} if named else {"service.name": "supple"})})
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    trace.set_tracer_provider(provider)


def _exporter(name: str) -> "SpanExporter":
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter

        return ConsoleSpanExporter()
    protocol = os.environ.get(
        "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
    )
    if name != "otlp" or protocol != "http/protobuf":
        raise InvalidError(
            f"OTEL_TRACES_EXPORTER is {name!r} by {protocol!r}; use otlp by http/protobuf, console or none"
        )
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    return OTLPSpanExporter()


def carrier() -> dict[str, str]:
    """The current trace as text for another process; empty outside a trace."""
    headers: dict[str, str] = {}
    propagate.inject(headers)
    return headers


@contextmanager
def span(name: str, parent: Mapping[str, str] | None = None, **attributes: Any) -> Iterator[None]:
    """A block as a span. An exception marks it as failed and goes on.

    parent: a trace as `carrier` gave it; None: the span around this block.
    """
    context = None if parent is None else propagate.extract(parent)
    kind = trace.SpanKind.INTERNAL if parent is None else trace.SpanKind.CONSUMER
    with tracer.start_as_current_span(name, context, kind, attributes):
        yield


def flush_spans() -> None:
    """Send the spans that wait to be sent. For processes that end without Python's own clean-up."""
    flush = getattr(trace.get_tracer_provider(), "force_flush", None)
    if flush is not None:
        flush(FLUSH_MS)
