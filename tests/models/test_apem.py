"""APEM: the folded model against the plain equations, and what each part promises."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from funnelcast.apem_layers import Asrg, SelfAttention
from funnelcast.config import Component
from funnelcast.errors import ConfigError
from funnelcast.gates import CLOSED_BELOW
from funnelcast.layers import smooth_step
from funnelcast.models.apem import Apem
from funnelcast.registry import LOSSES, MODELS
from funnelcast.schema import Schema

SIZES: dict[str, Any] = {"width": 6, "inducing_points": 5, "heads": 2, "layers": 3, "gamma": (3.0, 0.05)}
SELF: dict[str, Any] = {"representation": "self_attention", "inducing_points": 64, "gamma": (10.0, 0.05)}
OPEN: dict[str, Any] = {"gate": "none", "gamma": (10.0, 0.05)}
Stir = Callable[[nn.Module], None]


def gate_reference(u: np.ndarray, g: float) -> np.ndarray:
    """Equation 13, written down case by case."""
    inner = -2 / g**3 * u**3 + 3 / (2 * g) * u + 0.5
    result: np.ndarray = np.where(u <= -g / 2, 0.0, np.where(u >= g / 2, 1.0, inner))
    return result


def softmax(scores: np.ndarray) -> np.ndarray:
    e = np.exp(scores - scores.max(-1, keepdims=True))
    result: np.ndarray = e / e.sum(-1, keepdims=True)
    return result


def layer_norm(x: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> np.ndarray:
    result: np.ndarray = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5) * scale + shift
    return result


def attend(q: np.ndarray, x: np.ndarray, w: dict[str, np.ndarray], heads: int, keys: np.ndarray) -> np.ndarray:
    """Equations 15 and 16 of one row, head by head: q [K, d], x [n, d], keys [n] which tokens may be looked at."""
    size = q.shape[1] // heads
    outputs = []
    for j in range(heads):
        part = slice(j * size, (j + 1) * size)
        scores = q[:, part] @ (x @ w["key"][:, part]).T / math.sqrt(size)
        scores = np.where(keys, scores, -np.inf) if keys.any() else np.zeros_like(scores)
        outputs.append(softmax(scores) @ (x @ w["value"][:, part]))
    joined: np.ndarray = np.concatenate(outputs, axis=1) @ w["output"]
    return joined


def reference(model: Apem, ids: Tensor, options: dict[str, Any]) -> np.ndarray:
    """The logits of APEM row by row, from the paper's equations and the model's float64 weights."""
    w = {name: value.detach().double().numpy() for name, value in model.state_dict().items()}
    o = {
        "gate": "query", "first_residual": "inducing", "selector_input": "former", "selector_hidden": (),
        "pattern_sharing": "none", "tower_input": "last", "tower_hidden": (), "representation": "asrg",
        "pattern": "selector", **SIZES, **options,
    }  # fmt: skip
    fields = model.embedding(ids).detach().double().numpy()
    return np.array([row_reference(w, h, o, model.schema.n_steps) for h in fields])


def row_reference(w: dict[str, np.ndarray], h: np.ndarray, o: dict[str, Any], n_steps: int) -> np.ndarray:
    x, keys, former = h, np.ones(len(h), dtype=bool), [np.zeros(o["width"])] * n_steps
    history = []
    for layer in range(o["layers"]):
        if o["representation"] == "self_attention":
            x = self_attention_reference(w, x, layer, o["heads"])
            if o["pattern"] == "selector":
                former = [pattern_reference(w, x, layer, i, former[i], keys, o) for i in range(n_steps)]
                history.append(former)
            continue
        z = np.ones(o["inducing_points"]) if o["gate"] == "none" else selector_reference(w, h, x, layer, o)
        asrg = {name: w[f"layers.{layer}.{name}"] for name in ("inducing", "key", "value", "output")}
        query = asrg["inducing"] * (1.0 if o["gate"] == "output" else z[:, None])
        out = attend(query, x, asrg, o["heads"], keys)
        out = out * z[:, None] if o["gate"] in ("output", "query_output") else out
        first = {"inducing": asrg["inducing"], "gated": query, "none": np.zeros_like(out), "mean": x.mean(0)}
        if o["first_residual"] == "learned" and layer == 0:
            first["learned"] = w["layers.0.mix"] @ x
        residual = first[o["first_residual"]] if layer == 0 else x
        x = layer_norm(out + residual, w[f"layers.{layer}.norm.weight"], w[f"layers.{layer}.norm.bias"])
        keys = z >= CLOSED_BELOW if o["gate"] == "key_mask" else np.ones(len(x), dtype=bool)
        if o["pattern"] == "selector":
            former = [pattern_reference(w, x, layer, i, former[i], keys, o) for i in range(n_steps)]
            history.append(former)
    logits = []
    for i in range(n_steps):
        seen = [patterns[i] for patterns in history]
        if o["pattern"] != "selector":
            seen = [x.reshape(-1) if o["pattern"] == "flatten" else x.mean(0)]
        joined = {"last": seen[-1], "mean": np.mean(seen, axis=0), "concat": np.concatenate(seen)}
        logits.append(
            dense(w, f"towers.{i}.body", joined[o["tower_input"]], len(o["tower_hidden"]), f"towers.{i}.output")
        )
    return np.array(logits)[:, 0]


def self_attention_reference(w: dict[str, np.ndarray], x: np.ndarray, layer: int, heads: int) -> np.ndarray:
    """LN(X + MHA(X W^Q, X, X)), head by head."""
    own = {name: w[f"layers.{layer}.{name}"] for name in ("query", "key", "value", "output")}
    out = attend(x @ own["query"], x, own, heads, np.ones(len(x), dtype=bool))
    return layer_norm(x + out, w[f"layers.{layer}.norm.weight"], w[f"layers.{layer}.norm.bias"])


def dense(w: dict[str, np.ndarray], body: str, x: np.ndarray, hidden: int, last: str) -> np.ndarray:
    for k in range(hidden):
        x = np.maximum(w[f"{body}.{2 * k}.weight"] @ x + w[f"{body}.{2 * k}.bias"], 0)
    result: np.ndarray = w[f"{last}.weight"] @ x + w[f"{last}.bias"]
    return result


def selector_reference(
    w: dict[str, np.ndarray], h: np.ndarray, x: np.ndarray, layer: int, o: dict[str, Any]
) -> np.ndarray:
    seen = {"former": x.reshape(-1), "pooled": x.mean(0), "fields": h.reshape(-1), "shared": h.reshape(-1)}
    number = 0 if o["selector_input"] == "shared" else layer
    score = dense(
        w, f"gates.bodies.{number}", seen[o["selector_input"]], len(o["selector_hidden"]), f"gates.scores.{number}"
    )
    return gate_reference(score, float(w["gates.gamma"]))


def pattern_reference(
    w: dict[str, np.ndarray],
    y: np.ndarray,
    layer: int,
    step: int,
    former: np.ndarray,
    keys: np.ndarray,
    o: dict[str, Any],
) -> np.ndarray:
    number = 0 if o["pattern_sharing"] == "all" else layer
    group = step if o["pattern_sharing"] == "none" else 0
    ps = {name: w[f"patterns.{number}.{name}"][group] for name in ("key", "value", "output", "scale", "shift")}
    found = attend(w[f"indicators.{layer}"][step][None], y, ps, o["heads"], keys)[0]
    return layer_norm(former + found, ps["scale"], ps["shift"])


def folded_logits(model: Apem, ids: Tensor) -> np.ndarray:
    caught: list[Tensor] = []
    hooks = [tower.register_forward_hook(lambda _m, _x, y: caught.append(y)) for tower in model.towers]
    model(ids)
    for hook in hooks:
        hook.remove()
    result: np.ndarray = torch.stack(caught, 1).detach().numpy()
    return result


SWITCHES: list[dict[str, Any]] = [
    {},
    *[{"gate": gate} for gate in ("output", "query_output", "key_mask")],
    {"gate": "none", "gamma": (10.0, 0.05)},
    *[{"first_residual": residual} for residual in ("gated", "none", "mean", "learned")],
    {"gate": "output", "first_residual": "gated"},
    *[{"selector_input": seen, "selector_hidden": (9,)} for seen in ("former", "pooled", "fields", "shared")],
    *[{"pattern_sharing": sharing} for sharing in ("layer", "all")],
    {"tower_input": "concat", "tower_hidden": (17, 9)},
    {"tower_input": "mean"},
    {"heads": 3, "layers": 1, "inducing_points": 2},
    {"heads": 1, "layers": 2, "width": 5, "inducing_points": 11, "gate": "key_mask"},
    {"pattern": "flatten", "tower_hidden": (7,)},
    {"pattern": "mean", "gate": "key_mask"},
    *[SELF | {"layers": n} for n in (1, 2)],
    SELF | {"pattern_sharing": "all", "tower_input": "concat"},
    SELF | {"pattern": "flatten", "tower_hidden": (7,)},
    SELF | {"pattern": "mean", "heads": 3},
]


@pytest.mark.parametrize("options", SWITCHES, ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)], ids=["f64", "f32"])
def test_folded_model_equals_the_equations(
    schema: Schema, ids: Tensor, stir: Stir, options: dict[str, Any], dtype: torch.dtype, tolerance: float
) -> None:
    torch.manual_seed(3)
    model = Apem(schema, **{**SIZES, **options})
    stir(model)
    model = model.to(dtype)
    expected = reference(model, ids, options)
    assert np.ptp(expected, axis=0).min() > 1e-3  # the rows do differ
    np.testing.assert_allclose(folded_logits(model, ids), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("options", SWITCHES, ids=str)
def test_every_switch_trains_every_parameter(schema: Schema, ids: Tensor, stir: Stir, options: dict[str, Any]) -> None:
    model = Apem(schema, **{**SIZES, **options})
    stir(model)
    model(ids).log_reach.sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert bool(parameter.grad.isfinite().all()), name
        assert float(parameter.grad.abs().sum()) > 0, name


def test_gate_function_by_hand() -> None:
    g = torch.tensor(4.0, dtype=torch.float64)
    u = torch.tensor([-9.0, -2.0, -1.0, 0.0, 1.0, 2.0, 9.0], dtype=torch.float64)
    assert smooth_step(u, g).tolist() == [0.0, 0.0, 0.15625, 0.5, 0.84375, 1.0, 1.0]


@pytest.mark.parametrize("width", [10.0, 1.0, 0.05])
def test_gate_function_is_symmetric_and_smooth_at_its_joints(width: float) -> None:
    g = torch.tensor(width, dtype=torch.float64)
    u = torch.linspace(-width, width, 41, dtype=torch.float64, requires_grad=True)
    value = smooth_step(u, g)
    np.testing.assert_allclose(value.detach().numpy(), gate_reference(u.detach().numpy(), width), atol=1e-14)
    np.testing.assert_allclose((value + smooth_step(-u, g)).detach().numpy(), 1.0, atol=1e-14)
    (slope,) = torch.autograd.grad(value.sum(), u)
    assert float(slope.max()) == pytest.approx(1.5 / width)  # in the middle
    for joint in (-width / 2, width / 2):
        near = torch.tensor([joint * (1 - 1e-6), joint, joint * (1 + 1e-6)], dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(smooth_step(near, g).sum(), near)
        assert float(slope.abs().max()) < 1e-4 / width


def test_open_gates_give_plain_inducing_attention() -> None:
    torch.manual_seed(0)
    layer = Asrg(7, 6, 5, 2, "inducing").double()
    x = torch.randn(4, 7, 6, dtype=torch.float64)
    heads = []
    for part in (slice(0, 3), slice(3, 6)):
        query, key, value = layer.inducing[:, part].expand(4, 5, 3), x @ layer.key[:, part], x @ layer.value[:, part]
        heads.append(nn.functional.scaled_dot_product_attention(query, key, value))
    expected = layer.norm(torch.cat(heads, dim=2) @ layer.output + layer.inducing)
    ones = torch.ones(4, 5, dtype=torch.float64)
    torch.testing.assert_close(layer(x, ones, None, None)[0], expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(layer(x, None, None, None)[0], expected, rtol=0, atol=1e-12)


def test_order_of_the_fields_does_not_matter_to_a_layer() -> None:
    torch.manual_seed(0)
    layer, x = Asrg(7, 6, 5, 3, "inducing").double(), torch.randn(4, 7, 6, dtype=torch.float64)
    gates = torch.rand(4, 5, dtype=torch.float64)
    shuffled = x[:, [3, 0, 6, 5, 1, 2, 4]]
    torch.testing.assert_close(
        layer(shuffled, gates, None, None)[0], layer(x, gates, None, None)[0], rtol=0, atol=1e-12
    )


def test_closed_gate_is_the_mean_of_the_values_and_not_a_removal() -> None:
    torch.manual_seed(0)
    layer, x = Asrg(7, 6, 5, 2, "inducing").double(), torch.randn(4, 7, 6, dtype=torch.float64)
    gates = torch.ones(4, 5, dtype=torch.float64)
    gates[:, 2] = 0.0
    expected = layer.norm((x @ layer.value).mean(1) @ layer.output + layer.inducing[2])
    torch.testing.assert_close(layer(x, gates, None, None)[0][:, 2], expected, rtol=0, atol=1e-12)


def test_hidden_keys_do_not_matter_and_a_row_without_keys_is_uniform() -> None:
    torch.manual_seed(0)
    layer, x = Asrg(4, 6, 5, 2, "none").double(), torch.randn(2, 4, 6, dtype=torch.float64)
    closed = torch.tensor([[False, True, False, True], [True] * 4])
    y = layer(x, None, None, closed)[0]
    torch.testing.assert_close(y[:1], layer(x[:1, [0, 2]], None, None, None)[0], rtol=0, atol=1e-12)
    uniform = layer.norm((x[1] @ layer.value).mean(0) @ layer.output)
    torch.testing.assert_close(y[1], uniform.expand(5, 6), rtol=0, atol=1e-12)


def test_key_mask_differs_from_the_papers_gate_where_points_are_closed(schema: Schema, ids: Tensor, stir: Stir) -> None:
    masked, plain = Apem(schema, **SIZES, gate="key_mask"), Apem(schema, **SIZES)
    stir(masked)
    plain.load_state_dict(masked.state_dict())
    gates = plain.gates(0, plain.embedding(ids), plain.embedding(ids))
    closed = (gates < CLOSED_BELOW).any(1)
    assert bool(closed.any())
    assert not torch.allclose(masked(ids).log_reach[closed], plain(ids).log_reach[closed], atol=1e-4)


def test_gradient_reaches_inducing_points_embedding_and_every_steps_indicator(schema: Schema, ids: Tensor) -> None:
    model = Apem(schema, **SIZES)
    for step in range(schema.n_steps):
        model.zero_grad()
        model(ids).log_reach[:, step].sum().backward()
        for layer in range(3):
            rows = model.indicators[layer].grad
            assert rows is not None
            assert (rows.abs().sum(1) > 0).tolist() == [i == step for i in range(schema.n_steps)]
            inducing = dict(model.named_parameters())[f"layers.{layer}.inducing"].grad
            assert inducing is not None and float(inducing.abs().sum()) > 0
        assert model.embedding.table.grad is not None and float(model.embedding.table.grad.abs().sum()) > 0


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("linear", {0.0: 8.0, 0.125: 6.0, 0.25: 4.0, 0.4999: 0.2, 0.5: 0.2, 1.0: 0.2}),
        ("cosine", {0.0: 8.0, 0.25: 4.0, 0.5: 0.2, 1.0: 0.2}),
        ("constant", {0.0: 8.0, 0.5: 8.0, 1.0: 8.0}),
    ],
)
def test_gamma_follows_its_schedule(schema: Schema, schedule: Any, expected: dict[float, float]) -> None:
    model = Apem(schema, **{**SIZES, "gamma": (8.0, 0.2), "gamma_schedule": schedule})
    for fraction, gamma in expected.items():
        model.set_progress(fraction)
        assert model.gates.gamma.item() == pytest.approx(gamma, rel=1e-6)


def test_gamma_of_the_paper_is_a_share_of_one_half_of_a_million_steps(schema: Schema) -> None:
    model = Apem(schema, width=4, inducing_points=3, gamma=(10.0, 1e-3))
    for step in (0, 37_178, 499_000, 900_000):
        model.set_progress(step / 1_000_000)
        assert model.gates.gamma.item() == pytest.approx(max(10 - 2e-5 * step, 1e-3), rel=1e-5)


def test_gamma_stays_in_evaluation(schema: Schema) -> None:
    model = Apem(schema, **SIZES)
    model.set_progress(0.25)
    before = model.gates.gamma.clone()
    model.eval()
    model.set_progress(1.0)
    assert torch.equal(model.gates.gamma, before)


def test_a13_gamma_is_saved_with_the_weights(schema: Schema, ids: Tensor, stir: Stir, tmp_path: Path) -> None:
    model = Apem(schema, **SIZES)
    stir(model)
    model.set_progress(0.4)
    model.eval()
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    other = Apem(schema, **SIZES)
    other.load_state_dict(load_file(tmp_path / "weights.safetensors"))
    other.eval()
    assert torch.equal(other(ids).log_reach, model(ids).log_reach)
    other.gates.gamma.fill_(3.0)  # what a checkpoint without gamma would mean
    assert not torch.allclose(other(ids).log_reach, model(ids).log_reach)


def test_default_size_is_the_papers(schema: Schema) -> None:
    model = Apem(schema)
    K, d, F, S, L = 64, 18, 4, 3, 4
    attention, norm = 3 * d * d, 2 * d
    asrg = L * (K * d + attention + norm)
    selectors = (F * d * K + K) + (L - 1) * (K * d * K + K)
    patterns = L * S * (d + attention + norm)
    table, towers = schema.n_ids * d, S * (d + 1)
    assert sum(p.numel() for p in model.parameters()) == table + asrg + selectors + patterns + towers
    assert model.gates.gamma.item() == 10.0


def test_towers_start_at_the_reach_of_train(schema: Schema, first_rates: Callable[[nn.Module], list[float]]) -> None:
    np.testing.assert_allclose(first_rates(Apem(schema, **SIZES)), [0.3, 0.06, 0.03], rtol=1e-5)


def test_default_losses_are_those_of_the_paper(schema: Schema) -> None:
    losses = Apem(schema, **SIZES).default_losses()
    assert losses == (Component(name="reach_bce"), Component(name="dependence", options={"sigma": 1.0}))
    for loss in losses:
        LOSSES.create(loss.name, schema, options=loss.options)


@pytest.mark.parametrize(
    ("name", "changed", "gone"),
    [
        ("apem_without_asrg", {"representation": "self_attention"}, "gates.scores"),
        ("apem_without_patterns", {"pattern": "flatten", "tower_hidden": (64,)}, "patterns"),
        ("apem_without_dependence", {"sigma": 0.0}, ""),
        ("apem_open_gates", {"gate": "none"}, "gates.scores"),
        ("apem_key_mask", {"gate": "key_mask"}, ""),
        ("apem_field_gates", {"selector_input": "fields"}, ""),
    ],
)
def test_table_4_and_the_controls_are_named(schema: Schema, name: str, changed: dict[str, Any], gone: str) -> None:
    assert MODELS.preset(name) == changed
    model: Apem = MODELS.create(name, schema, options={})
    weights = [key for key, _ in model.named_parameters()]
    whole = [key for key, _ in Apem(schema).named_parameters()]
    assert not [key for key in weights if gone and key.startswith(gone)]
    assert [key for key in whole if gone and key.startswith(gone)] or not gone
    names = [loss.name for loss in model.default_losses()]
    assert names == (["reach_bce"] if name == "apem_without_dependence" else ["reach_bce", "dependence"])


def test_sizes_of_the_variants(schema: Schema) -> None:
    K, d, F, S, L = 64, 18, 4, 3, 4
    embedding, towers, norm = schema.n_ids * d, S * (d + 1), 2 * d
    generator = L * (K * d + 3 * d * d + norm)
    selectors = (F * d * K + K) + (L - 1) * (K * d * K + K)
    patterns = L * S * (d + 3 * d * d + norm)
    whole = embedding + generator + selectors + patterns + towers
    expected = {
        "apem_without_asrg": embedding + L * (4 * d * d + norm) + patterns + towers,
        "apem_without_patterns": embedding + generator + selectors + S * (K * d * 64 + 64 + 64 + 1),
        "apem_without_dependence": whole,
        "apem_open_gates": whole - selectors,
        "apem_key_mask": whole,
        "apem_field_gates": whole - selectors + L * (F * d * K + K),
    }
    models = {name: MODELS.create(name, schema, options={}) for name in expected}
    assert {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()} == expected


def test_open_gates_are_the_gate_one(schema: Schema, ids: Tensor, stir: Stir) -> None:
    """The control: a selector so sure of every point that f_D is 1 gives what `gate = "none"` gives."""
    gated, plain = Apem(schema, **SIZES), Apem(schema, **{**SIZES, "gamma": (10.0, 0.05)}, gate="none")
    stir(gated)
    with torch.no_grad():
        for name, parameter in gated.gates.scores.named_parameters():
            parameter.fill_(9.0 if name.endswith("bias") else 0.0)
    plain.load_state_dict(gated.state_dict(), strict=False)
    torch.testing.assert_close(gated(ids).log_reach, plain(ids).log_reach)


def test_without_asrg_the_order_of_the_fields_does_not_matter_to_a_layer(schema: Schema, stir: Stir) -> None:
    layer = SelfAttention(6, 3)
    stir(layer)
    x, order = torch.randn(2, 5, 6), torch.tensor([3, 0, 4, 1, 2])
    torch.testing.assert_close(layer(x[:, order]), layer(x)[:, order])
    assert not torch.allclose(layer(x)[:, 0], layer(x)[:, 1], atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            SELF | {"gate": "output"},
            "option 'gate' should keep its default 'query' with representation = 'self_attention', .* 'output'",
        ),
        (SELF | {"inducing_points": 5}, "option 'inducing_points' should keep its default 64"),
        (SELF | {"first_residual": "gated"}, "option 'first_residual' should keep its default 'inducing'"),
        (SELF | {"gamma": (3.0, 0.05)}, r"option 'gamma' should keep its default \(10.0, 0.05\)"),
        (SELF | {"gamma_schedule": "cosine"}, "option 'gamma_schedule' should keep its default 'linear'"),
        (SELF | {"gamma_share": 0.9}, "option 'gamma_share' should keep its default 0.5"),
        (SELF | {"selector_input": "pooled"}, "option 'selector_input' should keep its default 'former'"),
        (OPEN | {"gamma": [3.0, 0.05]}, r"option 'gamma' .* \(10.0, 0.05\) with gate = 'none', .* \(3.0, 0.05\)"),
        (OPEN | {"gamma_schedule": "cosine"}, "option 'gamma_schedule' .* with gate = 'none'"),
        (OPEN | {"gamma_share": 0.9}, "option 'gamma_share' .* with gate = 'none'"),
        (OPEN | {"selector_input": "pooled"}, "option 'selector_input' .* with gate = 'none'"),
        (OPEN | {"selector_hidden": (9,)}, r"option 'selector_hidden' .* with gate = 'none', .* \(9,\)"),
        (SELF | {"selector_hidden": [4]}, r"option 'selector_hidden' should keep its default \(\)"),
        ({"pattern": "flatten", "tower_input": "mean"}, "option 'tower_input' .* with pattern = 'flatten'"),
        ({"pattern": "mean", "pattern_sharing": "all"}, "option 'pattern_sharing' .* with pattern = 'mean'"),
        ({"pattern": "x"}, "option 'pattern' should be a known word"),
        ({"representation": "x"}, "option 'representation' should be a known word"),
        ({"heads": 4}, "option 'width' should be a multiple of heads=4, received 6"),
        ({"layers": 0}, "option 'layers' should be a whole number >= 1, received 0"),
        ({"inducing_points": 2.5}, "option 'inducing_points' should be a whole number >= 1, received 2.5"),
        ({"gate": "kye_mask"}, "option 'gate' .* received 'kye_mask'; did you mean 'key_mask'"),
        ({"first_residual": "x"}, "option 'first_residual' .* known: gated, inducing, learned, mean, none"),
        ({"selector_input": "x"}, "option 'selector_input'"),
        ({"pattern_sharing": "x"}, "option 'pattern_sharing'"),
        ({"tower_input": "x"}, "option 'tower_input'"),
        ({"gamma_schedule": "x"}, "option 'gamma_schedule'"),
        ({"gamma": (1.0, 2.0)}, r"first >= smallest > 0.* received \(1.0, 2.0\)"),
        ({"gamma": (1.0, 0.0)}, "'gamma'"),
        ({"gamma": (1.0,)}, "'gamma'"),
        ({"gamma_share": 0.0}, "'gamma_share'"),
        ({"gamma": 3.0}, "'gamma'"),
        ({"selector_hidden": (3, 0)}, r"option 'selector_hidden' should be a list .* >= 1, received \(3, 0\)"),
        ({"tower_hidden": 3}, "option 'tower_hidden' should be a list of whole numbers >= 1, received 3"),
    ],
)
def test_wrong_options_are_refused(schema: Schema, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Apem(schema, **{**SIZES, **options})
