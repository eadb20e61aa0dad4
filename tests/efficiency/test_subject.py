"""What a turn does: real steps on real batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from funnelcast.batch import Batch
from funnelcast.config import Component, Experiment, TrainConfig
from funnelcast.data.loader import Loader
from funnelcast.data.shards import PreparedData
from funnelcast.data.split import Split
from funnelcast.efficiency import subject as subject_module
from funnelcast.efficiency import training as module
from funnelcast.efficiency.subject import Subject
from funnelcast.efficiency.training import LoopTraining
from funnelcast.train import fit, train_step


def experiment(**train: Any) -> Experiment:
    config = TrainConfig(batch_size=300, device="cpu", **train)
    return Experiment(name="e", model=Component(name="esmm", options={"hidden": [4]}), train=config)


def test_turns_train_on_the_batches_of_a_training(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Batch] = []

    def noting(model: Any, losses: Any, optimizers: Any, batch: Batch, config: Any) -> Any:
        seen.append(batch)
        return train_step(model, losses, optimizers, batch, config)

    monkeypatch.setattr(module, "train_step", noting)
    subject = Subject(experiment(), prepared, steps=6)
    subject.build()
    facts = subject.facts()
    before = [p.detach().clone() for p in subject._model.parameters()]
    seconds = subject.timed(subject.train, wall=False)
    # 1,000 rows are three batches of 300 and one of 100; then the next epoch begins
    assert [len(batch) for batch in seen] == [300, 300, 300, 100, 300, 300]
    assert facts.turn_rows == 1600 and facts.train_rows == 1000
    loader = Loader(PreparedData(prepared), Split.TRAIN, 300)
    first = next(iter(loader.epoch(0, 0)))
    assert torch.equal(seen[0].ids, first.ids)
    assert any(not torch.equal(a, b) for a, b in zip(before, subject._model.parameters(), strict=True))
    assert seconds > 0


def test_scoring_takes_as_many_rows_at_once_as_evaluate(prepared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject_module, "SCORING_ROWS", 700)
    subject = Subject(experiment(), prepared, steps=6)
    subject.build()
    sizes: list[int] = []
    subject._model.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    subject.score()
    assert sizes == [700, 700, 200]
    assert not subject._model.training
    assert subject.timed(subject.score, wall=True) > 0


def test_averaged_weights_are_part_of_a_turn(prepared: Path) -> None:
    subject = Subject(experiment(average_last=0.5), prepared, steps=6)
    subject.build()
    subject.train()
    assert isinstance(subject._training, LoopTraining) and subject._training.average is not None
    assert int(subject._training.average.n_averaged) == 3


def test_facts_are_those_of_the_model(prepared: Path) -> None:
    subject = Subject(experiment(), prepared, steps=1)
    subject.build()
    facts = subject.facts()
    assert facts.unit == "epoch"
    assert facts.parameters == sum(p.numel() for p in subject._model.parameters())
    assert facts.bytes == sum(t.numel() * t.element_size() for t in subject._model.state_dict().values())


def test_trees_are_fitted_as_a_whole_and_weigh_what_their_files_do(prepared: Path, tmp_path: Path) -> None:
    model = Component(name="lightgbm", options={"rounds": 6, "num_leaves": 4, "patience": 0})
    plan = Experiment(name="trees", model=model)
    run = fit(tmp_path / "run", PreparedData(prepared), plan)
    subject = Subject(plan, prepared, steps=1)
    subject.build()
    assert subject.timed(lambda: subject.train(steps=1), wall=True) > 0
    facts, fitted = subject.facts(), run.load_model()
    assert facts.unit == "fit" and (facts.train_rows, facts.turn_rows) == (1000, 1000)
    assert facts.parameters == sum(leaf.numel() for leaf in fitted.parameters()) > 2 * 6
    assert facts.bytes == sum(path.stat().st_size for path in [run.folder / "trees.json", *run.folder.glob("booster*")])
    ids = subject._batches[0].ids
    assert torch.equal(subject._model(ids).reach, fitted(ids).reach)  # that of seed 0, on all of TRAIN
    subject.score()


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs /proc of Linux")
def test_trees_are_fitted_before_their_scoring_is_measured(prepared: Path) -> None:
    model = Component(name="lightgbm", options={"rounds": 6, "num_leaves": 4})
    found = Subject(Experiment(name="trees", model=model), prepared, steps=1).peaks()
    assert found["unit"] == "fit" and found["parameters"] > 2
    assert found["process_bytes"] >= found["peak_bytes"] > 0 and found["score_peak_bytes"] >= 0


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs /proc of Linux")
def test_peaks_come_with_the_facts(prepared: Path) -> None:
    found = Subject(experiment(), prepared, steps=4).peaks()
    assert found["turn_rows"] == 1000
    assert found["peak_bytes"] >= 0 and found["score_peak_bytes"] >= 0
    assert found["process_bytes"] > 50 << 20  # torch itself
