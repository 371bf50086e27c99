"""One training run on several processes, started by torchrun: each takes its share of every batch.

Without torchrun everything here is the identity, and there is one process, of rank 0.
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

BUCKET_BYTES = 2**25  # of gradients in one message
PATIENCE = timedelta(hours=2)  # the first process may decode a folder of images, or write a checkpoint to a slow disk

T = TypeVar("T")


def is_first() -> bool:
    """Whether this is the first of torchrun's processes, or the only one: it alone prints and writes."""
    return not dist.is_torchelastic_launched() or os.environ["RANK"] == "0"


def rank() -> int:
    """The number of this process among those that train together."""
    return int(dist.get_rank()) if dist.is_initialized() else 0


def world() -> int:
    """How many processes train together."""
    return int(dist.get_world_size()) if dist.is_initialized() else 1


def restarted() -> bool:
    """Whether torchrun started this process again after one had died."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def choose_device(name: str | None) -> torch.device:
    """A device by its name; None takes CUDA where there is some, and every process of a machine one of its own.

    Raises:
        ValueError: torch knows no such device, or has none here.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch built without CUDA asserts that it has some
        first_line = str(error).partition("\n")[0]
        raise ValueError(f"device is {name or device}, which torch cannot use here: {first_line}") from error
    return device


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Be one of the processes that torchrun started, if it did, until the block's end."""
    if not dist.is_torchelastic_launched():
        yield
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)
    store, number, count = next(dist.rendezvous("env://", timeout=PATIENCE))
    if os.environ["TORCHELASTIC_USE_AGENT_STORE"] == "True" and os.environ["GROUP_WORLD_SIZE"] == "1":
        # torchrun keeps one store through all restarts, with the addresses of the dead in it (pytorch issue 135712).
        store = dist.PrefixStore(os.environ["TORCHELASTIC_RESTART_COUNT"], store)
    backend = "nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=PATIENCE)
    yield
    dist.destroy_process_group()  # not after an error: it would wait for those that still work


def in_turns(work: Callable[[], T]) -> T:
    """What `work` returns: first on the first process, then on the first of every machine, then on all others.

    So that downloads happen once, whether or not the machines share a disk.
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
    """What `work` returns on the first process, the only one that runs it."""
    if not dist.is_initialized():
        return work()
    carried = [work() if rank() == 0 else None]
    dist.broadcast_object_list(carried)
    return carried[0]  # type: ignore[return-value]


def sum_over_processes(tensors: Sequence[Tensor]) -> None:
    """Replace every tensor by its sum over all processes, in few messages. All must pass the same shapes."""
    if not dist.is_initialized():
        return
    for bucket in _buckets(tensors):
        flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
        dist.all_reduce(flat)
        for tensor, summed in zip(bucket, flat.split([tensor.numel() for tensor in bucket]), strict=True):
            tensor.copy_(summed.view_as(tensor))


def _buckets(tensors: Iterable[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in their order, as many together as fit into a message."""
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
    """While active, every `F.batch_norm` in training takes its statistics over the batches of all processes.

    So it serves each family's layers, elastic or not. All processes must hold equally many images.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a torch function, or the synchronised batch norm in place of its own."""
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
    """`F.batch_norm` over all processes. The variance is taken about the common mean, which loses no digits."""
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
    """The sum over all processes; since all use it, so is its gradient."""

    @staticmethod
    def forward(_context: Any, value: Tensor) -> Tensor:
        total = value.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(_context: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(None, gradient)
