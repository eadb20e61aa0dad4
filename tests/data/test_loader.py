"""The order of batches is a pure function of (seed, epoch, position)."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Generator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from funnelcast.batch import Batch
from funnelcast.data.ids import Ids
from funnelcast.data.loader import Loader
from funnelcast.data.shards import PreparedData, RowGroup
from funnelcast.data.split import Split
from funnelcast.errors import ArtifactError


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
    assert sizes[:-1] == [batch_size] * (len(sizes) - 1) and (sum(sizes), len(sizes)) == loader.planned(3, 1) == (
        1000,
        len(sizes),
    )
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


def expected_order(groups: list[int], seed: int, epoch: int) -> list[int]:
    """Rows in the order of an epoch, worked out from the rule: groups first, then the rows of 8 groups together."""

    def draw(*key: int) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(np.random.SeedSequence(key)))

    starts = np.cumsum([0, *groups])
    shuffled = draw(seed, epoch, 0).permutation(len(groups))
    order: list[int] = []
    for number in range(-(-len(groups) // 8)):
        rows = [row for i in shuffled[8 * number : 8 * number + 8] for row in range(starts[i], starts[i + 1])]
        order += [rows[place] for place in draw(seed, epoch, 1 + number).permutation(len(rows))]
    return order


@pytest.mark.parametrize("memory", [4 << 30, 0], ids=["memory", "streamed"])
def test_the_order_is_the_one_of_the_rule(make_prepared: Callable[..., Path], memory: int) -> None:
    data = PreparedData(make_prepared(rows={"train": 1013, "valid": 40, "test": 40}))
    groups = [group.rows for group in data.row_groups(Split.TRAIN)]
    assert groups == [40] * 25 + [13]
    everything = rows([data.read(data.row_groups(Split.TRAIN))])
    found = rows(list(Loader(data, Split.TRAIN, 100, memory).epoch(seed=2, epoch=3)))
    assert found == [everything[row] for row in expected_order(groups, 2, 3)]


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batch_size=st.integers(1, 400), start=st.integers(0, 9), epoch=st.integers(0, 3))
def test_every_tensor_is_the_same_streamed_and_from_memory(
    prepared: Path, batch_size: int, start: int, epoch: int
) -> None:
    data = PreparedData(prepared, verify=False)
    loaders = [Loader(data, Split.TRAIN, batch_size, memory) for memory in (4 << 30, 1)]
    # All streamed batches are kept, so that one whose memory is written again would show.
    for ways in ([list(one.epoch(1, epoch, start)) for one in loaders], [list(one.in_order()) for one in loaders]):
        for first, second in zip(*ways, strict=True):
            for name, value in vars(first).items():
                other = getattr(second, name)
                assert (other is None) if value is None else torch.equal(value, other), name


def reading_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("funnelcast-loader")]


@pytest.mark.parametrize("way", ["epoch", "in_order"])
@pytest.mark.parametrize("taken", [0, 1, 3])
def test_giving_up_an_iteration_ends_its_thread(prepared: Path, way: str, taken: int) -> None:
    loader = Loader(PreparedData(prepared), Split.TRAIN, 64, 0)
    batches = loader.epoch(0, 0) if way == "epoch" else loader.in_order()
    for _ in range(taken):
        next(batches)
    assert len(reading_threads()) == (taken > 0)
    assert isinstance(batches, Generator)
    batches.close()
    assert reading_threads() == []
    for _ in loader.epoch(0, 1):
        break  # nobody closes it: it ends with its last reference
    gc.collect()
    assert reading_threads() == []


def test_two_iterations_of_one_loader_do_not_meet(prepared: Path) -> None:
    loader = Loader(PreparedData(prepared), Split.TRAIN, 64, 0)
    alone = [rows(list(loader.epoch(0, number))) for number in (0, 1)]
    both = list(zip(loader.epoch(0, 0), loader.epoch(0, 1), strict=True))
    assert [rows([pair[number] for pair in both]) for number in (0, 1)] == alone


def test_one_buffer_is_read_ahead_and_none_that_is_passed_over(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = PreparedData(prepared)
    asked: list[int] = []
    read = data.read

    def counted(groups: list[RowGroup], out: Ids | None = None) -> Batch:
        asked.append(len(groups))
        return read(groups, out)

    monkeypatch.setattr(data, "read", counted)
    loader = Loader(data, Split.TRAIN, 100, 0)
    batches = loader.epoch(0, 0)
    next(batches)  # rows 0..99 of the first buffer, 320 rows
    next(batches)
    assert asked in ([8], [8, 8])  # the second one is under way, or about to be
    assert sum(1 for _ in batches) == 8 and asked == [8, 8, 8, 1]
    asked.clear()
    assert sum(len(batch) for batch in loader.epoch(0, 0, start=7)) == 300 and asked == [8, 1]


@pytest.mark.parametrize("damage", ["scrambled", "gone"])
def test_a_damaged_shard_is_an_error_where_its_rows_are_due(prepared: Path, damage: str) -> None:
    loader = Loader(PreparedData(prepared), Split.TRAIN, 40, 0)
    whole = rows(list(loader.in_order()))
    path = prepared / "train" / "part-00001.parquet"  # rows 400..799
    if damage == "gone":
        path.unlink()
    else:
        content = path.read_bytes()
        path.write_bytes(content[:4] + bytes(255 - byte for byte in content[4 : len(content) // 2]) + content[4:])
    found: list[Batch] = []
    with pytest.raises(ArtifactError, match=r"part-00001.parquet: row group 0 is missing or damaged"):
        found.extend(loader.in_order())
    assert rows(found) == whole[:400]
    with pytest.raises(ArtifactError, match=r"part-00001.parquet: row group \d is missing or damaged"):
        list(loader.epoch(0, 0))
    assert reading_threads() == []
    with pytest.raises(ArtifactError, match=r"part-00001.parquet: "):
        Loader(PreparedData(prepared, verify=False), Split.TRAIN, 40)
