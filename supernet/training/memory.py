"""The memory of this process: what freed memory is kept for, and the most that was taken."""

import ctypes
import resource
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch


@cache
def keep_freed_memory() -> None:
    """Let glibc reuse freed memory instead of returning it; else the system clears all activations anew.

    For the whole process from then on: not for one that also measures latencies. Scoring takes about half the time.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            libc, trim_threshold, mmap_threshold = ctypes.CDLL("libc.so.6"), -1, -3  # as malloc.h has them
            libc.mallopt(mmap_threshold, 1 << 30)
            libc.mallopt(trim_threshold, (1 << 31) - 1)


def reset_peak(device: torch.device) -> None:
    """Begin a new maximum. On a CPU only Linux can; elsewhere it stays the process's own since it started."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(device: torch.device) -> int:
    """Bytes at most: allocated on CUDA; resident of this process, without those that decode images, on a CPU."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
