"""The optimizers of the embedding tables, against torch's dense ones and numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from funnelcast import optimizers as module
from funnelcast.config import Component, Experiment
from funnelcast.layers import FeatureEmbedding
from funnelcast.optimizers import DeferredAdam, LazyAdam, Optimizers, RowwiseAdagrad, build_optimizers, merge_rows
from funnelcast.registry import MODELS
from funnelcast.schema import Field, Schema, Step

N, D = 7, 3
STEPS = (Step(name="click", reach_rate=0.2, transition_rate=0.2), Step(name="buy", reach_rate=0.1, transition_rate=0.5))
SCHEMA = Schema(dataset="shop", fields=(Field(name="user", size=50), Field(name="item", size=20)), steps=STEPS)


def tables(count: int, dtype: torch.dtype = torch.float64) -> list[nn.Parameter]:
    start = torch.randn(N, D, dtype=dtype)
    return [nn.Parameter(start.clone()) for _ in range(count)]


def backward(table: nn.Parameter, ids: Tensor, seen: Tensor, *, sparse: bool) -> None:
    table.grad = None
    (nn.functional.embedding(ids, table, sparse=sparse) * seen).pow(2).sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(entries=st.lists(st.tuples(st.integers(0, N - 1), st.integers(-8, 8)), max_size=30))
def test_merged_rows_are_the_dense_gradient(dtype: torch.dtype, entries: list[tuple[int, int]]) -> None:
    rows = torch.tensor([row for row, _ in entries], dtype=torch.long)
    values = torch.tensor([float(value) for _, value in entries], dtype=dtype).view(-1, 1).expand(-1, D)
    gradient = torch.sparse_coo_tensor(rows[None], values, (N, D), check_invariants=True)
    merged = merge_rows(gradient)
    assert merged.is_coalesced() and sorted(merged.indices()[0].tolist()) == sorted(set(rows.tolist()))
    assert torch.equal(merged.to_dense(), torch.zeros(N, D, dtype=dtype).index_add_(0, rows, values))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # compiled, where there is a compiler, and not
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_lazy_adam_is_adam_when_every_row_is_in_every_batch(decay: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    lazy, dense = tables(2, dtype)
    sparse_step = LazyAdam([lazy], lr=0.05, weight_decay=decay)
    dense_step = torch.optim.Adam([dense], lr=0.05, weight_decay=decay)
    for _ in range(20):
        ids = torch.cat([torch.arange(N), torch.randint(0, N, (5,))])
        seen = torch.randn(len(ids), D, dtype=dtype)
        backward(lazy, ids, seen, sparse=True)
        backward(dense, ids, seen, sparse=False)
        sparse_step.step()
        dense_step.step()
    tolerance = 1e-5 if dtype is torch.float32 else 1e-12
    torch.testing.assert_close(lazy, dense, rtol=tolerance, atol=tolerance)


def test_lazy_adam_is_the_sparse_adam_of_torch_on_any_rows() -> None:
    torch.manual_seed(1)
    ours, theirs = tables(2)
    # Torch adds eps before the bias correction, so that it must not matter here.
    steps = [LazyAdam([ours], lr=0.05, eps=1e-30), torch.optim.SparseAdam([theirs], lr=0.05, eps=1e-30)]
    for _ in range(30):
        ids = torch.randint(0, N, (4,))
        seen = torch.randn(4, D, dtype=torch.float64)
        backward(ours, ids, seen, sparse=True)
        backward(theirs, ids, seen, sparse=True)
        for step in steps:
            step.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_rows_outside_the_batch_rest() -> None:
    table, *_ = tables(1)
    before = table.detach().clone()
    step = LazyAdam([table], lr=0.1, weight_decay=0.5)
    for ids in ([0, 1], [1, 1]):
        backward(table, torch.tensor(ids), torch.ones(2, D, dtype=torch.float64), sparse=True)
        step.step()
    assert torch.equal(table[2:], before[2:])
    assert not torch.isclose(table[:2], before[:2]).any()
    assert not step.state[table]["exp_avg"][2:].any()


def test_adagrad_by_hand() -> None:
    """g = (3, 4): a = 12.5, so a row moves by 0.1 * g / sqrt(12.5); the same gradient again: a = 25, by 0.1 * g / 5."""
    table = nn.Parameter(torch.zeros(2, 2, dtype=torch.float64))
    step = RowwiseAdagrad([table], lr=0.1)
    gradient = torch.sparse_coo_tensor(
        torch.tensor([[1, 1]]), torch.tensor([[1.0, 4.0], [2.0, 0.0]]).double(), (2, 2), check_invariants=True
    )
    for _ in range(2):
        table.grad = gradient
        step.step()
    factor = -0.1 * (1 / math.sqrt(12.5) + 1 / 5)
    torch.testing.assert_close(table.detach(), torch.tensor([[0.0, 0.0], [3 * factor, 4 * factor]]).double())


@pytest.mark.parametrize("kind", [LazyAdam, RowwiseAdagrad])
def test_a_dense_gradient_is_refused(kind: type[LazyAdam] | type[RowwiseAdagrad]) -> None:
    table, *_ = tables(1)
    backward(table, torch.tensor([1]), torch.ones(1, D, dtype=torch.float64), sparse=False)
    with pytest.raises(ValueError, match="should get sparse gradients, received a dense one"):
        kind([table], lr=0.1).step()


@pytest.mark.parametrize("largest", [0.5, 1e6])
def test_clipping_counts_a_row_that_is_named_twice_once(largest: float) -> None:
    torch.manual_seed(2)
    sparse, dense = tables(2)
    other = [nn.Parameter(torch.randn(4, dtype=torch.float64)) for _ in range(2)]
    ids, seen = torch.tensor([1, 1, 3]), torch.randn(3, D, dtype=torch.float64)
    backward(sparse, ids, seen, sparse=True)
    backward(dense, ids, seen, sparse=False)
    for parameter in other:
        parameter.grad = torch.full((4,), 2.0, dtype=torch.float64)
    norm = Optimizers([LazyAdam([sparse]), torch.optim.Adam([other[0]])]).clip(largest)
    expected = nn.utils.clip_grad_norm_([dense, other[1]], largest)
    torch.testing.assert_close(norm, expected)
    assert sparse.grad is not None
    torch.testing.assert_close(sparse.grad.to_dense(), dense.grad)
    torch.testing.assert_close(other[0].grad, other[1].grad)


def build(embedding: str, **train: float) -> tuple[nn.Module, Optimizers]:
    experiment = Experiment.model_validate(
        {
            "name": "e",
            "model": Component(name="shared_bottom"),
            "train": train,
            "optimizer": {"embedding": embedding, "embedding_learning_rate": 0.5},
        }
    )
    model = MODELS.create("shared_bottom", SCHEMA, options={"width": 4, "bottom": [4]})
    return model, build_optimizers(model, experiment)


@pytest.mark.parametrize(
    ("embedding", "expected"),
    [
        ("adam", ["Adam"]),
        ("deferred_adam", ["DeferredAdam", "Adam"]),
        ("lazy_adam", ["LazyAdam", "Adam"]),
        ("sparse_adam", ["SparseAdam", "Adam"]),
        ("rowwise_adagrad", ["RowwiseAdagrad", "Adam"]),
        ("auto", ["Adam"]),
    ],
)
def test_every_parameter_has_one_optimizer_and_tables_their_own_rate(embedding: str, expected: list[str]) -> None:
    model, chosen = build(embedding, learning_rate=0.01)
    assert [type(member).__name__ for member in chosen.members] == expected
    held = [id(parameter) for group in chosen.groups for parameter in group["params"]]
    assert sorted(held) == sorted(id(parameter) for parameter in model.parameters())
    tables = {id(layer.table) for layer in model.modules() if isinstance(layer, FeatureEmbedding)}
    for group in chosen.groups:
        assert group["lr"] == (0.5 if id(group["params"][0]) in tables else 0.01)
    chosen.scale_learning_rate(0.1)
    assert sorted({group["lr"] for group in chosen.groups}) == [0.001, 0.05]


def test_auto_defers_on_a_large_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LARGE_TABLE", SCHEMA.n_ids)
    model, chosen = build("auto")
    assert isinstance(chosen.members[0], DeferredAdam)
    assert [type(member).__name__ for member in build("auto", weight_decay=0.1)[1].members] == ["Adam"]
    assert [type(member).__name__ for member in build("auto", average_last=0.5)[1].members] == ["Adam"]
    (embedding,) = (layer for layer in model.modules() if isinstance(layer, FeatureEmbedding))
    embedding(torch.tensor([[2, 3]])).sum().backward()
    assert embedding.table.grad is not None and embedding.table.grad.is_sparse


@pytest.mark.parametrize(("embedding", "other"), [("sparse_adam", "lazy_adam"), ("deferred_adam", "adam")])
def test_optimizers_without_a_decay_refuse_one(embedding: str, other: str) -> None:
    with pytest.raises(ValueError, match=f"'train.weight_decay' should be 0 with .* received 0.1; '{other}' is"):
        build(embedding, weight_decay=0.1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])  # compiled, where there is a compiler, and not
@pytest.mark.parametrize("falling", [False, True], ids=["constant rate", "falling rate"])
@pytest.mark.parametrize("scale", [1.0, 1e-7], ids=["usual", "near eps"])
def test_deferred_adam_is_adam_whatever_the_batches_name(dtype: torch.dtype, falling: bool, scale: float) -> None:
    """After 400 steps with rows of very unequal frequency weights agree to 0.4 % of what the table moved."""
    torch.manual_seed(3)
    rows, steps, rate = 120, 400, 0.01
    start = torch.randn(rows, D, dtype=dtype) * scale
    deferred, dense, lazy = (nn.Parameter(start.clone()) for _ in range(3))
    ours = DeferredAdam([deferred], lr=rate)
    optimizers: list[torch.optim.Optimizer] = [ours, torch.optim.Adam([dense], lr=rate), LazyAdam([lazy], lr=rate)]
    for number in range(steps):
        for optimizer in optimizers:
            optimizer.param_groups[0]["lr"] = rate * (1 - number / steps) if falling else rate
        ids = (torch.rand(6) ** 3 * rows).long()
        seen = torch.randn(6, D, dtype=dtype) * scale
        ours.catch_up(deferred, ids)
        for table in (deferred, dense, lazy):
            table.grad = None
            found = nn.functional.embedding(ids, table, sparse=table is not dense)
            (found * seen).sum().backward()  # a gradient that does not depend on the weights
        for optimizer in optimizers:
            optimizer.step()
    ours.catch_up(deferred)
    with torch.no_grad():
        moved = float((dense - start).abs().max())
        assert float((deferred - dense).abs().max()) < 4e-3 * moved
        assert float((lazy - dense).abs().max()) > 3e-2 * moved


def test_rows_that_were_read_are_at_the_present() -> None:
    """Catching up twice, or naming a row twice, changes nothing more."""
    for dtype in (torch.float32, torch.float64):
        torch.manual_seed(4)
        (table,) = tables(1, dtype)
        step = DeferredAdam([table], lr=0.1)
        for ids in ([0, 1], [2, 2], [3, 4]):
            backward(table, torch.tensor(ids), torch.ones(2, D, dtype=dtype), sparse=True)
            step.step()
        step.catch_up(table, torch.tensor([[0, 0], [1, 0]]))
        once = table.detach().clone()
        step.catch_up(table, torch.tensor([0, 1, 4]))
        assert torch.equal(table, once) and step.state[table]["last"][[0, 1, 2, 4]].tolist() == [3, 3, 2, 3]
