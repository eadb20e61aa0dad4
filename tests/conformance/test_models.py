"""What every registered model holds to."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from funnelcast.batch import Batch
from funnelcast.checkpoint import load_tensors, save_tensors
from funnelcast.layers import FunnelModel
from funnelcast.objective import objective
from funnelcast.prediction import Prediction
from funnelcast.registry import LOSSES, MODELS
from funnelcast.schema import Schema

MakeSchema = Callable[..., Schema]
MakeBatch = Callable[..., Batch]
STEPS = [1, 2, 3, 5]
# A model that is made for one shape of graph has `shape`; tests/conformance/test_graph_models.py takes those.
CHAIN_MODELS = [name for name in MODELS.names() if not hasattr(MODELS.get(name), "shape")]
every_model = pytest.mark.parametrize("name", CHAIN_MODELS)


def build(name: str, schema: Schema, seed: int = 0) -> FunnelModel:
    torch.manual_seed(seed)
    model: FunnelModel = MODELS.create(name, schema, options={})
    return model


def values(prediction: Prediction) -> dict[str, Tensor]:
    names = ("log_reach", "log_not_reach", "log_transition", "log_not_transition")
    return {name: getattr(prediction, name) for name in names}


def total_loss(model: FunnelModel, batch: Batch) -> Tensor:
    prediction = model(batch.ids)
    losses = [LOSSES.create(loss.name, model.schema, options=loss.options) for loss in model.default_losses()]
    return objective(losses, prediction, batch)


def last_weights(model: FunnelModel) -> list[Tensor]:
    """The weights that give the logits: those of layers with one output, or else all but biases."""
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    heads = [m.weight for name, m in linear.items() if m.out_features == 1 or ".paths.0.output" in name]
    return heads or [weight for name, weight in model.named_parameters() if not name.endswith("bias")]


def open_up(model: FunnelModel) -> FunnelModel:
    """Move the embedding away from 0, so that rows differ visibly."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("table"):
                parameter.mul_(100)
    return model


@every_model
@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("rows", [1, 7])
@pytest.mark.parametrize("multi", [False, True], ids=["single", "multi"])
def test_prediction_and_gradients(
    name: str, steps: int, rows: int, multi: bool, make_schema: MakeSchema, make_batch: MakeBatch
) -> None:
    schema = make_schema(steps, multi)
    model, batch = open_up(build(name, schema)), make_batch(schema, rows)
    prediction = model.eval()(batch.ids)
    for key, value in values(prediction).items():
        assert value.shape == (rows, steps), key
        assert value.dtype is torch.float32, key
        assert bool(value.isfinite().all()) and bool((value <= 0).all()), key
    ones = torch.ones(rows, steps)
    torch.testing.assert_close(prediction.reach + prediction.log_not_reach.exp(), ones, rtol=0, atol=2e-6)
    torch.testing.assert_close(prediction.transition + prediction.log_not_transition.exp(), ones, rtol=0, atol=2e-6)
    total_loss(model.train(), batch).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, f"{key} gets no gradient"
        assert bool(parameter.grad.isfinite().all()), f"{key} gets a gradient that is not finite"
        assert float(parameter.grad.abs().sum()) > 0, f"{key} gets the gradient 0"


@every_model
def test_both_integer_types_give_the_same(name: str, make_schema: MakeSchema, make_batch: MakeBatch) -> None:
    schema = make_schema(2)
    model, batch = build(name, schema).eval(), make_batch(schema, 5)
    assert torch.equal(model(batch.ids).log_reach, model(batch.ids.long()).log_reach)


@every_model
def test_rows_are_independent(name: str, make_schema: MakeSchema, make_batch: MakeBatch) -> None:
    schema = make_schema(3)
    model, batch = open_up(build(name, schema)).eval(), make_batch(schema, 7)
    together = values(model(batch.ids))
    for row in range(7):
        for key, value in values(model(batch.ids[row : row + 1])).items():
            # A product with one row adds up in another order: 1.4e-5 was seen of weights that were stirred.
            torch.testing.assert_close(value[0], together[key][row], rtol=1e-4, atol=1e-5)
    assert together["log_reach"].std(0).min().item() > 1e-4  # rows do differ


