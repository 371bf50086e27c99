"""Several processes train what one process trains; a killed one is started again by torchrun and goes on."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from service.bundles.config import read_config
from supernet.bundle import Bundle
from supernet.data import Dataset, load
from supernet.families import preset
from supernet.training import distributed
from supernet.training.augmentation import Augmentation
from supernet.training.loop import TrainingState, train
from supernet.training.schedule import Phase, Schedule
from tests.support.photographs import photographs

pytestmark = pytest.mark.slow  # it trains, or starts processes

SPACE = preset("mbv3-digits")
SCHEDULE = Schedule(
    phases=(
        Phase("largest", 1, 0.05, {"depth": (2,), "kernel_size": (7,), "expand_ratio": (4,)}),
        Phase("all", 1, 0.02, subnets_per_step=2, distillation=1.0, sort_channels=True),
    ),
    batch_size=32,
    clip=1.0,
    ema=0.5,
    augmentation=Augmentation(rand_augment=5, mixup=0.4, cutmix=1.0),
    dropout=0.2,
    stochastic_depth=0.2,
)
ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def torchrun(*arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    """A run of two processes on this machine."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *arguments]
    return subprocess.Popen(command, env=ENVIRONMENT, text=True, **options)


def digits(root: Path) -> Dataset:
    full = load("digits", 16, seed=0, holdout=300, root=root)
    return replace(full, train=full.train[:96])


def trained(schedule: Schedule, dataset: Dataset) -> dict[str, torch.Tensor]:
    """Everything that a checkpoint would hold of the weights, after training."""
    state = TrainingState.fresh(SPACE, schedule)
    for _ in train(state, dataset):
        pass
    assert state.ema is not None
    return {**state.supernet.state_dict(), **{f"ema.{name}": value for name, value in state.ema.items()}}


def reductions(schedule: Schedule, dataset: Dataset) -> list[int]:
    """How often every step summed something over the processes."""
    calls, real = [0], torch.distributed.all_reduce

    def counted(tensor: torch.Tensor) -> None:
        calls[-1] += 1
        real(tensor)

    torch.distributed.all_reduce = counted
    for _ in train(TrainingState.fresh(SPACE, schedule), dataset):
        calls.append(0)
    torch.distributed.all_reduce = real
    return calls[:-1]


def backpropagated(dataset: Dataset) -> dict[str, torch.Tensor]:
    """Gradients and running statistics after a pass of this process's share, in double precision.

    With synchronised statistics all processes together should do what one does with all images.
    """
    supernet = TrainingState.fresh(SPACE, SCHEDULE).supernet.double().train()
    arch = SPACE.largest()
    pixels = dataset.normalization(dataset.train[:32].pixels, arch.resolution).double()
    rank, world = distributed.rank(), distributed.world()
    with distributed.SynchronisedBatchNorm():
        logits = supernet(pixels.chunk(world)[rank], arch)
    (F.cross_entropy(logits, dataset.train.labels[:32].chunk(world)[rank]) / world).backward()
    gradients = {name: value.grad for name, value in supernet.named_parameters() if value.grad is not None}
    distributed.sum_over_processes(list(gradients.values()))
    return {**gradients, **dict(supernet.named_buffers())}


SCRIPT = """
import json
import sys
from pathlib import Path
import torch
from supernet.training import distributed
from tests.supernet.test_distributed import SCHEDULE, backpropagated, digits, reductions, trained
torch.set_num_threads(1)
distributed.BUCKET_BYTES = 100_000  # several messages a step
folder = Path(sys.argv[1])
with distributed.process_group(torch.device("cpu")):
    dataset = distributed.in_turns(lambda: digits(folder))
    rank = distributed.rank()
    assert distributed.from_first_process(lambda: rank) == 0
    torch.save(trained(SCHEDULE, dataset), folder / f"trained {rank}.pt")
    distributed.BUCKET_BYTES = 2**25
    (folder / f"reductions {rank}.json").write_text(json.dumps(reductions(SCHEDULE, dataset)))
    torch.save(backpropagated(dataset), folder / f"backpropagated {rank}.pt")
"""


