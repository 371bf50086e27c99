"""The job of a fine-tuning: have a process train the network, save its progress, and store its files."""

import json
import shutil
import subprocess
import threading
from collections import deque
from contextlib import suppress
from typing import Any

from service.bundles.finetune import CARD, NETWORK, ONNX
from service.candidates import queries as candidates
from service.context import Context
from service.errors import SuppleError, problem_document_of
from service.finetunes import queries
from service.finetunes.queries import UNFINISHED, EndedError
from service.jobs.queue import MOST_ATTEMPTS, Step
from service.processes import start_module, stop
from service.storage.tables import now
from service.supernets import queries as supernets

SAVE_SECONDS = 1.0  # between two saves of the progress, at which a cancellation is noticed
STOP_SECONDS = 5.0


class TrainingFailedError(SuppleError):
    """The process that trained ended with a problem of its own, which this error carries."""

    def __init__(self, problem: dict[str, Any]) -> None:
        super().__init__(problem["detail"])
        self.status, self.title = problem["status"], problem["title"]


def run_fine_tuning(context: Context, step: Step, subject: str) -> None:
    """The handler of the job.

    subject: "fine-tuning:attempts", the attempts counted before this job was enqueued.
    """
    fine_tuning_id, before = subject.split(":")
    with context.database.writing() as session:
        row = queries.begin(session, fine_tuning_id)
        attempt, is_unfinished = row.attempts, row.status in UNFINISHED
    if not is_unfinished:
        return
    try:
        if attempt - int(before) > MOST_ATTEMPTS:
            raise ValueError(f"{MOST_ATTEMPTS} workers died while training this; their logs say why")
        step("train", lambda: _train(context, fine_tuning_id, attempt))
    except EndedError:
        return
    except Exception as error:
        with context.database.writing() as session:
            queries.finish(session, fine_tuning_id, status="failed", problem=problem_document_of(error))
        raise


def _train(context: Context, fine_tuning_id: str, attempt: int) -> None:
    """Train on from the newest checkpoint, and store the network.

    Checkpoints lie in the data directory. A worker on another machine that does not share it begins anew.

    attempt: its number. A worker that was taken for dead stops when another one has begun the next attempt.
    """
    with context.database.reading() as session:
        row = queries.get(session, fine_tuning_id)
        candidate = candidates.get(session, row.candidate_id)
        supernet = supernets.get(session, candidate.supernet_id)
    folder = context.settings.data_directory.absolute() / "finetunes" / fine_tuning_id
    folder.mkdir(parents=True, exist_ok=True)
    job = {
        "bundle": str(context.store.bundle(supernet.bundle_hash)),
        "arch": candidate.architecture,
        "plan": row.plan,
        "images": supernet.images,
        "folder": str(folder),
    }
    _run_child(context, fine_tuning_id, attempt, job)
    files = {"onnx": ONNX, "weights": NETWORK}
    digests = {column: context.store.put((folder / name).read_bytes()) for column, name in files.items()}
    card = json.loads((folder / CARD).read_text())
    with context.database.writing() as session:
        done = {"status": "done", "progress": None, "problem": None, "finished_at": now()}
        queries.change_running(session, fine_tuning_id, attempt, card=card, **digests, **done)
    shutil.rmtree(folder, ignore_errors=True)


def _run_child(context: Context, fine_tuning_id: str, attempt: int, job: dict[str, Any]) -> None:
    """Run the process that trains, and save its progress about once a second.

    Raises:
        TrainingFailedError: it ended with a problem. EndedError: the fine-tuning was cancelled; the process is stopped.
    """
    process = start_module("service.finetunes.child", json.dumps(job))
    newest: deque[bytes] = deque([b"{}"], maxlen=1)
    reader = threading.Thread(target=newest.extend, args=(process.stdout,), daemon=True)
    reader.start()
    try:
        while process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(SAVE_SECONDS)
            with context.database.writing() as session:
                queries.change_running(session, fine_tuning_id, attempt, progress=json.loads(newest[0]))
    finally:
        stop(process, STOP_SECONDS)
        reader.join()
    if problem := json.loads(newest[0]).get("problem"):
        raise TrainingFailedError(problem)
    if process.returncode:
        raise ValueError(
            f"the process that trained ended with exit code {process.returncode}, as it does when memory runs out; the "
            "worker's log says more"
        )
