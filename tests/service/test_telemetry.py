"""Traces: a request, the job that it makes, and the job's steps are one trace."""

import threading
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
from fastapi.testclient import TestClient
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service import telemetry
from service.context import Context
from service.errors import InvalidError
from service.jobs import runner
from service.jobs.ledger import origin_of
from service.jobs.queue import Step
from service.logs import CONTEXT
from service.web.request_log import HEADER
from tests.support.service import ask

EXPORTER = InMemorySpanExporter()
VARIABLES = ("OTEL_TRACES_EXPORTER", "OTEL_SDK_DISABLED", "OTEL_EXPORTER_OTLP_PROTOCOL", *telemetry.ENDPOINTS)


@pytest.fixture(scope="module", autouse=True)
def provider() -> Iterator[None]:
    """OpenTelemetry's global provider, which a process can set only once."""
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(EXPORTER))
    trace.set_tracer_provider(provider)
    yield
    provider.shutdown()


@pytest.fixture
def unconfigured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_a_jobs_span_continues_the_trace_of_its_request(client: TestClient, context: Context, supernet: str) -> None:
    EXPORTER.clear()
    incoming = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    headers = {"Prefer": "respond-async", "traceparent": incoming, HEADER: "mine"}
    search_id = ask(client, headers, supernet=supernet).json()["id"]
    (request,) = (span for span in EXPORTER.get_finished_spans() if span.kind is trace.SpanKind.SERVER)
    assert request.name == "POST /v1/searches"
    assert trace.format_trace_id(request.context.trace_id) == incoming.split("-")[1]

    with context.database.reading() as session:
        origin = origin_of(session, f"search-{search_id}")
    assert origin["request_id"] == "mine"
    EXPORTER.clear()
    with telemetry.span("job search", origin, **{"supple.job.id": search_id}), telemetry.span("step search"):
        pass
    step, job = EXPORTER.get_finished_spans()
    assert job.context.trace_id == step.context.trace_id == request.context.trace_id
    assert step.parent is not None
    assert step.parent.span_id == job.context.span_id
    assert job.kind is trace.SpanKind.CONSUMER
    assert job.attributes == {"supple.job.id": search_id}


def test_a_worker_runs_a_job_under_the_names_of_the_job_and_of_its_request(
    client: TestClient,
    context: Context,
    supernet: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    search_id = ask(client, {"Prefer": "respond-async", HEADER: "mine"}, supernet=supernet).json()["id"]
    monkeypatch.setattr(runner, "DBOS", SimpleNamespace(workflow_id=f"search-{search_id}"))
    seen: list[dict[str, str]] = []

    def handler(context: Context, step: Step, subject: str) -> None:
        seen.append(dict(CONTEXT.get()))
        if subject == "bad":
            raise KeyError(subject)

    caplog.set_level("INFO", "supple.jobs")
    EXPORTER.clear()
    workflow = runner._as_workflow("search", handler, context, threading.Event())
    workflow("good")
    with pytest.raises(KeyError):
        workflow("bad")
    assert seen == [{"job_id": f"search-{search_id}", "request_id": "mine"}] * 2
    assert CONTEXT.get() == {}
    good, bad = EXPORTER.get_finished_spans()
    assert (good.name, good.status.status_code) == ("job search", trace.StatusCode.UNSET)
    assert bad.status.status_code is trace.StatusCode.ERROR
    records = [record for record in caplog.records if record.name == "supple.jobs"]
    messages = [record.getMessage().split(" after")[0] for record in records]
    assert messages == ["begins", "is done", "begins", "fails"]


def test_probes_of_health_leave_no_spans(client: TestClient) -> None:
    EXPORTER.clear()
    for path in ("/healthz", "/readyz", "/metrics"):
        assert client.get(path).status_code == 200
    assert EXPORTER.get_finished_spans() == ()


def test_a_job_of_an_earlier_release_has_no_origin(context: Context) -> None:
    with context.database.reading() as session:
        assert origin_of(session, "unknown") == {}


@pytest.mark.usefixtures("unconfigured")
def test_a_failed_block_is_a_failed_span() -> None:
    EXPORTER.clear()
    with pytest.raises(KeyError), telemetry.span("block"):
        raise KeyError("why")
    (span,) = EXPORTER.get_finished_spans()
    assert span.status.status_code is trace.StatusCode.ERROR


@pytest.mark.usefixtures("unconfigured")
@pytest.mark.parametrize(
    ("variables", "exporter"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "True"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_TRACES_EXPORTER": "none"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, "OTLPSpanExporter"),
        ({"OTEL_TRACES_EXPORTER": "console"}, "ConsoleSpanExporter"),
    ],
)
def test_the_standard_variables_choose_the_exporter(
    variables: dict[str, str], exporter: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    providers: list[TracerProvider] = []
    monkeypatch.setattr(trace, "set_tracer_provider", providers.append)
    chosen: list[object] = []

    def process(exporter: SpanExporter) -> SimpleSpanProcessor:
        chosen.append(exporter)
        return SimpleSpanProcessor(EXPORTER)

    monkeypatch.setattr("opentelemetry.sdk.trace.export.BatchSpanProcessor", process)
    telemetry.set_up_telemetry()
    assert [type(one).__name__ for one in chosen] == ([exporter] if exporter else [])
    assert [one.resource.attributes["service.name"] for one in providers] == ["supple"] * len(chosen)


@pytest.mark.usefixtures("unconfigured")
@pytest.mark.parametrize(
    ("name", "value"), [("OTEL_TRACES_EXPORTER", "zipkin"), ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")]
)
def test_an_unknown_exporter_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(telemetry.ENDPOINTS[0], "http://127.0.0.1:1")
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidError, match=f"'{value}'.*use otlp by http/protobuf, console or none"):
        telemetry.set_up_telemetry()
