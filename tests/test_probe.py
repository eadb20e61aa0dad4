"""Rows spread over a split, the gates of rows, and what towers read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from funnelcast.batch import Batch
from funnelcast.data.shards import PreparedData
from funnelcast.data.split import Split
from funnelcast.errors import ConfigError, DataError
from funnelcast.models.apem import Apem
from funnelcast.models.logistic import Logistic
from funnelcast.models.mmoe import Mmoe
from funnelcast.probe import gates_of, last_reached, spread_rows, towers_read


def test_rows_lie_at_even_distances_over_all_row_groups(prepared: Path) -> None:
    data = PreparedData(prepared)
    whole = data.read(data.row_groups(Split.TEST))
    for rows, wanted in ((7, [0, 42, 85, 128, 171, 214, 257]), (1, [0]), (150, list(range(0, 300, 2)))):
        found = spread_rows(data, Split.TEST, rows)
        assert torch.equal(found.ids, whole.ids[wanted])
        assert torch.equal(found.labels, whole.labels[wanted])
    assert torch.equal(spread_rows(data, Split.TEST, 5000).ids, whole.ids)


def test_no_rows_are_refused(prepared: Path, make_prepared: Callable[..., Path]) -> None:
    with pytest.raises(ConfigError, match="rows should be a number >= 1, received 0"):
        spread_rows(PreparedData(prepared), Split.TEST, 0)
    empty = PreparedData(make_prepared("empty", rows={"train": 40, "valid": 40, "test": 0}))
    with pytest.raises(DataError, match="test has no rows to inspect"):
        spread_rows(empty, Split.TEST, 5)


def rows_of(data: PreparedData, rows: int) -> Tensor:
    return spread_rows(data, Split.TRAIN, rows).ids


def test_gates_of_many_rows_are_those_of_each_part(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = PreparedData(prepared)
    model, ids = Apem(data.schema, width=4, inducing_points=5, layers=2).eval(), rows_of(data, 60)
    expected = model.gate_layers(ids)
    monkeypatch.setattr("funnelcast.probe.SCORING_ROWS", 13)
    found = gates_of(model, ids)
    assert [layer.name for layer in found] == ["layer 1", "layer 2"]
    for layer, same in zip(found, expected, strict=True):
        torch.testing.assert_close(layer.values, same.values)
        assert not layer.values.requires_grad
    assert gates_of(Logistic(data.schema), ids) == []


def test_gates_that_are_not_finite_are_refused(prepared: Path) -> None:
    data = PreparedData(prepared)
    model = Apem(data.schema, width=4, inducing_points=5, layers=2)
    with torch.no_grad():
        model.embedding.table.fill_(torch.nan)
    with pytest.raises(
        DataError, match="the gates of layer 1 should be finite numbers; a lower learning_rate may help"
    ):
        gates_of(model, rows_of(data, 3))


def test_towers_read_what_gives_the_logits(prepared: Path) -> None:
    data = PreparedData(prepared)
    model, ids = Mmoe(data.schema, width=3, experts=4, expert=(7,), tower=()).eval(), rows_of(data, 9)
    read = torch.from_numpy(towers_read(model, ids))
    assert read.shape == (9, 2 * 7)
    for number, (tower, part) in enumerate(zip(model.towers, read.split(7, dim=1), strict=True)):
        torch.testing.assert_close(tower(part), model(ids).reach.logit()[:, number])
    assert not any(module._forward_pre_hooks for module in model.modules())
    assert towers_read(Logistic(data.schema).eval(), ids).shape == (9, 0)


def test_the_last_step_reached_passes_over_unknown_labels() -> None:
    labels = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.0, 0.0, 0.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    observed = torch.ones_like(labels, dtype=torch.bool)
    observed[4, 2] = False
    batch = replace(Batch.of(torch.zeros(5, 1, dtype=torch.int32), labels), observed=observed)
    assert last_reached(batch).tolist() == [2, 0, 1, 3, 2]