@every_model
def test_bf16_stays_near_and_ends_in_float32(name: str, make_schema: MakeSchema, make_batch: MakeBatch) -> None:
    schema = make_schema(3)
    model, batch = open_up(build(name, schema)).eval(), make_batch(schema, 7)  # no dropout
    full = values(model(batch.ids))
    with torch.autocast("cpu", torch.bfloat16):
        half = values(model(batch.ids))
    for key, value in half.items():
        assert value.dtype is torch.float32
        torch.testing.assert_close(value.exp(), full[key].exp(), rtol=0, atol=0.05)
    assert not torch.equal(half["log_reach"], full["log_reach"]) or name == "logistic"  # which has no products
    with torch.autocast("cpu", torch.bfloat16):
        loss = total_loss(model, batch)
    loss.backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is None or (parameter.grad.dtype is torch.float32 and parameter.grad.isfinite().all()), (
            key
        )


@every_model
def test_same_seed_same_weights(name: str, make_schema: MakeSchema) -> None:
    schema = make_schema(2)
    one, two, other = build(name, schema, 1), build(name, schema, 1), build(name, schema, 2)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


@every_model
def test_t9_two_models_of_one_schema_share_no_weight(name: str, make_schema: MakeSchema) -> None:
    schema = make_schema(2)
    one, two = build(name, schema), build(name, schema)
    assert not {p.data_ptr() for p in one.parameters()} & {p.data_ptr() for p in two.parameters()}


@every_model
def test_saved_weights_predict_the_same_bits(
    name: str, make_schema: MakeSchema, make_batch: MakeBatch, tmp_path: Path
) -> None:
    schema = make_schema(3)
    model, batch = build(name, schema), make_batch(schema, 7)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(3):
        model.set_progress(step / 3)
        optimizer.zero_grad()
        total_loss(model, batch).backward()
        optimizer.step()
    model.eval()
    checksum = save_tensors(tmp_path / "weights.safetensors", model.state_dict())
    other = build(name, schema, seed=9).eval()
    before = other(batch.ids).log_reach
    other.load_state_dict(load_tensors(tmp_path / "weights.safetensors", checksum))
    other.set_progress(1.0)  # scoring is not training: this should change nothing
    after = values(other(batch.ids))
    assert all(torch.equal(value, after[key]) for key, value in values(model(batch.ids)).items())
    assert not torch.equal(before, after["log_reach"])


def spy_on(form: str, calls: list[str]) -> Callable[[Tensor], Prediction]:
    """Note when a constructor of Prediction is called."""
    original: Callable[[Tensor], Prediction] = getattr(Prediction, form)

    def spy(logits: Tensor) -> Prediction:
        calls.append(form)
        return original(logits)

    return spy


@every_model
def test_product_form_never_rises(
    name: str, make_schema: MakeSchema, make_batch: MakeBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    schema = make_schema(5)
    model, batch = open_up(build(name, schema)), make_batch(schema, 20)
    calls: list[str] = []
    for form in ("from_transitions", "from_reach", "from_monotone"):
        monkeypatch.setattr(Prediction, form, spy_on(form, calls))
    prediction = model(batch.ids)
    composed = model.takes_graph and not calls
    assert len(set(calls)) == 1 or composed, "a model should end in one of the constructors of Prediction"
    if set(calls) != {"from_reach"}:
        assert bool((prediction.log_reach.diff(dim=1) <= 0).all())


@every_model
@pytest.mark.parametrize("scale", [1e3, 1e4])
def test_extreme_logits_keep_finite_losses_and_gradients(
    name: str, scale: float, make_schema: MakeSchema, make_batch: MakeBatch
) -> None:
    schema = make_schema(3)
    model, batch = open_up(build(name, schema)), make_batch(schema, 12)
    with torch.no_grad():
        for weight in last_weights(model):
            weight.mul_(scale)
    prediction = model(batch.ids)
    assert prediction.log_reach.min().item() < -50  # extreme indeed
    for key, value in values(prediction).items():
        assert bool(value.isfinite().all()), key
    total_loss(model, batch).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), key


