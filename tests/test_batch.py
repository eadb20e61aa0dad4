"""Batch: its checks, its spaces, and its cuts."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from funnelcast.batch import Batch


def make(rows: int = 4, **changes: Any) -> Batch:
    values: dict[str, Any] = {
        "ids": torch.arange(rows * 3, dtype=torch.int32).view(rows, 3),
        "labels": torch.zeros(rows, 2),
        "observed": torch.ones(rows, 2, dtype=torch.bool),
        "weight": torch.arange(1.0, rows + 1),
    }
    return Batch(**{**values, **changes})


def test_t4_ids_are_whole_numbers() -> None:
    with pytest.raises(ValueError, match=r"ids should be whole numbers \[B, W\], received torch.float32 \(4, 3\)"):
        make(ids=torch.zeros(4, 3))
    large = torch.tensor([[2**24 + 1, 2, 3]] * 4, dtype=torch.int64)
    moved = make(ids=large).to(torch.device("cpu")).cut(0, 2)
    assert moved.ids.dtype is torch.int64
    assert moved.ids[0, 0].item() == 2**24 + 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"ids": torch.zeros(4, dtype=torch.int32)},
            r"ids should be whole numbers \[B, W\], received torch.int32 \(4,\)",
        ),
        ({"labels": torch.zeros(3, 2)}, r"labels should be \[4, S\], received \(3, 2\)"),
        ({"labels": torch.zeros(4)}, r"labels should be \[4, S\], received \(4,\)"),
        ({"observed": torch.ones(4, 2)}, r"observed should be bool \(4, 2\), received torch.float32 \(4, 2\)"),
        ({"observed": torch.ones(4, 1, dtype=torch.bool)}, r"observed should be bool \(4, 2\), .* \(4, 1\)"),
        ({"weight": torch.ones(4, 1)}, r"weight should be \[4\], received \(4, 1\)"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**changes)


def test_former_and_local_space_by_hand() -> None:
    labels = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [0, 0, 0], [1, 0, 0], [0, 0, 1]]).float()
    observed = torch.ones(6, 3, dtype=torch.bool)
    observed[4, 1] = False  # its value under the mask is no label
    observed[5, :2] = False
    batch = Batch(torch.zeros(6, 1, dtype=torch.int32), labels, observed, torch.ones(6))
    former = [[1, 1, 1], [1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 0], [1, 0, 0]]
    local = [[1, 1, 1], [1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 0, 0], [0, 0, 0]]
    assert batch.former.int().tolist() == former
    assert batch.local.int().tolist() == local


def test_value_under_an_unobserved_label_is_never_read() -> None:
    labels, observed = torch.ones(1, 2), torch.tensor([[False, True]])
    for value in (0.0, 1.0):
        labels[0, 0] = value
        batch = Batch(torch.zeros(1, 1, dtype=torch.int32), labels.clone(), observed, torch.ones(1))
        assert batch.former.tolist() == [[True, False]]
        assert batch.local.tolist() == [[False, False]]


def test_of_observes_everything_with_weight_one() -> None:
    batch = Batch.of(torch.tensor([[1], [2]]), torch.tensor([[1, 0], [0, 0]]))
    assert batch.labels.dtype is torch.float32
    assert bool(batch.observed.all())
    assert batch.weight.tolist() == [1.0, 1.0]


def test_take_cut_and_optional_columns() -> None:
    batch = make(user=torch.tensor([5, 6, 7, 8]))
    taken = batch.take(torch.tensor([3, 1]))
    assert taken.ids[:, 0].tolist() == [9, 3]
    assert taken.weight.tolist() == [4.0, 2.0]
    assert taken.user is not None
    assert taken.user.tolist() == [8, 6]
    assert taken.true_reach is None
    assert batch.cut(1, 3).weight.tolist() == [2.0, 3.0]


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 9), st.data())
def test_cutting_and_concatenating_gives_the_batch_back(rows: int, data: st.DataObject) -> None:
    border = data.draw(st.integers(0, rows))
    batch = make(rows, true_reach=torch.rand(rows, 2), true_potential=torch.rand(rows, 2))
    again = Batch.concatenate([batch.cut(0, border), batch.cut(border, rows)])
    assert len(again) == rows
    assert torch.equal(again.ids, batch.ids)
    assert again.true_reach is not None and batch.true_reach is not None
    assert torch.equal(again.true_reach, batch.true_reach)
    assert again.true_potential is not None and batch.true_potential is not None
    assert torch.equal(again.true_potential, batch.true_potential)
    assert again.user is None


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 12), st.integers(1, 14))
def test_splitting_gives_the_cuts_at_equal_distances(rows: int, size: int) -> None:
    batch = make(rows, user=torch.arange(rows), value=torch.rand(rows))
    parts = list(batch.split(size))
    assert len(parts) == -(-rows // size)
    for number, part in enumerate(parts):
        assert vars(part).keys() == vars(batch).keys()
        part.__post_init__()  # what a checked batch would say
        for name, value in vars(batch.cut(number * size, (number + 1) * size)).items():
            found = getattr(part, name)
            assert (found is None) if value is None else torch.equal(found, value), name
