"""Plans of what devices measure: requesting one, and building it in a worker."""

import tempfile
from pathlib import Path

from sqlalchemy.orm import Session

from service.context import Context
from service.devices import probe
from service.errors import InvalidError, problem_document_of
from service.jobs.queue import Jobs, Priority, Step
from service.storage.tables import PlanRow
from service.supernets import queries

VERSION = f"{probe.FORMAT}.{probe.REFERENCES}"


def request_plan(session: Session, jobs: Jobs, supernet_id: str, networks: int) -> PlanRow:
    """The plan of a supernet's space. The first request has a worker build it.

    networks: that many whole networks alone; 0 takes blocks and some networks.

    Raises:
        NotFoundError: no such supernet. InvalidError: there can be no such plan, as that of more networks than exist.
    """
    space_hash = queries.get(session, supernet_id).space_hash
    plan = queries.request_plan(session, space_hash, networks, VERSION)
    if plan.status == "impossible":
        raise InvalidError((plan.problem or {})["detail"])
    if plan.status == "failed":
        plan.status, plan.attempts = "queued", plan.attempts + 1
        subject = f"{supernet_id}:{networks}"
        job_id = f"plan-{space_hash}-{networks}-{VERSION}-{plan.attempts}"
        jobs.enqueue(session, "plan", subject, job_id=job_id, priority=Priority.EXPORT)
    return plan


def build_plan(context: Context, step: Step, subject: str) -> None:
    """The job: build a plan and store it. Loads torch. subject: "supernet:networks"."""
    from service.devices.measure import make_plan

    supernet_id, count = subject.split(":")
    networks = int(count)
    with context.database.reading() as session:
        supernet = queries.get(session, supernet_id)

    def build() -> None:
        with tempfile.TemporaryDirectory(prefix="supple-plan-") as folder:
            path = Path(folder) / "plan.zip"
            make_plan(context.tables(supernet).space, path, networks=networks or None)
            digest = context.store.put(path.read_bytes())
        with context.database.writing() as session:
            queries.finish_plan(session, supernet.space_hash, networks, VERSION, status="done", sha256=digest)

    try:
        step("build", build)
    except Exception as error:
        status = "impossible" if isinstance(error, ValueError) else "failed"
        problem = problem_document_of(error)
        with context.database.writing() as session:
            queries.finish_plan(session, supernet.space_hash, networks, VERSION, status=status, problem=problem)
        raise
