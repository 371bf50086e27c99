"""Requesting a fine-tuning, and cancelling one."""

import hashlib
import json
from typing import Any

from service.candidates import queries as candidates
from service.candidates.schemas import FineTuningOut
from service.candidates.show import show_fine_tuning
from service.context import Context
from service.errors import ConflictError, InvalidError
from service.finetunes import queries
from service.finetunes.schemas import FineTuningIn
from service.jobs.queue import Priority
from service.storage.tables import Supernet
from service.supernets import queries as supernets
from service.supernets.extractable import check_extractable

GENERATED = ("digits",)  # datasets that need no files
KIND = "finetune"  # of the job


def request_fine_tuning(context: Context, candidate_id: str, body: FineTuningIn) -> FineTuningOut:
    """A fine-tuning of a candidate. The first request has a worker train it, and so has the first one after it ended
    without a network; what was trained until then is not lost.

    Raises:
        NotFoundError: no such candidate. InvalidError: the service does not have what the training needs.
    """
    plan = body.model_dump()
    fine_tuning_id = _id(candidate_id, plan)
    with context.database.writing() as session:
        check_trainable(supernets.get(session, candidates.get(session, candidate_id).supernet_id))
        before = queries.lock(session, fine_tuning_id)
        if before is not None and before.status not in ("failed", "cancelled"):
            return show_fine_tuning(before)
        row = queries.add(session, fine_tuning_id, candidate_id, plan)
        row.status, row.problem, row.finished_at = "queued", None, None
        subject = f"{fine_tuning_id}:{row.attempts}"
        context.jobs.enqueue(session, KIND, subject, job_id=_job_id(subject), priority=Priority.FINE_TUNING)
        return show_fine_tuning(row)


def cancel_fine_tuning(context: Context, fine_tuning_id: str) -> FineTuningOut:
    """End a fine-tuning that has not ended. The worker that runs it notices within seconds.

    Raises:
        NotFoundError: no such fine-tuning. ConflictError: it has ended.
    """
    with context.database.writing() as session:
        row = queries.get(session, fine_tuning_id)
        if not queries.finish(session, fine_tuning_id, status="cancelled"):
            raise ConflictError(f"fine-tuning {fine_tuning_id} is {row.status}; it can be cancelled until it has ended")
        session.refresh(row)
        return show_fine_tuning(row)


def check_trainable(supernet: Supernet) -> None:
    """Check that the service has what a supernet's candidates need to be trained: weights, recipe and images.

    Raises:
        InvalidError: something is missing; the message says how to provide it.
    """
    check_extractable(supernet)
    manifest, name = supernet.manifest, f"supernet {supernet.id} ({supernet.name})"
    if "config" not in manifest:
        raise InvalidError(
            f"{name} was not made by `supple train`, so it records neither a recipe nor images to train on; train from "
            "its bundle (`init` in a training file) and register the result"
        )
    source = manifest["config"]["dataset"]["source"]
    if supernet.images is None and source not in GENERATED:
        raise InvalidError(
            f"the service does not have the images that {name} was trained on; whoever operates it can register them "
            "with `supple register BUNDLE --images FOLDER`. Or use `supple finetune` where the images are"
        )


def _id(candidate_id: str, plan: dict[str, Any]) -> str:
    """16 hexadecimal digits that are the same for equal requests."""
    return hashlib.sha256(f"{candidate_id} {json.dumps(plan, sort_keys=True)}".encode()).hexdigest()[:16]


def _job_id(subject: str) -> str:
    return f"{KIND}-{subject}"
