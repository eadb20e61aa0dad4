"""APEM-Dense: its formula, what training hides, what its options leave out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from funnelcast.batch import Batch
from funnelcast.config import Component, Experiment, OptimizerConfig, TrainConfig
from funnelcast.errors import ConfigError
from funnelcast.models.apem_dense import ApemDense, Member
from funnelcast.objective import objective
from funnelcast.optimizers import build_optimizers
from funnelcast.registry import LOSSES
from funnelcast.schema import Field, Schema

SIZES: dict[str, Any] = {"width": 4, "dense_hidden": (6, 5), "cross_rank": 3, "inducing_points": 5, "large_field": 7}
Stir = Callable[[nn.Module], None]


@pytest.fixture
def mixed(schema: Schema) -> Schema:
    """The small funnel with two ordered fields, one between the others and one at the end."""
    item, tags, page, hour = schema.fields
    fields = (item, Field(name="age", size=6, ordered=True), tags, page, hour, Field(name="n", size=4, ordered=True))
    return schema.model_copy(update={"fields": fields})


@pytest.fixture
def rows(ids: Tensor) -> Tensor:
    """The small funnel's rows with ids of the ordered fields: null, unknown and buckets."""
    age, n = torch.tensor([[0], [1], [2], [5], [3]]), torch.tensor([[3], [2], [0], [1], [2]])
    return torch.cat([ids[:, :1], age, ids[:, 1:], n], dim=1).int()


def first(model: ApemDense) -> Member:
    member = model.members[0]
    assert isinstance(member, Member)
    return member


def expected_dense(model: ApemDense, schema: Schema, rows: Tensor) -> np.ndarray:
    """The logits of the dense paths [B, S] in numpy, every id and vector looked up by hand."""
    w = {name: value.double().numpy() for name, value in model.state_dict().items()}
    w = {name.removeprefix("members.0."): value for name, value in w.items()}
    table = w["apem.embedding.table" if "table.table" not in w else "table.table"]
    out = []
    for row in rows.tolist():
        item, age, *tags, page, hour, n = row
        valid = [tag for position, tag in enumerate(tags) if position == 0 or tag]  # offsets: item 0, tags 7, page 12
        item_vector, hour_vector = (
            w["hide.unknown"][place] if id_ == 1 else table[offset + id_]  # item and hour are large
            for place, offset, id_ in ((0, 0, item), (1, 16, hour))
        )
        vectors = [item_vector, np.mean([table[7 + tag] for tag in valid], axis=0), table[12 + page], hour_vector]
        places = [2 * (age - 2) / 3 - 1 if age >= 2 else 0, 2 * (n - 2) - 1 if n >= 2 else 0]
        shifts = [w["numbers.shifts"][age], w["numbers.shifts"][6 + n]]
        first = np.concatenate([*vectors, places, shifts])
        logits = []
        for step in range(schema.n_steps):
            p, x = f"paths.{step}.", first
            for c in range(2):
                inner = w[f"{p}crosses.{c}.inner.weight"] @ x
                x = first * (w[f"{p}crosses.{c}.outer.weight"] @ inner + w[f"{p}crosses.{c}.outer.bias"]) + x
            for layer in (0, 2):
                x = np.maximum(w[f"{p}body.{layer}.0.weight"] @ x + w[f"{p}body.{layer}.0.bias"], 0)
            logits.append((w[f"{p}output.weight"] @ x + w[f"{p}output.bias"] + w[f"{p}linear.weight"] @ first)[0])
        out.append(logits)
    return np.array(out)


@pytest.mark.parametrize("patterns", [True, False])
def test_formula(mixed: Schema, rows: Tensor, stir: Stir, patterns: bool) -> None:
    options = SIZES if patterns else {k: v for k, v in SIZES.items() if k != "inducing_points"}
    model = ApemDense(mixed, **options, patterns=patterns).double().eval()
    stir(model)
    expected, member = expected_dense(model, mixed, rows), first(model)
    if member.apem is not None:  # APEM itself is held to the paper's equations by its own test
        apem = member.apem.logits(member.vectors(rows)).detach().numpy()
        assert np.ptp(apem, axis=0).min() > 1e-3
        expected = expected + apem
    prediction = model(rows)
    np.testing.assert_allclose((prediction.log_reach - prediction.log_not_reach).detach(), expected, rtol=1e-5)


def test_training_hides_the_vectors_of_large_fields_alone(mixed: Schema, rows: Tensor) -> None:
    model = ApemDense(mixed, **SIZES, id_dropout=1.0)
    seen: list[Tensor] = []
    first(model).paths[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    model.train()(rows)
    model.eval()(rows)
    hidden, whole = seen
    item, hour = slice(0, 4), slice(12, 16)  # item has 7 ids and hour 9; tags and page have fewer
    assert not hidden[:, item].any() and not hidden[:, hour].any()  # the first u is 0
    assert (whole[:, item].any(1) == (rows[:, 0] != 1)).all() and (whole[:, hour].any(1) == (rows[:, 6] != 1)).all()
    assert torch.equal(hidden[:, 4:12], whole[:, 4:12]) and torch.equal(hidden[:, 16:], whole[:, 16:])


def test_the_share_of_hidden_vectors_is_the_option(mixed: Schema, rows: Tensor) -> None:
    model = ApemDense(mixed, **SIZES, id_dropout=0.3)
    seen: list[Tensor] = []
    first(model).paths[0].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach()))
    model.train()(rows[:1].expand(4000, -1))
    shares = [(seen[0][:, part] == 0).all(dim=1).float().mean().item() for part in (slice(0, 4), slice(12, 16))]
    np.testing.assert_allclose(shares, 0.3, atol=4 * (0.21 / 4000) ** 0.5)