@pytest.fixture(scope="module")
def of_two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what each of two processes ended with."""
    folder = tmp_path_factory.mktemp("two")
    (folder / "script.py").write_text(SCRIPT)
    assert torchrun(folder / "script.py", folder).wait() == 0
    return folder


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def differences(of_two: Path, what: str, expected: dict[str, torch.Tensor]) -> float:
    """The largest difference of what both have in common from what one should have, relative to values above 1."""
    first, second = (torch.load(of_two / f"{what} {rank}.pt", weights_only=True) for rank in (0, 1))
    assert first.keys() == expected.keys()
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    floating = [name for name, value in expected.items() if value.is_floating_point()]  # the others count batches
    return max(
        float(((first[name] - expected[name]).abs() / expected[name].abs().clamp(min=1)).max()) for name in floating
    )


def test_two_processes_end_with_the_weights_of_one_that_accumulates_their_shares(of_two: Path, tmp_path: Path) -> None:
    assert differences(of_two, "trained", trained(replace(SCHEDULE, micro_batches=2), digits(tmp_path))) < 1e-5


def test_gradients_are_reduced_once_a_step_however_many_subnets_it_accumulates(of_two: Path) -> None:
    """The last step of each phase averages running statistics too."""
    assert SCHEDULE.phases[1].subnets_per_step == 2
    for rank in (0, 1):
        assert json.loads((of_two / f"reductions {rank}.json").read_text()) == [1, 1, 2] * 2


def test_synchronised_statistics_are_those_of_the_whole_batch(of_two: Path, tmp_path: Path) -> None:
    assert differences(of_two, "backpropagated", backpropagated(digits(tmp_path))) < 1e-12


def test_one_process_needs_no_torchrun() -> None:
    tensors = [torch.ones(2), torch.ones(3)]
    distributed.sum_over_processes(tensors)
    assert all(torch.equal(tensor, torch.ones_like(tensor)) for tensor in tensors)
    assert (distributed.rank(), distributed.world(), distributed.is_first()) == (0, 1, True)
    assert distributed.in_turns(lambda: 3) == distributed.from_first_process(lambda: 3) == 3


def test_a_device_that_is_not_there_is_refused() -> None:
    assert distributed.choose_device("cpu") == torch.device("cpu")
    for name in ("toaster", "cuda:99"):
        with pytest.raises(ValueError, match=f"device is {name}, which torch cannot use here"):
            distributed.choose_device(name)


CONFIG = """
name: tiny
space: mbv3-digits
dataset: {source: FOLDER, holdout: 2, channels: 1, cache_gib: 0, workers: 1}
threads: 1
device: cpu
evaluation: {subnets: 10, calibration_images: 16}
schedule:
  batch_size: 16
  micro_batches: 2
  phases:
    - {name: largest, epochs: 2, learning_rate: 0.001}
    - {name: long, epochs: 16, learning_rate: 0.001, distillation: 1.0}
"""


def test_a_killed_process_is_started_again_and_training_goes_on_from_the_checkpoint(tmp_path: Path) -> None:
    photographs(tmp_path)
    config, output = tmp_path / "tiny.yaml", tmp_path / "out"
    config.write_text(CONFIG.replace("FOLDER", str(tmp_path)))
    command = (
        "--max-restarts",
        "1",
        "--no-python",
        sys.executable,
        "-P",
        "-m",
        "service.cli",
        "train",
        config,
        "-o",
        output,
        "--data-root",
        tmp_path,
    )
    with torchrun(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        first = output / "checkpoints" / "00000001.json"
        while not first.exists() and process.poll() is None:
            time.sleep(0.01)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    assert out.count("accuracy predictor:") == 1  # said by the first process alone
    # A run from the beginning would have written three: the first twice.
    assert max(int(path.stem) for path in first.parent.glob("*.json")) == 2
    space = preset("mbv3-digits", classes=2)
    alone = TrainingState.fresh(space, read_config(config).schedule)
    for _ in train(alone, photographs(tmp_path)):
        pass
    supernet = Bundle.open(output / "bundle").supernet()
    untrained = TrainingState.fresh(space, alone.schedule).supernet.state_dict()

    def distance(other: dict[str, torch.Tensor]) -> float:
        return max(
            float((other[name] - value.detach()).abs().max()) for name, value in alone.supernet.named_parameters()
        )

    assert distance(supernet.state_dict()) < 1e-4 < 1e-3 < distance(untrained)
