"""Plans of what devices measure: requesting one, and building it in a worker."""

import tempfile
from pathlib import Path

from sqlalchemy.orm import Session

from service.context import Context
from service.devices import probe
from service.errors import InvalidError, SuppleError, problem_document_of
from service.jobs.queue import MOST_ATTEMPTS, Jobs, Priority, Step
from service.storage.tables import PlanRow
from service.supernets import queries

VERSION = f"{probe.FORMAT}.{probe.REFERENCES}"


class PlanFailedError(SuppleError):
    """The plan of a device could not be built. The next request has it built again."""

    status, title = 500, "The plan could not be built"


def take_failure(session: Session, supernet_id: str, networks: int) -> PlanFailedError | None:
    """Why the last attempt to build a plan failed; None if it did not, or if an earlier request was told.

    Raises NotFoundError: no such supernet.
    """
    plan = queries.get_plan(session, queries.get(session, supernet_id).space_hash, networks, VERSION)
    if plan is None or plan.status != "failed" or plan.problem is None:
        return None
    failure, plan.problem = PlanFailedError(plan.problem["detail"]), None
    return failure


def request_plan(session: Session, jobs: Jobs, supernet_id: str, networks: int) -> PlanRow:
    """The plan of a supernet's space. The first request has a worker build it, and so has one after a failure.

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
        subject = f"{supernet_id}:{networks}:{plan.attempts}"
        job_id = f"plan-{space_hash}-{networks}-{VERSION}-{plan.attempts}"
        jobs.enqueue(session, "plan", subject, job_id=job_id, priority=Priority.EXPORT)
    return plan


def build_plan(context: Context, step: Step, subject: str) -> None:
    """The job: build a plan and store it. Loads torch.

    subject: "supernet:networks:attempts", the attempts counted before this job began.
    """
    from service.devices.measure import make_plan

    supernet_id, count, before = [*subject.split(":"), "0"][:3]  # releases before counted no attempts
    networks = int(count)
    with context.database.writing() as session:
        supernet = queries.get(session, supernet_id)
        attempts = queries.begin_plan(session, supernet.space_hash, networks, VERSION).attempts - int(before)

    def build() -> None:
        with tempfile.TemporaryDirectory(prefix="supple-plan-") as folder:
            path = Path(folder) / "plan.zip"
            make_plan(context.tables(supernet).space, path, networks=networks or None)
            digest = context.store.put(path.read_bytes())
        with context.database.writing() as session:
            queries.finish_plan(session, supernet.space_hash, networks, VERSION, status="done", sha256=digest)

    try:
        if attempts > MOST_ATTEMPTS:
            raise PlanFailedError(f"{MOST_ATTEMPTS} workers died while building this plan; their logs say why")
        step("build", build)
    except Exception as error:
        status = "impossible" if isinstance(error, ValueError) else "failed"
        problem = problem_document_of(error)
        with context.database.writing() as session:
            queries.finish_plan(session, supernet.space_hash, networks, VERSION, status=status, problem=problem)
        raise