@pytest.mark.parametrize(("ordered", "share"), [(2, 0.0), (3, 0.9), (4, 0.9)])
def test_ids_are_hidden_where_numbers_can_stand_in(mixed: Schema, ordered: int, share: float) -> None:
    """Of six fields: item, age, tags, page, hour, n."""
    names = ["age", "n", "page", "hour"][:ordered]
    fields = tuple(field.model_copy(update={"ordered": field.name in names}) for field in mixed.fields)
    hide = first(ApemDense(mixed.model_copy(update={"fields": fields}), **SIZES)).hide
    assert hide is not None and hide.share == share


def test_every_parameter_is_trained(mixed: Schema, rows: Tensor, stir: Stir) -> None:
    model = ApemDense(mixed, **SIZES, id_dropout=0.0, dropout=0.0)
    stir(model)
    assert (rows[:, 0] == 1).any()
    rows[0, 6] = 1  # an unknown hour
    prediction = model.train()(rows)
    prediction.log_reach.square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_ordered_fields_can_be_embedded_like_others(mixed: Schema, rows: Tensor) -> None:
    model = ApemDense(mixed, **SIZES, numbers=False)
    assert len(first(model).embedding.table) == mixed.n_ids and first(model).numbers is None
    assert model(rows).reach.shape == (5, 3)


def test_a_schema_without_ordered_fields_and_one_of_ordered_fields_alone(
    schema: Schema, ids: Tensor, mixed: Schema
) -> None:
    assert ApemDense(schema, **SIZES)(ids).reach.shape == (5, 3)
    alone = mixed.model_copy(update={"fields": tuple(field for field in mixed.fields if field.ordered)})
    assert ApemDense(alone, **SIZES)(torch.tensor([[2, 3], [0, 1]])).reach.shape == (2, 3)


def test_gates_are_those_of_apem(mixed: Schema, rows: Tensor) -> None:
    model = ApemDense(mixed, **SIZES, layers=3)
    gates = model.gate_layers(rows)
    assert [tuple(layer.values.shape) for layer in gates] == [(5, 5)] * 3
    model.train().set_progress(1.0)
    assert model.curve_point() == {"gamma": pytest.approx(0.05)}
    without = ApemDense(mixed, patterns=False)
    assert without.gate_layers(rows) == () and without.curve_point() == {}


def test_members_are_trained_apart_and_their_probabilities_averaged(mixed: Schema, rows: Tensor, stir: Stir) -> None:
    labels = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    batch = Batch.of(rows, labels)
    three = ApemDense(mixed, **SIZES, members=3, id_dropout=0.0, dropout=0.0).double()
    stir(three)
    alone = []
    for member in three.members:
        single = ApemDense(mixed, **SIZES, id_dropout=0.0, dropout=0.0).double()
        first(single).load_state_dict(member.state_dict())
        alone.append(single)
    loss = LOSSES.create("reach_bce", mixed, options={})
    objective([loss], three.train()(rows), batch).backward()
    for single, member in zip(alone, three.members, strict=True):
        objective([loss], single.train()(rows), batch).backward()
        for own, shared in zip(first(single).parameters(), member.parameters(), strict=True):
            assert own.grad is not None and shared.grad is not None
            torch.testing.assert_close(3 * shared.grad, own.grad, rtol=1e-4, atol=1e-7)  # a third of the mean each
    expected = torch.stack([single.eval()(rows).reach for single in alone]).mean(0)
    torch.testing.assert_close(three.eval()(rows).reach, expected)
    assert [layer.name for layer in three.gate_layers(rows)][:3] == [
        *("member 1, layer 1", "member 1, layer 2", "member 2, layer 1"),
    ]


def test_deferred_adam_moves_what_adam_does(mixed: Schema, rows: Tensor) -> None:
    """The table reads its columns out of wider batches; the rows that wait must be found there too."""
    labels = torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [0.0, 0.0, 0.0]])
    reach = []
    for kind in ("adam", "deferred_adam"):
        torch.manual_seed(3)
        model = ApemDense(mixed, **SIZES, dropout=0.0, id_dropout=0.5).double().train()
        plan = Experiment(
            name="a",
            model=Component(name="apem_dense"),
            train=TrainConfig(learning_rate=0.1),
            optimizer=OptimizerConfig(embedding=kind),
        )
        optimizers, loss = build_optimizers(model, plan), LOSSES.create("reach_bce", mixed, options={})
        for step in range(12):
            part = slice(step % 4, step % 4 + 2)
            optimizers.before(rows[part])
            optimizers.zero_grad()
            objective([loss], model(rows[part]), Batch.of(rows[part], labels[part])).backward()
            optimizers.step()
        optimizers.flush()
        reach.append(model.eval()(rows).reach.detach())
    torch.testing.assert_close(reach[1], reach[0], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"id_dropout": 1.5}, r"option 'id_dropout' should be auto or a number in \[0, 1\], received 1.5"),
        ({"id_dropout": float("nan")}, "received nan"),
        ({"members": 0}, "option 'members' should be a whole number >= 1, received 0"),
        ({"large_field": 1}, "option 'large_field' should be a whole number >= 2, received 1"),
        ({"paths": "none"}, "option 'paths' should be a known word, received 'none'"),
        ({"patterns": False, "layers": 3}, "option 'layers' should keep its default 2 with patterns = false"),
        ({"cross_rank": -1}, "option 'cross_rank' should be a whole number >= 0, received -1"),
        ({"width": 3}, "option 'width' should be a multiple of heads=2, received 3"),
    ],
)
def test_wrong_options_are_refused(mixed: Schema, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ApemDense(mixed, **options)
