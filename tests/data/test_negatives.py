"""The rows an epoch keeps: a function of (seed, epoch, position), whatever threads, memory or interruptions do."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from funnelcast.batch import Batch
from funnelcast.data.loader import Loader
from funnelcast.data.negatives import NegativeSample, uniform_hash
from funnelcast.data.shards import PreparedData
from funnelcast.data.split import Split


def rows(batches: list[Batch]) -> list[tuple[float, ...]]:
    """Ids and labels of every row."""
    return [(*ids, *labels) for b in batches for ids, labels in zip(b.ids.tolist(), b.labels.tolist(), strict=True)]


def splitmix(state: int) -> int:
    """SplitMix64 as published, on Python's whole numbers."""
    state = (state + 0x9E3779B97F4A7C15) % 2**64
    state = (state ^ (state >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    state = (state ^ (state >> 27)) * 0x94D049BB133111EB % 2**64
    return state ^ (state >> 31)


def test_the_hash_is_splitmix64() -> None:
    assert splitmix(0) == 0xE220A8397B1DCDAF  # the published first number of seed 0
    for key, position in [(0, 0), (0, 1), (2**63 + 5, 3), (12345, 10**12)]:
        state = (key + position * 0x9E3779B97F4A7C15) % 2**64
        assert uniform_hash(key, np.array([position], np.uint64))[0] == (splitmix(state) >> 11) / 2**53


def test_the_hash_is_uniform_and_another_key_gives_other_numbers() -> None:
    numbers = [uniform_hash(key, np.arange(20_000, dtype=np.uint64)) for key in range(50)]
    assert kstest([kstest(one, "uniform").pvalue for one in numbers], "uniform").pvalue > 0.01
    for one, other in pairwise(numbers):
        assert abs(np.corrcoef(one, other)[0, 1]) < 5 / 20_000**0.5


def first_labels(data: PreparedData) -> Batch:
    return data.read(data.row_groups(Split.TRAIN))


@pytest.mark.parametrize("share", [0.1, 0.6])
def test_only_negatives_of_the_first_step_go(prepared: Path, share: float) -> None:
    data = PreparedData(prepared)
    everything, loader = first_labels(data), Loader(data, Split.TRAIN, 64, negatives=share)
    negatives = int((everything.labels[:, 0] < 0.5).sum())
    for epoch in range(3):
        kept = Batch.concatenate(list(loader.epoch(3, epoch)))
        assert int(kept.labels[:, 0].sum()) == int(everything.labels[:, 0].sum()) == 1000 - negatives
        spread = (negatives * share * (1 - share)) ** 0.5
        assert int((kept.labels[:, 0] < 0.5).sum()) == pytest.approx(negatives * share, abs=4 * spread)
    assert sorted(rows(list(loader.in_order()))) == sorted(rows([everything]))  # an evaluation sees all


def test_rows_whose_first_label_is_unobserved_stay(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pyarrow as pa

    data = PreparedData(prepared)
    group = data.row_groups(Split.TRAIN)[0]
    column = pa.chunked_array([pa.array([0, 1, None, 0], pa.int8())])
    monkeypatch.setattr("funnelcast.data.shards._read_group", lambda *_: {"label.click": column})
    assert data.first_negatives(group).tolist() == [True, False, False, True]


def test_epochs_and_seeds_keep_other_rows_and_counts_agree(prepared: Path) -> None:
    data = PreparedData(prepared)
    sample = NegativeSample(data, data.row_groups(Split.TRAIN), 0.3)
    masks = {key: np.concatenate([sample.kept(g, *key) for g in range(25)]) for key in [(0, 0), (0, 1), (1, 0)]}
    assert len({mask.tobytes() for mask in masks.values()}) == 3
    for key, mask in masks.items():
        assert sample.counts(*key) == mask.reshape(25, 40).sum(1).tolist()
    loader = Loader(data, Split.TRAIN, 64, negatives=0.3)
    sizes = [[len(batch) for batch in loader.epoch(0, epoch)] for epoch in range(2)]
    assert loader.planned(0, 2) == (sum(map(sum, sizes)), sum(map(len, sizes)))


@pytest.mark.parametrize("start", [0, 1, 4])
def test_memory_stream_and_threads_give_the_same_rows(prepared: Path, start: int) -> None:
    data, found = PreparedData(prepared), []
    for threads, memory in [(1, 4 << 30), (2, 4 << 30), (1, 0), (2, 0)]:
        torch.set_num_threads(threads)
        loader = Loader(data, Split.TRAIN, 50, memory, negatives=0.25)
        assert loader.in_memory == (memory > 0)
        found.append([rows([batch]) for batch in loader.epoch(5, 2, start)])
    assert found[0] == found[1] == found[2] == found[3] and len(found[0]) > 5
    whole = [rows([batch]) for batch in Loader(data, Split.TRAIN, 50, negatives=0.25).epoch(5, 2)]
    assert found[0] == whole[start:]


def test_a_share_of_one_changes_nothing(prepared: Path) -> None:
    data = PreparedData(prepared)
    one, plain = (Loader(data, Split.TRAIN, 64, **kw) for kw in ({"negatives": 1.0}, {}))  # type: ignore[arg-type]
    assert rows(list(one.epoch(1, 1))) == rows(list(plain.epoch(1, 1)))
