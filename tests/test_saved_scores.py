"""Scores on disk: the way there and back, and what is refused or scored again."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from funnelcast.config import Component, Experiment, TrainConfig
from funnelcast.data.loader import Loader
from funnelcast.data.shards import PreparedData
from funnelcast.data.split import Split
from funnelcast.errors import ArtifactError
from funnelcast.evaluate import evaluate, score
from funnelcast.files import sha256
from funnelcast.run import Run
from funnelcast.saved_scores import has_scores, load_scores, log_probabilities, read_log_odds
from funnelcast.scores import Scores, funnel_metrics
from funnelcast.train import fit


def trained(folder: Path, data: PreparedData, model: str = "esmm") -> Run:
    config = TrainConfig(epochs=2, batch_size=128, learning_rate=0.02, device="cpu")
    return fit(folder, data, Experiment(name=model, model=Component(name=model), train=config))


@pytest.fixture
def data(prepared: Path) -> PreparedData:
    return PreparedData(prepared)


@pytest.fixture
def run(data: PreparedData, tmp_path: Path) -> Run:
    run = trained(tmp_path / "run", data)
    evaluate(run, data)
    return run


def numbers(record: Any) -> list[Any]:
    """Every leaf of a record, in order."""
    if isinstance(record, dict):
        return [leaf for key in sorted(record) for leaf in numbers(record[key])]
    return [leaf for part in record for leaf in numbers(part)] if isinstance(record, list) else [record]


# They jump where two rows of nearly one score change places, as the rounding of a matrix product decides.
OF_RANKS = {"auc", "gauc", "ece", "rising_share"}


def smooth_metrics(scores: Scores) -> list[dict[str, Any]]:
    return [
        {
            key: {name: number for name, number in value.items() if name not in OF_RANKS}
            if isinstance(value, dict)
            else value
            for key, value in step.items()
        }
        for step in funnel_metrics(scores)
    ]


def assert_same_metrics(left: Scores, right: Scores) -> None:
    for name in ("log_reach", "log_not_reach", "log_transition", "log_not_transition"):
        assert getattr(left, name) == pytest.approx(getattr(right, name), abs=5e-6)
    for ours, theirs in zip(numbers(smooth_metrics(left)), numbers(smooth_metrics(right)), strict=True):
        assert ours == (pytest.approx(theirs, abs=1e-6) if isinstance(theirs, float) else theirs)


@pytest.mark.parametrize("model", ["esmm", "apem", "logistic", "resflow"])
def test_metrics_are_the_same_after_the_way_to_disk_and_back(data: PreparedData, tmp_path: Path, model: str) -> None:
    run = trained(tmp_path / model, data, model)
    evaluate(run, data)
    fresh, read = score(run.load_model(), Loader(data, Split.TEST, 77)), load_scores(run, data)
    assert read.log_reach.dtype == np.float32
    for name in ("labels", "observed", "weight", "user"):
        assert np.array_equal(getattr(read, name), getattr(fresh, name))
    assert read.true_reach is None and read.scope is None
    assert_same_metrics(read, fresh)


def test_the_file_holds_float32_log_odds_and_says_of_what(run: Run, data: PreparedData) -> None:
    tensors = load_file(run.folder / "scores.safetensors")
    assert {name: (str(value.dtype), value.shape) for name, value in tensors.items()} == {
        "reach_logit": ("float32", (300, 2)),
        "transition_logit": ("float32", (300, 2)),
    }
    fingerprint = sha256(data.folder / "manifest.json")
    assert has_scores(run.folder, Split.TEST, fingerprint)
    assert not has_scores(run.folder, Split.VALID, fingerprint)
    assert not has_scores(run.folder, Split.TEST, "0" * 64)
    assert np.array_equal(read_log_odds(run.folder, "transition", 1), tensors["transition_logit"][:, 1])


def test_rows_are_scored_again_where_the_file_is_of_something_else(
    run: Run, data: PreparedData, make_prepared: Any
) -> None:
    before = (run.folder / "scores.safetensors").read_bytes()
    valid = load_scores(run, data, Split.VALID)
    assert_same_metrics(valid, score(run.load_model(), Loader(data, Split.VALID, 4096)))
    other = PreparedData(make_prepared("other", seed=8))
    assert_same_metrics(load_scores(run, other), score(run.load_model(), Loader(other, Split.TEST, 4096)))
    assert (run.folder / "scores.safetensors").read_bytes() == before
    (run.folder / "scores.safetensors").unlink()
    assert len(load_scores(run, data)) == 300
    assert not (run.folder / "scores.safetensors").exists()


def test_damaged_scores_are_refused(run: Run, data: PreparedData) -> None:
    path = run.folder / "scores.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:500])
    with pytest.raises(ArtifactError, match=r"scores\.safetensors: should be the scores of a run"):
        load_scores(run, data)
    with pytest.raises(ArtifactError, match="missing or damaged"):
        read_log_odds(run.folder, "reach", 0)
    fingerprint = sha256(data.folder / "manifest.json")
    save_file(
        {"reach_logit": np.zeros((299, 2), np.float32)},
        path,
        {"format": "1", "split": "test", "data_sha256": fingerprint},
    )
    with pytest.raises(ArtifactError, match=r"should hold 'reach_logit' \[300, 2\]"):
        load_scores(run, data)


def test_scores_are_there_before_the_report(
    data: PreparedData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = trained(tmp_path / "run", data)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("funnelcast.evaluate.save_scores", killed)
    with pytest.raises(KeyboardInterrupt):
        evaluate(run, data)
    assert not run.evaluated


def test_metrics_in_the_report_are_those_of_the_saved_scores(run: Run, data: PreparedData) -> None:
    report = json.loads((run.folder / "report.json").read_text())
    for ours, theirs in zip(report["steps"], funnel_metrics(load_scores(run, data)), strict=True):
        for space in ("reach", "transition"):
            assert ours[space]["auc"] == pytest.approx(theirs[space]["auc"], abs=1e-6)


@given(st.floats(-80, 80))
def test_log_probabilities_agree_with_plain_arithmetic(x: float) -> None:
    log_p, log_not_p = log_probabilities(np.array([x]))
    assert log_p[0] == pytest.approx(-math.log1p(math.exp(-x)), rel=1e-6)
    assert log_not_p[0] == pytest.approx(-math.log1p(math.exp(x)), rel=1e-6)


def test_certainties_keep_their_infinite_log_odds() -> None:
    log_p, log_not_p = log_probabilities(np.array([np.inf, -np.inf]))
    assert log_p.tolist() == [0.0, -np.inf] and log_not_p.tolist() == [-np.inf, 0.0]
