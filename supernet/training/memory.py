"""This process's memory: reuse of freed memory, and the peak."""

import ctypes
import resource
import sys
from contextlib import suppress
from functools import cache
from pathlib import Path

import torch


@cache
def keep_freed_memory() -> None:
    """Let glibc reuse freed memory. By default it returns memory to the system, which clears it anew for each step.

    Scoring then takes about half the time. This lasts as long as the process, so a process that measures latencies must
    not call it.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            libc, trim_threshold, mmap_threshold = ctypes.CDLL("libc.so.6"), -1, -3  # as malloc.h has them
            libc.mallopt(mmap_threshold, 1 << 30)
            libc.mallopt(trim_threshold, (1 << 31) - 1)


def reset_peak(device: torch.device) -> None:
    """Reset the peak to the present use. On a CPU this needs Linux; else the peak counts from the process's start."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


def peak_bytes(device: torch.device) -> int:
    """Peak memory in bytes: allocated memory on CUDA; on a CPU this process's resident memory, without its workers'."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
