"""Down-sampled negatives: the correction against enumeration, first biases, resume, and the simulator's truth."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.test_train import Interruption, weights
from torch import Tensor

from funnelcast.config import Component, Experiment, TrainConfig
from funnelcast.data.loader import Loader
from funnelcast.data.prepare import prepare
from funnelcast.data.shards import PreparedData
from funnelcast.data.split import Split
from funnelcast.datasets.synthetic import Synthetic
from funnelcast.errors import ConfigError
from funnelcast.evaluate import evaluate, score
from funnelcast.heads import Head, to_prediction
from funnelcast.negatives import check_entry, correct, sampled_rates
from funnelcast.prediction import Prediction
from funnelcast.run import build_model
from funnelcast.schema import Field, Schema, Step
from funnelcast.scores import funnel_metrics
from funnelcast.train import fit

# Cells of x: P(click), P(cart | click), P(buy | cart).
CELLS = np.array([[0.04, 0.3, 0.9], [0.5, 0.02, 0.1], [0.001, 0.001, 0.5], [0.97, 0.99, 0.995], [0.2, 0.5, 0.004]])


def enumerate_sampled(share: float) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """True reach p and reach q among the rows kept, [cells, 3] each, by going through every outcome."""
    p, q = np.zeros((5, 3)), np.zeros((5, 3))
    for x, (click, cart, buy) in enumerate(CELLS):
        outcomes = {
            (0, 0, 0): 1 - click,
            (1, 0, 0): click * (1 - cart),
            (1, 1, 0): click * cart * (1 - buy),
            (1, 1, 1): click * cart * buy,
        }
        kept = {labels: mass * (share if labels[0] == 0 else 1.0) for labels, mass in outcomes.items()}
        total = sum(kept.values())
        for step in range(3):
            p[x, step] = sum(mass for labels, mass in outcomes.items() if labels[step])
            q[x, step] = sum(mass for labels, mass in kept.items() if labels[step]) / total
    return p, q


def exact(reach: np.ndarray[Any, Any]) -> Prediction:
    """The prediction of a reach [N, S] in float64."""
    p = torch.from_numpy(reach)
    c = torch.cat([p[:, :1], p[:, 1:] / p[:, :-1]], 1)
    return Prediction(p.log(), torch.log1p(-p), c.log(), torch.log1p(-c))


@pytest.mark.parametrize("share", [1.0, 0.5, 0.1, 1e-3])
def test_the_population_optimum_is_corrected_to_the_truth(share: float) -> None:
    p, q = enumerate_sampled(share)
    found, truth = correct(exact(q), share), exact(p)
    for name in ("log_reach", "log_not_reach", "log_transition", "log_not_transition"):
        torch.testing.assert_close(getattr(found, name), getattr(truth, name), rtol=1e-10, atol=1e-13)


def test_the_formula_of_a_single_head_is_wrong_for_a_later_step() -> None:
    """Clicks without a cart were all kept, so a q_2 / (1 - q_2 + a q_2) corrects too much."""
    share = 0.1
    p, q = enumerate_sampled(share)
    single = share * q / (1 - q + share * q)
    np.testing.assert_allclose(single[:, 0], p[:, 0], rtol=1e-10)
    assert (np.abs(single[[0, 1, 4], 1] / p[[0, 1, 4], 1] - 1) > 0.05).all()  # cell 1: 0.0018 instead of 0.01
    assert single[1, 1] == pytest.approx(0.1 * 0.01 / 0.55 / (1 - 0.9 * 0.01 / 0.55), rel=1e-10)


logits = st.lists(st.lists(st.floats(-40, 40), min_size=3, max_size=3), min_size=1, max_size=4)


@given(logits, st.floats(1e-4, 1.0), st.sampled_from(["reach", "transition", "monotone"]))
def test_every_head_stays_a_prediction(rows: list[list[float]], share: float, head: Head) -> None:
    before = to_prediction(head, torch.tensor(rows))
    after = correct(before, share)
    for name in ("log_reach", "log_not_reach", "log_transition", "log_not_transition"):
        value = getattr(after, name)
        assert value.dtype == torch.float32 and torch.isfinite(value).all() and (value <= 0).all()
    total = after.log_reach.double().exp() + after.log_not_reach.double().exp()
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-6)
    assert torch.equal(after.log_transition[:, 1:], before.log_transition[:, 1:])
    assert (after.log_reach <= before.log_reach + 1e-6).all()  # there are fewer positives among all rows
    if head != "reach":
        assert (after.log_reach[:, 1:] <= after.log_reach[:, :-1] + 1e-6).all()


def test_extreme_logits_stay_finite_and_one_step_is_a_shift_of_its_log_odds() -> None:
    found = correct(Prediction.from_reach(torch.tensor([[-90.0], [-3.0], [80.0]])), 0.25)
    odds = found.log_reach - found.log_not_reach
    torch.testing.assert_close(odds, torch.tensor([[-90.0], [-3.0], [80.0]]) + math.log(0.25))


def test_the_value_given_the_last_step_stays() -> None:
    before = replace(
        Prediction.from_transitions(torch.zeros(1, 2)), value_location=torch.zeros(1), value_scale=torch.ones(1)
    )
    after = correct(before, 0.5)
    assert torch.equal(after.log_mean_value, before.log_mean_value)
    torch.testing.assert_close(after.expected_value, torch.tensor([math.exp(0.5) / 6]))


def schema(*steps: Step) -> Schema:
    return Schema(dataset="shop", fields=(Field(name="item", size=10),), steps=steps)


def test_rates_among_the_rows_kept_by_hand() -> None:
    # 100 rows, 20 clicks, 5 buys; a quarter of 80 negatives stays: 20 clicks and 5 buys of 40 rows.
    steps = (
        Step(name="click", reach_rate=0.2, transition_rate=0.2),
        Step(name="b", reach_rate=0.05, transition_rate=0.25),
    )
    found = sampled_rates(schema(*steps), 0.25).steps
    assert [step.reach_rate for step in found] == pytest.approx([0.5, 0.125])
    assert [step.transition_rate for step in found] == pytest.approx([0.5, 0.25])


@pytest.mark.parametrize(
    ("parents", "group", "fits"),
    [
        ([None, None, None], None, True),
        ([None, ("click",), ("cart", "not:cart")], None, True),
        ([None, ("click",), ("not:click",)], None, False),
        ([None, (), None], None, False),
        ([(), (), None], "both", False),
    ],
)
def test_a_step_beside_the_first_one_is_refused(parents: list[Any], group: str | None, fits: bool) -> None:
    steps = [
        Step(name=n, reach_rate=0.1, transition_rate=0.3, parents=p, group=group if n != "buy" else None)
        for n, p in zip(["click", "cart", "buy"], parents, strict=True)
    ]
    if fits:
        check_entry(schema(*steps))
    else:
        with pytest.raises(ConfigError, match=r"'train.negatives' should be 1.0 in this funnel: its step '(cart|buy)'"):
            check_entry(schema(*steps))


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match="negatives"):
        TrainConfig(negatives=share)


def experiment(model: str = "esmm", head: str | None = None, **train: Any) -> Experiment:
    options: dict[str, Any] = {"hidden": [32]} if head is None else {"bottom": [32], "tower": [], "head": head}
    config = TrainConfig(**{"epochs": 2, "batch_size": 64, "device": "cpu", "patience": 0, "negatives": 0.3, **train})
    return Experiment(name=model, model=Component(name=model, options=options), train=config)


HEADS = [("esmm", None), ("shared_bottom", "reach"), ("shared_bottom", "monotone")]


@pytest.mark.parametrize(("model", "head"), HEADS)
def test_first_biases_fit_the_rows_kept_and_the_first_answer_all_rows(model: str, head: str | None) -> None:
    steps = (
        Step(name="click", reach_rate=0.2, transition_rate=0.2),
        Step(name="b", reach_rate=0.05, transition_rate=0.25),
    )
    built = build_model(experiment(model, head, negatives=0.25), schema(*steps))
    with torch.no_grad():
        for parameter in built.parameters():
            if parameter.dim() > 1:
                parameter.zero_()  # the biases alone speak
    ids = torch.zeros(1, 1, dtype=torch.int32)
    torch.testing.assert_close(built.train()(ids).reach, torch.tensor([[0.5, 0.125]]))
    torch.testing.assert_close(built.eval()(ids).reach, torch.tensor([[0.2, 0.05]]))


@pytest.mark.parametrize("number", [3, 12])
@pytest.mark.parametrize("memory_gb", [4.0, 1e-9], ids=["memory", "streamed"])
def test_resume_gives_the_very_weights_of_an_unbroken_run(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, memory_gb: float
) -> None:
    data = PreparedData(prepared)
    plan = experiment(average_last=0.5, learning_rate_schedule="linear", memory_gb=memory_gb)
    assert Loader(data, Split.TRAIN, 64, negatives=0.3).planned(3, 2)[1] >= 20
    unbroken = fit(tmp_path / "unbroken", data, plan, seed=3)
    with monkeypatch.context() as patch:
        Interruption(patch, number)
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / "broken", data, plan, seed=3)
    assert weights(fit(tmp_path / "broken", data, plan, seed=3, resume=True)) == weights(unbroken)
    other = fit(tmp_path / "other", data, experiment(average_last=0.5, learning_rate_schedule="linear"), seed=3)
    assert weights(other) == weights(unbroken)  # wherever the rows were
    assert json.loads((unbroken.folder / "history.json").read_text())["rows"] < 2 * 1000


def test_valid_and_reports_see_all_rows_and_the_run_records_the_share(prepared: Path, tmp_path: Path) -> None:
    data = PreparedData(prepared)
    run = fit(tmp_path / "run", data, experiment(negatives=0.1, epochs=1))
    history = json.loads((run.folder / "history.json").read_text())
    scores = score(run.load_model(), Loader(data, Split.VALID, 100))
    assert history["epochs"][0]["valid_ne"] == pytest.approx([s["reach"]["ne"] for s in funnel_metrics(scores)])
    assert run.record["experiment"]["train"]["negatives"] == 0.1
    assert evaluate(run, data, Split.VALID)["steps"][0]["reach"]["pcoc"] == pytest.approx(1.0, abs=0.25)


def truth_ratio(run: Any, data: PreparedData, correction: bool) -> list[float]:
    """Predicted over true reach, summed over TEST."""
    model = run.load_model()
    if not correction:
        model._forward_hooks.clear()
    scores = score(model, Loader(data, Split.TEST, 4096))
    assert scores.true_reach is not None
    return list(np.exp(scores.log_reach, dtype=np.float64).sum(0) / scores.true_reach.sum(0))


@pytest.mark.slow
def test_pcoc_of_a_model_trained_on_a_fifth_of_the_negatives(tmp_path: Path) -> None:
    """About 3,000 rows of TRAIN reach the last step: its rate is known to 2 %."""
    dataset = Synthetic(rows=160_000, fields=4, ids=(5, 8, 12), numeric=0, multi=0, seed=5)
    prepare(dataset.describe(None, tmp_path), tmp_path / "data")
    data = PreparedData(tmp_path / "data")
    for model, head in HEADS:
        plan = experiment(model, head, negatives=0.2, epochs=4, batch_size=256, learning_rate_schedule="linear")
        run = fit(tmp_path / f"{model}-{head}", data, plan)
        assert truth_ratio(run, data, correction=True) == pytest.approx([1.0, 1.0, 1.0], abs=0.06)
        assert min(truth_ratio(run, data, correction=False)) > 1.8
        measured = [step["reach"] for step in evaluate(run, data, Split.TEST)["steps"]]
        for step in measured:
            assert step["pcoc"] == pytest.approx(1.0, abs=0.04 + 3 / step["positives"] ** 0.5)


def test_every_tensor_of_a_prediction_without_a_shift_is_the_same() -> None:
    before = Prediction.from_reach(torch.tensor([[0.3, -2.0]]))
    assert correct(before, 1.0) is before


def test_the_gradient_is_finite_where_heads_contradict_each_other() -> None:
    raw: Tensor = torch.tensor([[-30.0, 30.0]], requires_grad=True)
    after = correct(Prediction.from_reach(raw), 0.1)
    (gradient,) = torch.autograd.grad(after.log_reach.sum() + after.log_not_reach.sum(), raw)
    assert torch.isfinite(gradient).all()
