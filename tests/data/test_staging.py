"""Rows that move to a device as a whole give the same batches; nothing here needs a GPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from funnelcast.batch import Batch
from funnelcast.data import loader
from funnelcast.data.loader import Loader
from funnelcast.data.shards import PreparedData
from funnelcast.data.split import Split
from funnelcast.data.staging import fits_device, pick_rows, stage

CPU = torch.device("cpu")


def some_rows(first: int, count: int) -> Batch:
    ids = torch.arange(first, first + count, dtype=torch.int32)[:, None].repeat(1, 2)
    return Batch.of(ids, ids.float() % 2)


def test_half_of_the_free_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 4000))
    cuda = torch.device("cuda")
    assert [fits_device(size, cuda) for size in (1, 500, 501)] == [True, True, False]
    assert not fits_device(1, CPU)


def test_parts_below_each_other() -> None:
    whole = stage((some_rows(start, 3) for start in (0, 3)), 6, CPU)
    assert whole.ids[:, 1].tolist() == [0, 1, 2, 3, 4, 5] and whole.ids.dtype is torch.int32 and whole.user is None
    assert stage([some_rows(0, 3)], 3, torch.device("meta")).labels.device.type == "meta"


@pytest.mark.parametrize("parts", [[], [some_rows(0, 3)]])
def test_other_rows_than_announced_are_refused(parts: list[Batch]) -> None:
    with pytest.raises(ValueError, match="parts should have 4 rows and be at least one, received"):
        stage(parts, 4, CPU)


def test_rows_are_picked_where_they_are() -> None:
    order = np.array([4, 0, 2])
    picked = pick_rows(some_rows(0, 5), order, pinned=False)(1, 3)
    assert picked.ids[:, 0].tolist() == [0, 2] and picked.labels[:, 0].tolist() == [0.0, 0.0]
    elsewhere = pick_rows(some_rows(0, 5).to(torch.device("meta")), order, pinned=True)(1, 3)
    assert elsewhere.ids.device.type == "meta" and elsewhere.ids.shape == (2, 2)


@pytest.mark.parametrize("start", [0, 5])
def test_a_staged_split_gives_the_same_batches(monkeypatch: pytest.MonkeyPatch, prepared: Path, start: int) -> None:
    data = PreparedData(prepared)
    plain = Loader(data, Split.TRAIN, 64)
    monkeypatch.setattr(loader, "fits_device", lambda size, device: True)
    staged = Loader(data, Split.TRAIN, 64, memory_bytes=0)
    assert staged.in_memory
    pairs = [*zip(plain.epoch(1, 2, start), staged.epoch(1, 2, start), strict=True)]
    pairs += zip(plain.in_order(), staged.in_order(), strict=True)
    for first, second in pairs:
        for name, value in vars(first).items():
            other = getattr(second, name)
            assert (other is None) if value is None else torch.equal(value, other), name
