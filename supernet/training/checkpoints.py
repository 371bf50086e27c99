"""Checkpoints of training: NUMBER.safetensors with every tensor, then NUMBER.json, with the hashes of both files.

A checkpoint without its second file was cut short, and one with other hashes is damaged; both are skipped. No state of
random generators is stored, because all randomness of training is a function of (seed, phase, step).
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from supernet.data import Dataset
from supernet.files import sha256, write_atomically
from supernet.training import distributed
from supernet.training.loop import Progress, TrainingError, TrainingState, train

log = logging.getLogger("supple.train")
CHECKPOINT_STEPS = 200  # between two checkpoints
# The buffers of SGD and AdamW, and their names in a checkpoint.
BUFFERS = {"momentum_buffer": "momentum", "step": "steps", "exp_avg": "mean", "exp_avg_sq": "mean_square"}
Packed = tuple[dict[str, Tensor], dict[str, Any]]  # tensors by name, and all else as JSON


def save_checkpoint(state: TrainingState, folder: Path, *, keep: int = 2) -> Path:
    """Write a checkpoint atomically and delete all but the newest `keep`. Call it on every process; the first writes.

    Raises:
        OSError: the disk is full or the folder cannot be written; earlier checkpoints stay as they were.
    """
    distributed.average_statistics(state.supernet)
    state.checkpoint = distributed.from_first_process(lambda: _write(state, folder, keep))
    return state.checkpoint


def load_checkpoint(state: TrainingState, folder: Path) -> bool:
    """Load the newest intact checkpoint of a folder into a fresh state; False if the folder has no finished checkpoint.

    Only the first process reads it and sends it to the others, whose machines may not see the folder.

    Raises:
        TrainingError: the checkpoint belongs to another schedule or space, or all checkpoints are damaged.
    """
    packed = distributed.from_first_process(lambda: _read(state, folder))
    if packed is not None:
        _unpack(*packed, state)
    return packed is not None


def train_resumably(
    state: TrainingState,
    dataset: Dataset,
    folder: Path,
    *,
    workers: int = 0,
    steps: int = CHECKPOINT_STEPS,
    keep: int = 2,
    at_phase_end: Callable[[TrainingState], None] = lambda state: None,
) -> Iterator[Progress]:
    """`train` with a checkpoint every `steps` steps and at the end of each phase.

    A state that has no checkpoint first loads the newest one in the folder. If that one ended the run, no step follows.

    keep: keep this many newest checkpoints. at_phase_end: called on the first process at the end of each phase, before
    the checkpoint.

    Raises:
        TrainingError, ValueError: what `load_checkpoint` and `train` raise.
        OSError: the disk is full; earlier checkpoints stay as they were.
    """
    if state.checkpoint is None:
        load_checkpoint(state, folder)
    for progress in train(state, dataset, workers=workers):
        if state.step == 0 and distributed.is_first():
            at_phase_end(state)
        if progress.step % steps == 0 or state.step == 0:
            save_checkpoint(state, folder, keep=keep)
        yield progress


def _write(state: TrainingState, folder: Path, keep: int) -> Path:
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    for leftover in folder.glob(".*.tmp"):  # left by a process that was killed while it wrote
        leftover.unlink()
    number = max((int(path.stem) for path in folder.glob("[0-9]*.safetensors")), default=0) + 1
    path = folder / f"{number:08}.safetensors"
    tensors, position = _pack(state)
    try:
        write_atomically(path, save({name: value.contiguous() for name, value in tensors.items()}))
        position = {"sha256": sha256(path), **position}
        write_atomically(path.with_suffix(".json"), json.dumps({"own_sha256": _digest(position), **position}).encode())
    except OSError:
        path.unlink(missing_ok=True)
        raise
    oldest = sorted(folder.glob("[0-9]*.json"))[-keep:][0].stem
    for old in (*folder.glob("[0-9]*.json"), *folder.glob("[0-9]*.safetensors")):
        if old.stem < oldest:
            old.unlink()
    return path


def _read(state: TrainingState, folder: Path) -> Packed | None:
    from safetensors.torch import load_file

    damaged = []
    for path in sorted((path.with_suffix(".safetensors") for path in folder.glob("[0-9]*.json")), reverse=True):
        try:
            position = json.loads(path.with_suffix(".json").read_text())
            intact = position.pop("own_sha256") == _digest(position) and position["sha256"] == sha256(path)
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            intact = False
        if not intact:
            damaged.append(str(path))
            log.warning(
                "checkpoint %s is damaged: its hash has changed; looking for an older checkpoint",
                path,
            )
            continue
        if (position["schedule_hash"], position["space_hash"]) != (state.schedule.hash, state.supernet.space.hash):
            raise TrainingError(
                f"{path} belongs to another schedule or space than this configuration's. Resume with the configuration "
                "that started it, or train into another folder"
            )
        if position.get("start", "") != state.start:
            raise TrainingError(
                f"{path} belongs to a run that started from other weights. Resume with the `init` that started it, or "
                "train into another folder"
            )
        if (maker := position.get("made_by", _maker())) != _maker():
            message = "checkpoint %s was made by %s, this is %s: training goes on, but not to the same bits"
            log.warning(message, path, maker, _maker())
        return load_file(path), {**position, "path": str(path)}
    if damaged:
        raise TrainingError(
            f"every checkpoint is damaged: {', '.join(damaged)}. Restore one of them, or delete the folder"
        )
    return None


def _digest(position: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(position, sort_keys=True).encode()).hexdigest()


def _pack(state: TrainingState) -> Packed:
    tensors = {f"supernet.{name}": value for name, value in state.supernet.state_dict().items()}
    if state.teacher is not None:
        tensors |= {f"teacher.{name}": value for name, value in state.teacher.state_dict().items()}
    if state.ema is not None:
        tensors |= {f"ema.{name}": value for name, value in state.ema.items()}
    if state.optimiser is not None:
        for name, parameter in state.supernet.named_parameters():
            buffers = state.optimiser.state.get(parameter, {})
            tensors |= {f"{BUFFERS[buffer]}.{name}": value for buffer, value in buffers.items() if value is not None}
    position = {
        "schedule_hash": state.schedule.hash,
        "space_hash": state.supernet.space.hash,
        "start": state.start,
        "phase": state.phase,
        "step": state.step,
        "dataset_hash": state.dataset_hash,
        "curves": state.curves,
        "scaler": state.scaler.state_dict(),
        "made_by": _maker(),
    }
    return tensors, position


def _maker() -> dict[str, Any]:
    """What else the bits of a step depend on, besides the checkpoint and the kind of processor."""
    return {"torch": torch.__version__, "threads": torch.get_num_threads()}


def _unpack(tensors: dict[str, Tensor], position: dict[str, Any], state: TrainingState) -> None:
    device = state.device

    def under(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}

    state.supernet.load_state_dict(under("supernet."))
    state.phase, state.step, state.curves = position["phase"], position["step"], position["curves"]
    state.dataset_hash = position["dataset_hash"]
    state.checkpoint = Path(position["path"])
    state.scaler.load_state_dict(position["scaler"])
    if ema := under("ema."):
        state.ema = {name: value.to(device) for name, value in ema.items()}
    if teacher := under("teacher."):
        if state.teacher is None:
            state.teacher = state.fresh_teacher()
        state.teacher.load_state_dict(teacher)
    if state.step:  # at step 0 the phase starts with a fresh optimiser
        state.optimiser = state.fresh_optimiser()
        for buffer, prefix in BUFFERS.items():
            stored = under(f"{prefix}.")
            for name, parameter in state.supernet.named_parameters():
                if name in stored:  # AdamW counts steps on the CPU
                    value = stored[name] if buffer == "step" else stored[name].to(device)
                    state.optimiser.state[parameter][buffer] = value
