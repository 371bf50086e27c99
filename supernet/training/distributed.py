"""One training run on several processes that torchrun starts. Each takes its share of every batch.

Without torchrun there is one process, of rank 0, and every function here leaves its argument as it is.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

BUCKET_BYTES = 2**25  # most bytes of gradients in one message
PATIENCE = timedelta(hours=2)  # the first process may decode a folder of images, or write a checkpoint to a slow disk

T = TypeVar("T")


def is_first() -> bool:
    """Whether this is the first process or the only one. Only the first prints and writes."""
    return not dist.is_torchelastic_launched() or os.environ["RANK"] == "0"


def rank() -> int:
    """The number of this process, from 0, among the processes that train together."""
    return int(dist.get_rank()) if dist.is_initialized() else 0


def world() -> int:
    """The number of processes that train together."""
    return int(dist.get_world_size()) if dist.is_initialized() else 1


def restarted() -> bool:
    """Whether torchrun restarted the processes after one of them had died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def choose_device(name: str | None) -> torch.device:
    """A device by its name. None takes CUDA if there is any, a GPU per process of a machine, else the CPU.

    Raises:
        ValueError: torch does not know the device, or this machine does not have it.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # a torch without CUDA raises AssertionError
        first_line = str(error).partition("\n")[0]
        raise ValueError(f"device is {name or device}, which torch cannot use here: {first_line}") from error
    return device


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Connect the processes that torchrun started, until the end of the block."""
    if not dist.is_torchelastic_launched():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store, number, count = next(dist.rendezvous("env://", timeout=PATIENCE))
    if os.environ["TORCHELASTIC_USE_AGENT_STORE"] == "True" and os.environ["GROUP_WORLD_SIZE"] == "1":
        # torchrun keeps one store through all restarts, which holds dead processes' addresses (pytorch issue 135712).
        store = dist.PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=PATIENCE)
    yield
    dist.destroy_process_group()  # not after an error: it would wait for processes that still run


def in_turns(work: Callable[[], T]) -> T:
    """Call `work` on the first process, then on the first process of each machine, then on all others.

    So a download happens once per disk, whether or not the machines share one.
    """
    if not dist.is_initialized():
        return work()
    own = 0 if rank() == 0 else 1 if os.environ.get("LOCAL_RANK") == "0" else 2
    results = []
    for turn in range(3):
        if turn == own:
            results.append(work())
        dist.barrier()
    return results[0]


def from_first_process(work: Callable[[], T]) -> T:
    """Call `work` on the first process alone, and return its result on every process."""
    if not dist.is_initialized():
        return work()
    results = [work() if rank() == 0 else None]
    dist.broadcast_object_list(results)
    return results[0]  # type: ignore[return-value]


def sum_over_processes(tensors: Sequence[Tensor]) -> None:
    """Replace every tensor by its sum over all processes, in few messages. All processes must pass the same shapes."""
    if not dist.is_initialized():
        return
    for bucket in _buckets(tensors):
        flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
        dist.all_reduce(flat)
        for tensor, summed in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
            tensor.copy_(summed.view_as(tensor))


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """Split the tensors, in order, into lists that fit into one message each."""
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and size + tensor.nbytes > BUCKET_BYTES:
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.nbytes
    if bucket:
        yield bucket


@torch.no_grad()
def average_statistics(module: nn.Module) -> None:
    """Replace the running statistics of every batch norm by their mean over all processes."""
    statistics = running_statistics(module)
    sum_over_processes(statistics)
    for tensor in statistics:
        tensor /= world()


def running_statistics(module: nn.Module) -> list[Tensor]:
    """The running means and variances inside a module."""
    return [buffer for buffer in module.buffers() if buffer.is_floating_point()]


class SynchronisedBatchNorm(TorchFunctionMode):
    """While active, every `F.batch_norm` in training computes its statistics over the batches of all processes.

    It works for the layers of every family, elastic or static. All processes must hold equally many images.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a torch function; `F.batch_norm` is replaced by the synchronised one."""
        if func is F.batch_norm and dist.is_initialized():
            return _batch_norm(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor,
    bias: Tensor,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`F.batch_norm` over all processes. The variance is about the common mean, which is numerically stable."""
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, False, momentum, eps)
    x = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
    mean = _Sum.apply(x.mean((0, 2, 3)) / world())
    centred = x - mean[:, None, None]
    variance = _Sum.apply(centred.square().mean((0, 2, 3)) / world())
    if running_mean is not None and running_var is not None:
        count = world() * x.numel() // x.shape[1]
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(variance * (count / (count - 1)), momentum)
    scale = weight * torch.rsqrt(variance + eps)
    return (centred * scale[:, None, None] + bias[:, None, None]).to(input.dtype)


class _Sum(torch.autograd.Function):
    """The sum over all processes. Its gradient is also a sum, since every process uses the result."""

    @staticmethod
    def forward(_context: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(None, gradient)
