"""The order of batches is a pure function of (seed, epoch, position)."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from funnelcast.batch import Batch
from funnelcast.data.loader import Loader
from funnelcast.data.shards import PreparedData
from funnelcast.data.split import Split


def rows(batches: list[Batch]) -> list[tuple[float, ...]]:
    """A fingerprint for each row: every id, label and user."""
    return [
        (*ids, *labels, user)
        for b in batches
        for ids, labels, user in zip(b.ids.tolist(), b.labels.tolist(), b.user.tolist(), strict=True)  # type: ignore[union-attr]
    ]


@pytest.mark.parametrize("memory", [4 << 30, 0], ids=["memory", "streamed"])
@pytest.mark.parametrize("batch_size", [1, 7, 64, 999, 1000, 5000])
def test_an_epoch_holds_every_row_once(prepared: Path, memory: int, batch_size: int) -> None:
    data = PreparedData(prepared)
    loader = Loader(data, Split.TRAIN, batch_size, memory)
    assert loader.in_memory == (memory > 0)
    batches = list(loader.epoch(seed=3, epoch=1))
    sizes = [len(batch) for batch in batches]
    assert sizes[:-1] == [batch_size] * (len(sizes) - 1) and sum(sizes) == 1000 and len(sizes) == loader.batches
    everything = rows([data.read(data.row_groups(Split.TRAIN))])
    assert sorted(rows(batches)) == sorted(everything)
    assert rows(batches) != everything
    assert rows(list(loader.in_order())) == everything


def test_memory_and_stream_give_the_same_order(prepared: Path) -> None:
    data = PreparedData(prepared)
    from_memory = Loader(data, Split.TRAIN, 64).epoch(seed=5, epoch=2)
    streamed = Loader(data, Split.TRAIN, 64, 0).epoch(seed=5, epoch=2)
    for first, second in zip(from_memory, streamed, strict=True):
        assert torch.equal(first.ids, second.ids) and torch.equal(first.labels, second.labels)


def test_seed_and_epoch_change_the_order(prepared: Path) -> None:
    loader = Loader(PreparedData(prepared), Split.TRAIN, 64)
    orders = [rows(list(loader.epoch(seed, epoch))) for seed, epoch in [(0, 0), (0, 1), (1, 0)]]
    assert orders[0] != orders[1] and orders[0] != orders[2] and orders[1] != orders[2]
    assert orders[0] == rows(list(loader.epoch(0, 0)))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch_size=st.integers(1, 400), start=st.integers(0, 30), memory=st.sampled_from([0, 4 << 30]))
def test_going_on_at_any_batch_gives_the_rest_of_the_epoch(
    prepared: Path, batch_size: int, start: int, memory: int
) -> None:
    loader = Loader(PreparedData(prepared, verify=False), Split.TRAIN, batch_size, memory)
    whole = rows(list(loader.epoch(1, 4)))
    assert rows(list(loader.epoch(1, 4, start=start))) == whole[start * batch_size :]
