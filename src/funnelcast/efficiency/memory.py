"""How much memory a process takes, and how much there is; Linux alone tells."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from funnelcast.metrics import Undefined

__all__ = ["available_bytes", "peak_bytes", "resident_bytes"]

_PROC = Path("/proc")


def resident_bytes(proc: Path = _PROC) -> int | Undefined:
    """Return this process's memory of the moment.

    Args:
        proc: where the system tells.
    """
    return _entry(proc / "self/status", "VmRSS")


def peak_bytes(work: Callable[[], object], before: int | Undefined, proc: Path = _PROC) -> int | Undefined:
    """Run something and return by how much memory rose above a former state at its highest.

    Args:
        work: what to run; it runs also where nothing can be measured.
        before: `resident_bytes` of that state.
        proc: where the system tells.
    """
    try:
        (proc / "self/clear_refs").write_text("5")  # the highest memory so far becomes that of the moment
    except OSError as error:
        work()
        return Undefined(f"peak memory is read from /proc of Linux, which is not to be had here: {error.strerror}")
    work()
    highest = _entry(proc / "self/status", "VmHWM")
    if isinstance(before, Undefined) or isinstance(highest, Undefined):
        return before if isinstance(before, Undefined) else highest
    return max(0, highest - before)


def available_bytes(proc: Path = _PROC, group: Path = Path("/sys/fs/cgroup")) -> int | Undefined:
    """Return the memory that new processes may take: the system's, and no more than this container's limit leaves.

    Args:
        proc: where the system tells.
        group: where the container's limit stands.
    """
    free = _entry(proc / "meminfo", "MemAvailable")
    limit, used = group / "memory.max", group / "memory.current"
    if isinstance(free, Undefined) or not (limit.is_file() and used.is_file()):
        return free
    text = limit.read_text(encoding="ascii").strip()
    return min(free, max(0, int(text) - int(used.read_text(encoding="ascii")))) if text.isdigit() else free


def _entry(path: Path, name: str) -> int | Undefined:
    """Read an entry such as `VmRSS:  1234 kB`, in bytes."""
    try:
        lines = path.read_text(encoding="ascii").splitlines()
    except OSError as error:
        return Undefined(f"memory is read from {path} of Linux, which is not to be had here: {error.strerror}")
    found = [line.split()[1] for line in lines if line.startswith(f"{name}:")]
    return int(found[0]) * 1024 if found else Undefined(f"{path} has no entry {name}")
