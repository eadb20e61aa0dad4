"""What the command line sets before torch is loaded, seen from a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from funnelcast.process import allowed_cores

SHOWN = ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")


def settings(code: str, **given: str) -> dict[str, str | None]:
    show = f"import json, os; print(json.dumps({{name: os.environ.get(name) for name in {SHOWN}}}))"
    environment = {name: value for name, value in os.environ.items() if name not in SHOWN} | given
    command = [sys.executable, "-c", f"{code}; {show}"]
    printed = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    found: dict[str, str | None] = json.loads(printed.splitlines()[-1])
    return found


def test_the_command_line_sets_and_an_import_does_not() -> None:
    start = "from funnelcast.process import prepare_process; prepare_process()"
    assert settings(start) == {
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": "2147483647",
        "MALLOC_TOP_PAD_": "268435456",
        "OMP_WAIT_POLICY": "passive",
        "OMP_NUM_THREADS": str(allowed_cores()),
    }
    assert set(settings("import funnelcast, funnelcast.train").values()) == {None}


def test_what_the_user_has_set_stays() -> None:
    start = "from funnelcast.process import prepare_process; prepare_process()"
    given = dict.fromkeys(SHOWN, "1") | {"OMP_WAIT_POLICY": "active"}
    assert settings(start, **given) == given


def test_threads_are_left_alone_when_torch_is_there() -> None:
    start = "import torch; from funnelcast.process import prepare_process; prepare_process()"
    assert settings(start)["OMP_NUM_THREADS"] is None


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_freed_blocks_are_kept() -> None:
    """A block of 64 MiB that is freed and taken again costs a page fault every 4 KiB by default: 16,384."""
    count = (
        "import os, resource, torch; faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt; "
        "take = lambda: torch.empty(1 << 24).fill_(1.0) is None or faults(); found = [take() for _ in range(12)]; "
        "os.environ['OMP_NUM_THREADS'] = str(found[11] - found[10])"
    )
    start = "from funnelcast.process import prepare_process; prepare_process(); "
    by_default, kept = (int(settings(code)["OMP_NUM_THREADS"] or "") for code in (count, start + count))
    assert kept < 4_000 < 15_000 < by_default


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_memory_goes_back_between_trainings() -> None:
    """200 blocks of 1 MiB are freed below one that stays, so that the heap cannot shrink at its end."""
    count = (
        "import os; from funnelcast.process import give_back_memory; "
        "resident = lambda: int(open('/proc/self/statm').read().split()[1]) * os.sysconf('SC_PAGE_SIZE') >> 20; "
        "blocks = [bytearray(b'x') * (1 << 20) for _ in range(201)]; del blocks[:200]; kept = resident(); "
        "give_back_memory(); os.environ['OMP_NUM_THREADS'] = str(kept - resident())"
    )
    start = "from funnelcast.process import prepare_process; prepare_process(); "
    assert int(settings(start + count)["OMP_NUM_THREADS"] or "") > 190


@pytest.mark.parametrize(("text", "most"), [("150000 100000\n", 1), ("100 100000\n", 1), ("max 100000\n", 10**6)])
def test_a_containers_quota_counts(tmp_path: Path, text: str, most: int) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert 1 <= allowed_cores(tmp_path / "cpu.max") <= most
    assert allowed_cores(tmp_path / "missing") >= 1
