"""How a process of the command line starts, its allocator and its threads, and what it gives back between trainings."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
from pathlib import Path

__all__ = ["allowed_cores", "give_back_memory", "prepare_process"]

# Gradients and activations are blocks of megabytes. glibc gives such blocks back to the system when they are freed and
# pays a page fault for every 4 KiB of the next one; with these settings it keeps them.
_KEEP = {"MALLOC_MMAP_MAX_": "0", "MALLOC_TRIM_THRESHOLD_": "2147483647", "MALLOC_TOP_PAD_": "268435456"}
_MALLOPT = {"MALLOC_MMAP_MAX_": -4, "MALLOC_TRIM_THRESHOLD_": -1, "MALLOC_TOP_PAD_": -2}  # as malloc.h numbers them


def allowed_cores(quota: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """Count the cores that this process may use: those of its affinity, and no more than its container's quota.

    The load of the moment does not count, or else two runs of one experiment would differ in their last digits.

    Args:
        quota: where a container states microseconds of work and the period, or `max`.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if quota.is_file():
        work, _, period = quota.read_text(encoding="ascii").strip().partition(" ")
        if work.isdigit() and period.isdigit():
            cores = min(cores, max(1, int(work) // int(period)))
    return cores


def prepare_process() -> None:
    """Set allocator and threads for this process and those it starts; what the user has set stays.

    Threads wait asleep instead of spinning: on shared cores a spinning one keeps the very thread that it waits for off
    the processor. OMP_NUM_THREADS becomes `allowed_cores()`.
    """
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        for name, value in _KEEP.items():
            if name not in os.environ:
                os.environ[name] = value  # for the processes that this one starts
                if hasattr(library, "mallopt"):  # other C libraries than glibc have none
                    library.mallopt(_MALLOPT[name], int(value))
    if "torch" not in sys.modules:  # afterwards the threads are there already
        os.environ.setdefault("OMP_WAIT_POLICY", "passive")
        os.environ.setdefault("OMP_NUM_THREADS", str(allowed_cores()))


def give_back_memory() -> None:
    """Give what is free to the system, where glibc keeps it; for between trainings.

    Blocks that are kept for the next step of one training are too small or too many for the next training, and a
    process with many trainings would grow with each.
    """
    gc.collect()  # models and optimizers hold each other
    if sys.platform == "linux":
        library = ctypes.CDLL(None)
        if hasattr(library, "malloc_trim"):  # other C libraries than glibc have none
            library.malloc_trim(0)
