"""What the probe does with the jobs that it claims, at a service that is not there."""

from typing import Any

import pytest

from service.devices import probe
from service.devices.probe import ProbeError, RefusedError

JOB = {
    "id": "1",
    "device": "board",
    "search": "s",
    "claim": "c",
    "plan": "/v1/plan",
    "networks": 2,
    "samples": 3,
    "batch_size": 1,
    "lease_seconds": 0.0,
}
RESULT = {"busy": 0.0, "runtime": {"fallback": None}}


class Service:
    """Offers one job and then none. refusals: what it raises at the calls that end the job, one each."""

    def __init__(self, refusals: list[ProbeError]) -> None:
        self.jobs, self.refusals = [JOB], refusals
        self.ended: list[dict[str, Any]] = []
        self.renewed = 0

    def claim(self, *_: Any) -> tuple[dict[str, Any] | None, float]:
        return (self.jobs.pop() if self.jobs else None), 0.0

    def call(self, path: str) -> tuple[int, dict[str, str], bytes]:
        return 200, {}, b"a plan"

    def renew(self, job: Any) -> None:
        self.renewed += 1
        raise ProbeError("no answer")  # which does not end the measurement

    def end(self, job: Any, **body: Any) -> None:
        self.ended.append(body)
        if self.refusals:
            raise self.refusals.pop(0)


@pytest.mark.parametrize(
    ("refusals", "fault", "ended", "said"),
    [
        ([], None, [{"result": RESULT}], "job 1 measured"),
        ([ProbeError("no answer")], None, [{"result": RESULT}] * 2, "job 1 measured"),
        ([RefusedError(409, "expired")], None, [{"result": RESULT}], "job 1 is lost: expired"),
        (
            [RefusedError(422, "are these seconds?")],
            None,
            [{"result": RESULT}, {"error": "are these seconds?"}],
            "lost",
        ),
        ([], ProbeError("a does not run"), [{"error": "a does not run"}], "cannot be measured: a does not run"),
        ([], RefusedError(409, "expired"), [], "job 1 is lost: expired"),
    ],
)
def test_a_job_ends_with_its_result_or_with_why_there_is_none(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    refusals: list[ProbeError],
    fault: ProbeError | None,
    ended: list[dict[str, Any]],
    said: str,
) -> None:
    renewals = 0 if refusals else 1
    service = Service([*refusals])

    def run_plan(path: Any, progress: Any, **settings: Any) -> dict[str, Any]:
        assert path.read_bytes() == b"a plan"
        assert (settings["batch_size"], settings["samples"]) == (1, 3)
        progress(1, 2)
        if fault:
            raise fault
        return RESULT

    monkeypatch.setattr(probe, "Server", lambda *_: service)
    monkeypatch.setattr(probe, "run_plan", run_plan)
    monkeypatch.setattr(probe, "POLL_SECONDS", 0.0)
    monkeypatch.setitem(JOB, "lease_seconds", 1e-9 if renewals else 60.0)
    assert probe.main(["--server", "http://localhost:1", "--device", "board", "--serve", "--idle", "0.05"]) == 0
    assert service.ended == ended
    assert said in capsys.readouterr().err
    assert service.renewed == renewals


@pytest.mark.parametrize("arguments", [["--serve"], ["--server", "http://localhost:1", "--device", "board"]])
def test_serving_needs_a_server_and_a_server_needs_work(
    capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit):
        probe.main(["plan.zip", "-o", "out.json", *arguments])
    assert "--serve" in capsys.readouterr().err
