"""/v1/candidates/{id}/finetune and /v1/finetunes: what is refused, the job, its files, and its accidents."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from evolution.costs import CostTables
from evolution.predictors.accuracy import AccuracyPredictor
from service.context import Context
from service.finetunes import child, job, queries
from service.finetunes.job import TrainingFailedError, run_fine_tuning
from service.jobs.queue import MOST_ATTEMPTS
from service.storage.tables import FineTuning, Supernet
from service.supernets.register import register_supernet
from supernet.bundle import Bundle
from supernet.export.parity import run_onnx
from tests.support.bundles import SPACE, write
from tests.support.command_line import Ran
from tests.support.trainable import HELD_OUT, write_trainable
from tests.support.worker import Steps

ON_SQLITE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)  # training takes the same on both


@pytest.fixture(scope="module")
def trainable(tmp_path_factory: pytest.TempPathFactory) -> Path:

    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    genomes = SPACE.sample(rng, 100)
    flops = CostTables(SPACE).flops(genomes)
    predictor = AccuracyPredictor.fit(SPACE, genomes, 0.9 + 0.09 * flops / flops.max(), None, rng, "ridge")
    return write_trainable(tmp_path_factory.mktemp("trainable") / "bundle", predictor=predictor.to_bytes()).path


@pytest.fixture
def supernet(context: Context, trainable: Path) -> str:
    with context.database.writing() as session:
        return register_supernet(session, context.store, trainable).id


@pytest.fixture
def candidate(client: TestClient, supernet: str) -> str:
    best: dict[str, Any] = client.post("/v1/searches", json={"max_flops": 3e5, "budget": 100}).json()["best"]
    return str(best["id"])


def create(client: TestClient, candidate: str, **body: Any) -> Any:
    return client.post(f"/v1/candidates/{candidate}/finetune", json={"epochs": 2, **body})


def shown(client: TestClient, fine_tuning: str) -> Any:
    return client.get(f"/v1/finetunes/{fine_tuning}").json()


@pytest.mark.slow
@ON_SQLITE
def test_a_candidate_is_fine_tuned_verified_shown_and_downloaded(
    client: TestClient, context: Context, candidate: str
) -> None:
    created = create(client, candidate)
    assert created.status_code == 202
    assert created.json()["status"] == "queued"
    where = created.headers["location"]
    early = client.get(f"{where}/onnx")
    assert (early.status_code, early.json()["title"]) == (409, "Conflict")
    again = create(client, candidate)
    assert (again.status_code, again.json()["id"]) == (202, created.json()["id"])
    assert create(client, candidate, seed=1).json()["id"] != created.json()["id"]

    run_fine_tuning(context, Steps(), f"{created.json()['id']}:0")
    done = client.get(where).json()
    assert done["status"] == "done", done
    assert (done["training"], done["epochs"], done["learning_rate"], done["distillation"]) == ("fine-tuned", 2, 0.02, 1)
    assert done["verified_images"] == HELD_OUT
    assert 0 < done["inherited_accuracy"] < done["verified_accuracy"] < 1
    assert create(client, candidate).status_code == 200
    shown_candidate = client.get(f"/v1/candidates/{candidate}").json()
    assert shown_candidate["finetunes"][-1] == done
    assert shown_candidate["verified_accuracy"] is None, "of a fine-tuned network, it is not the candidate's"
    searched = client.get("/v1/searches").json()["items"][0]["id"]
    page = " ".join(client.get(f"/searches/{searched}").text.split())
    assert f"Fine-tuned, 2 epochs: <b>{100 * done['verified_accuracy']:.2f}" in page
    assert f'href="{done["onnx"]}"' in page

    file = client.get(done["onnx"])
    assert file.headers["content-disposition"].endswith('.onnx"')
    assert client.get(done["onnx"], headers={"If-None-Match": file.headers["etag"]}).status_code == 304
    side = shown_candidate["resolution"]
    assert run_onnx(file.content, torch.zeros(2, 1, side, side).numpy()).shape == (2, 10)
    assert client.get(done["weights"], headers={"Range": "bytes=0-7"}).status_code == 206
    assert not list((context.settings.data_directory / "finetunes").iterdir())


KILLED = """
import os, signal, sys
from service.finetunes import child

