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
from funnelcast.efficiency import subject as module
from funnelcast.efficiency.subject import Subject
from funnelcast.train import train_step


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
    facts = subject.build()
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
    monkeypatch.setattr(module, "SCORING_ROWS", 700)
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
    assert subject._average is not None
    assert int(subject._average.n_averaged) == 3


def test_facts_are_those_of_the_model(prepared: Path) -> None:
    subject = Subject(experiment(), prepared, steps=1)
    facts = subject.build()
    assert facts.parameters == sum(p.numel() for p in subject._model.parameters())
    assert facts.bytes == sum(t.numel() * t.element_size() for t in subject._model.state_dict().values())


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs /proc of Linux")
def test_peaks_come_with_the_facts(prepared: Path) -> None:
    found = Subject(experiment(), prepared, steps=4).peaks()
    assert found["turn_rows"] == 1000
    assert found["peak_bytes"] >= 0 and found["score_peak_bytes"] >= 0
    assert found["process_bytes"] > 50 << 20  # torch itself
