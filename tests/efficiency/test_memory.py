"""What Linux says about memory, read from folders made here and from the real one."""

from __future__ import annotations

import mmap
from pathlib import Path

import pytest

from funnelcast.efficiency.memory import available_bytes, peak_bytes, resident_bytes
from funnelcast.metrics import Undefined

LINUX = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs /proc of Linux")


@LINUX
def test_a_peak_counts_what_was_there_for_a_moment() -> None:
    def touch() -> None:
        with mmap.mmap(-1, 64 << 20) as block:  # past the allocator, which may have kept as much from other tests
            for page in range(0, 64 << 20, mmap.PAGESIZE):
                block[page] = 1

    found = peak_bytes(touch, resident_bytes())
    assert isinstance(found, int)
    assert 60 << 20 < found < 120 << 20
    again = peak_bytes(lambda: None, resident_bytes())
    assert isinstance(again, int) and again < 16 << 20  # the former peak is forgotten


def test_elsewhere_it_is_undefined_and_the_work_is_done(tmp_path: Path) -> None:
    done = []
    found = peak_bytes(lambda: done.append(1), 0, tmp_path / "none")
    assert isinstance(found, Undefined) and "not to be had here" in found.reason
    assert done == [1]
    resident = resident_bytes(tmp_path / "none")
    assert isinstance(resident, Undefined) and "VmRSS" not in resident.reason
    assert isinstance(available_bytes(tmp_path / "none"), Undefined)


def proc(folder: Path, status: str, meminfo: str = "MemAvailable:  100 kB\n") -> Path:
    (folder / "self").mkdir(parents=True)
    (folder / "self" / "status").write_text(status)
    (folder / "self" / "clear_refs").write_text("")
    (folder / "meminfo").write_text(meminfo)
    return folder


def test_entries_are_in_kibibytes(tmp_path: Path) -> None:
    made = proc(tmp_path / "proc", "Name:\tx\nVmHWM:\t  30 kB\nVmRSS:\t  20 kB\n")
    assert resident_bytes(made) == 20 * 1024
    assert peak_bytes(lambda: None, 5 * 1024, made) == 25 * 1024
    assert (made / "self" / "clear_refs").read_text() == "5"
    assert available_bytes(made, tmp_path / "no group") == 100 * 1024


@pytest.mark.parametrize(("limit", "expected"), [("max\n", 100 * 1024), ("50000\n", 20_000), ("20000\n", 0)])
def test_a_container_has_its_own_limit(tmp_path: Path, limit: str, expected: int) -> None:
    (tmp_path / "memory.max").write_text(limit)
    (tmp_path / "memory.current").write_text("30000\n")
    assert available_bytes(proc(tmp_path / "proc", ""), tmp_path) == expected


def test_a_missing_entry_is_named(tmp_path: Path) -> None:
    made = proc(tmp_path / "proc", "VmRSS:\t 20 kB\n")
    found = peak_bytes(lambda: None, 0, made)
    assert isinstance(found, Undefined) and "no entry VmHWM" in found.reason
    reason = Undefined("no state before")
    assert peak_bytes(lambda: None, reason, made) == reason