def killed(*arguments, progress, **options):
    def kill(stage, done, total, remark):
        progress(stage, done, total, remark)
        if done == 3:
            os.kill(os.getpid(), signal.SIGKILL)
    return fine_tune(*arguments, progress=kill, checkpoint_steps=2, **options)

fine_tune, child.fine_tune = child.fine_tune, killed
child.main()
"""


@pytest.mark.slow
@ON_SQLITE
def test_a_killed_process_fails_the_job_and_the_next_request_goes_on_from_its_checkpoint(
    client: TestClient, context: Context, candidate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: str, argument: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen([sys.executable, "-c", KILLED, argument], stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    monkeypatch.setattr(job, "start_module", start)
    created = create(client, candidate).json()["id"]
    with pytest.raises(ValueError, match="ended with exit code -9"):
        run_fine_tuning(context, Steps(), f"{created}:0")
    failed = shown(client, created)
    assert (failed["status"], failed["onnx"]) == ("failed", None)
    assert "exit code -9" in failed["problem"]["detail"]
    assert client.get(f"/v1/finetunes/{created}/onnx").status_code == 409
    folder = context.settings.data_directory / "finetunes" / created
    assert [path.name for path in (folder / "checkpoints").glob("*.json")] == ["00000001.json"]

    assert create(client, candidate).json()["status"] == "queued"
    steps: list[int] = []

    def in_process(context: Context, fine_tuning_id: str, attempt: int, arguments: dict[str, Any]) -> None:
        monkeypatch.setattr("sys.argv", ["child", json.dumps(arguments)])
        monkeypatch.setattr(child, "end_with_parent", lambda: None)
        monkeypatch.setattr(child, "_print", lambda **values: steps.append(values["done"]))
        assert child.main() == 0

    monkeypatch.setattr(job, "_run_child", in_process)
    run_fine_tuning(context, Steps(), f"{created}:1")
    assert steps == [3, 4]
    assert shown(client, created)["status"] == "done"


def test_a_cancelled_training_stops_and_can_be_requested_again(
    client: TestClient, context: Context, candidate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = create(client, candidate).json()["id"]
    cancelled = client.post(f"/v1/finetunes/{created}/cancel")
    assert (cancelled.status_code, cancelled.json()["status"]) == (200, "cancelled")
    assert client.post(f"/v1/finetunes/{created}/cancel").status_code == 409
    run_fine_tuning(context, Steps(), f"{created}:0")  # does nothing
    assert create(client, candidate).json()["status"] == "queued"

    sleeping = subprocess.Popen(
        [sys.executable, "-c", "print('{\"done\": 1}', flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    monkeypatch.setattr(job, "start_module", lambda *_: sleeping)
    monkeypatch.setattr(job, "SAVE_SECONDS", 0.05)

    def changed(session: Any, fine_tuning: str, attempt: int, **values: Any) -> None:
        change_running(session, fine_tuning, attempt, **values)
        if values == {"progress": {"done": 1}}:
            queries.finish(session, created, status="cancelled")

    change_running = queries.change_running
    monkeypatch.setattr(queries, "change_running", changed)
    run_fine_tuning(context, Steps(), f"{created}:1")
    assert sleeping.poll() is not None
    assert shown(client, created)["status"] == "cancelled"


def test_a_worker_that_was_taken_for_dead_stops(
    client: TestClient, context: Context, candidate: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    created = create(client, candidate).json()["id"]

    def taken_over(*_: Any) -> None:
        with context.database.writing() as session:
            session.get_one(FineTuning, created).attempts += 1
        with context.database.writing() as session:
            queries.change_running(session, created, 1, progress={})

    monkeypatch.setattr(job, "_run_child", taken_over)
    run_fine_tuning(context, Steps(), f"{created}:0")
    assert shown(client, created)["status"] == "running"  # as the other worker has it


def test_a_training_that_kills_its_workers_is_given_up(client: TestClient, context: Context, candidate: str) -> None:
    created = create(client, candidate).json()["id"]
    for _ in range(MOST_ATTEMPTS):
        dying = Steps()
        dying.die_at = "train"
        with pytest.raises(SystemExit):
            run_fine_tuning(context, dying, f"{created}:0")
    with pytest.raises(ValueError, match="workers died"):
        run_fine_tuning(context, Steps(), f"{created}:0")
    assert shown(client, created)["status"] == "failed"


def test_the_process_reports_its_problem_without_paths(
    context: Context, trainable: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    bundle = write_trainable(tmp_path / "without", holdout=None)
    arguments = {
        "bundle": str(bundle.path),
        "arch": SPACE.smallest().to_json(),
        "plan": {"epochs": 1},
        "images": None,
        "folder": str(tmp_path / "out"),
    }
    monkeypatch.setattr("sys.argv", ["child", json.dumps(arguments)])
    monkeypatch.setattr(child, "end_with_parent", lambda: None)
    assert child.main() == 1
    problem = json.loads(capsys.readouterr().out)["problem"]
    assert problem["detail"] == "the bundle has no held-out images, so a fine-tuned network could not be verified"
    assert TrainingFailedError(problem).problem_document() == problem


def change(context: Context, supernet: str, change: Callable[[dict[str, Any]], Any]) -> None:
    with context.database.writing() as session:
        row = session.get_one(Supernet, supernet)
        manifest = json.loads(json.dumps(row.manifest))
        change(manifest)
        row.manifest = manifest


def test_what_the_service_lacks_is_named(client: TestClient, context: Context, supernet: str, candidate: str) -> None:
    change(context, supernet, lambda manifest: manifest["config"]["dataset"].update(source="photos"))
    refused = create(client, candidate)
    assert refused.status_code == 422
    assert "can register them with `supple register BUNDLE --images FOLDER`" in refused.json()["detail"]
    with context.database.writing() as session:
        session.get_one(Supernet, supernet).images = "/srv/photos"
    assert create(client, candidate).status_code == 202
    change(context, supernet, lambda manifest: manifest.pop("config"))
    assert "was not made by `supple train`" in create(client, candidate, seed=2).json()["detail"]
    change(context, supernet, lambda manifest: manifest["files"].pop("weights.safetensors"))
    assert "made without a checkpoint" in create(client, candidate, seed=2).json()["detail"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"epochs": 0}, "epochs"),
        ({"learning_rate": 0}, "learning_rate"),
        ({"distillation": -1}, "distillation"),
        ({"images": "/etc"}, "images"),
        ({"seed": -1}, "seed"),
    ],
)
@ON_SQLITE
def test_a_request_that_cannot_be_used_is_refused(
    client: TestClient, candidate: str, body: dict[str, Any], message: str
) -> None:
    refused = create(client, candidate, **body)
    assert refused.status_code == 422
    assert message in str(refused.json())
    assert create(client, "nothing").status_code == 404
    assert client.get("/v1/finetunes/nothing").status_code == 404


@ON_SQLITE
def test_the_operator_registers_the_images(
    trainable: Path,
    database_url: str,
    context: Context,
    tmp_path: Path,
    run: Callable[..., Ran],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SUPPLE_DATABASE_URL", database_url)
    monkeypatch.setenv("SUPPLE_DATA_DIRECTORY", str(tmp_path / "data"))
    identity = Bundle.open(trainable).hash[:16]
    missing = run("register", str(trainable), "--images", str(tmp_path / "none"))
    assert missing.code == 2
    assert "--images is" in missing.stderr
    assert run("register", str(trainable)).code == 0
    ran = run("register", str(trainable), "--images", str(tmp_path))
    assert f"can be fine-tuned on the images in {tmp_path}" in ran.stdout
    with context.database.reading() as session:
        assert session.get_one(Supernet, identity).images == str(tmp_path)
    plain = run("register", str(write(tmp_path / "plain").path), "--images", str(tmp_path))
    assert plain.code == 2
    assert "was not made by `supple train`" in plain.stderr