@every_model
def test_a_step_that_everyone_takes_starts_finite(name: str, make_schema: MakeSchema, make_batch: MakeBatch) -> None:
    schema = make_schema(2)
    sure = schema.steps[1].model_copy(update={"transition_rate": 1.0, "reach_rate": 0.5})
    schema = schema.model_copy(update={"steps": (schema.steps[0], sure)})
    model, batch = build(name, schema), make_batch(schema, 4)
    loss = total_loss(model, batch)
    loss.backward()
    assert bool(loss.isfinite())
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in model.parameters())


@every_model
def test_a_few_steps_lower_the_loss(name: str, make_schema: MakeSchema, make_batch: MakeBatch) -> None:
    schema = make_schema(3)
    model, batch = build(name, schema), make_batch(schema, 12)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    first = total_loss(model, batch).item()
    for step in range(60):
        model.set_progress(step / 60)
        optimizer.zero_grad()
        total_loss(model, batch).backward()
        optimizer.step()
    assert total_loss(model, batch).item() < 0.5 * first


@pytest.mark.parametrize("name", MODELS.names())
def test_constructor_is_the_configuration(name: str) -> None:
    parameters = list(inspect.signature(MODELS.get(name)).parameters.values())
    assert parameters[0].name == "schema"
    for parameter in parameters[1:]:
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY, parameter.name
        assert parameter.annotation is not inspect.Parameter.empty, parameter.name
        assert parameter.default is not inspect.Parameter.empty, parameter.name
        doc = inspect.getdoc(MODELS.get(name)) or ""
        assert re.search(rf"^\s+{parameter.name}: ", doc, re.MULTILINE), f"{parameter.name} is not documented"


@pytest.mark.parametrize("name", MODELS.names())
def test_docstring_names_its_paper_and_has_a_page(name: str) -> None:
    model = MODELS.get(name)
    first_line = (inspect.getdoc(model) or "").splitlines()[0]
    assert re.search(r"\b(19|20)\d\d\b|\bpaper\b|\(Ant Group\)", first_line), first_line
    assert issubclass(model, FunnelModel)
    page = Path(__file__).parents[2] / "docs" / "models" / f"{MODELS.family(name)}.md"
    assert page.is_file(), f"{page} is missing"
    text = page.read_text(encoding="utf-8")
    for option in MODELS.options(name):
        assert f"`{option}`" in text, f"{page.name} does not explain {option}"
    assert f"`{name}`" in text, f"{page.name} does not name {name}"
    assert re.search(r"^Idea: .+", inspect.getdoc(model) or "", re.MULTILINE), "the README's table needs 'Idea: ...'"


@pytest.mark.parametrize("name", [name for name in MODELS.names() if "head" in MODELS.options(name)])
@pytest.mark.parametrize("head", ["reach", "transition", "monotone"])
def test_every_head_starts_at_the_rates_of_train_and_gives_gradients(
    name: str, head: str, make_schema: MakeSchema, make_batch: MakeBatch
) -> None:
    schema = make_schema(5)
    torch.manual_seed(0)
    model: FunnelModel = MODELS.create(name, schema, options={"head": head})
    with torch.no_grad():
        for weight in last_weights(model):
            weight.zero_()
    batch = make_batch(schema, 12)
    expected = torch.tensor([step.reach_rate for step in schema.steps])
    torch.testing.assert_close(model(batch.ids).reach, expected.expand(12, 5), rtol=1e-4, atol=1e-6)
    open_model = open_up(MODELS.create(name, schema, options={"head": head}))
    prediction = open_model(batch.ids)
    total_loss(open_model, batch).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in open_model.parameters())
    if head != "reach":
        assert bool((prediction.log_reach.diff(dim=1) <= 0).all())
