"""Training: exact resume, best weights, the schedule, and faults."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from funnelcast.batch import Batch
from funnelcast.config import Component, Experiment, TrainConfig
from funnelcast.data.loader import Loader
from funnelcast.data.shards import PreparedData
from funnelcast.data.split import Split
from funnelcast.errors import ArtifactError, ConfigError, DataError
from funnelcast.evaluate import evaluate, score
from funnelcast.files import sha256
from funnelcast.layers import FunnelModel
from funnelcast.objective import objective
from funnelcast.optimizers import build_optimizers
from funnelcast.run import Run, build_model
from funnelcast.scores import Scores, funnel_metrics
from funnelcast.train import build_losses, fit


def experiment(model: str = "apem", **train: Any) -> Experiment:
    options = {"inducing_points": 4, "layers": 2} if model == "apem" else {}
    config = TrainConfig(**{"epochs": 2, "batch_size": 64, "device": "cpu", "patience": 0, **train})
    return Experiment(name=model, model=Component(name=model, options=options), train=config)


def weights(run: Run) -> str:
    return sha256(run.folder / "weights.safetensors")


class Interruption:
    """Sends Ctrl-C while the loader hands out its n-th batch."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
        original, left = Loader.epoch, number

        def epoch(loader: Loader, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
            nonlocal left
            for batch in original(loader, seed, epoch, start):
                left -= 1
                if left == 0:
                    signal.raise_signal(signal.SIGINT)
                yield batch

        monkeypatch.setattr(Loader, "epoch", epoch)


# TRAIN has 1,000 rows: 16 batches of 64 an epoch.
@pytest.mark.parametrize("number", [5, 16, 17, 32], ids=["mid-epoch", "edge", "second epoch", "last batch"])
@pytest.mark.parametrize("model", ["apem", "mmoe"])
@pytest.mark.parametrize("average_last", [0.0, 0.7], ids=["last", "average"])
def test_resume_gives_the_very_weights_of_an_unbroken_run(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, model: str, average_last: float
) -> None:
    data, config = PreparedData(prepared), experiment(model, average_last=average_last)
    unbroken = fit(tmp_path / "unbroken", data, config, seed=3)
    with monkeypatch.context() as patch:
        Interruption(patch, number)
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / "broken", data, config, seed=3)
    torch.manual_seed(999)  # whatever happens in between must not matter
    resumed = fit(tmp_path / "broken", data, config, seed=3, resume=True)
    assert weights(resumed) == weights(unbroken)
    curves = [json.loads((run.folder / "history.json").read_text())["loss"] for run in (unbroken, resumed)]
    assert curves[0] == curves[1]


@pytest.mark.parametrize("embedding", ["deferred_adam", "lazy_adam", "sparse_adam", "rowwise_adagrad"])
def test_resume_is_exact_with_every_embedding_optimizer(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, embedding: str
) -> None:
    data, config = PreparedData(prepared), experiment("mmoe", learning_rate_schedule="linear")
    config = Experiment.model_validate({**config.model_dump(), "optimizer": {"embedding": embedding}})
    unbroken = fit(tmp_path / "unbroken", data, config, seed=3)
    with monkeypatch.context() as patch:
        Interruption(patch, 21)
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / "broken", data, config, seed=3)
    assert weights(fit(tmp_path / "broken", data, config, seed=3, resume=True)) == weights(unbroken)


def test_deferred_adam_trains_to_the_model_of_adam(prepared: Path, tmp_path: Path) -> None:
    data, plan = PreparedData(prepared), experiment("mmoe", epochs=3)
    runs = [
        fit(tmp_path / name, data, Experiment.model_validate({**plan.model_dump(), "optimizer": {"embedding": name}}))
        for name in ("adam", "deferred_adam")
    ]
    entropies = [json.loads((run.folder / "history.json").read_text())["epochs"][-1]["valid_ne"] for run in runs]
    assert weights(runs[0]) != weights(runs[1])
    assert entropies[1] == pytest.approx(entropies[0], abs=2e-3)


def test_bf16_trains_to_nearly_the_same_model(prepared: Path, tmp_path: Path) -> None:
    data = PreparedData(prepared)
    full, half = (
        fit(tmp_path / precision, data, experiment("mmoe", epochs=3, precision=precision))
        for precision in ("fp32", "bf16")
    )
    entropies = [
        json.loads((run.folder / "history.json").read_text())["epochs"][-1]["valid_ne"] for run in (full, half)
    ]
    assert weights(full) != weights(half)
    assert entropies[1] == pytest.approx(entropies[0], abs=0.01)


def test_the_average_is_the_mean_of_the_last_steps(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """16 steps, of which the last quarter counts: the weights after steps 13, 14, 15 and 16."""
    after: list[list[Tensor]] = []
    original = torch.optim.Adam.step

    def step(optimizer: torch.optim.Adam, closure: None = None) -> None:
        original(optimizer, closure)
        after.append([p.detach().double().clone() for group in optimizer.param_groups for p in group["params"]])

    monkeypatch.setattr(torch.optim.Adam, "step", step)
    config = experiment("mmoe", epochs=1, average_last=0.25)
    kept = fit(tmp_path / "run", PreparedData(prepared), config).load_model()
    assert len(after) == 16
    for number, parameter in enumerate(kept.parameters()):
        expected = torch.stack([values[number] for values in after[12:]]).mean(0)
        torch.testing.assert_close(parameter.detach().double(), expected, rtol=1e-5, atol=1e-7)
        assert not torch.allclose(parameter.detach().double(), after[-1][number], rtol=1e-5, atol=1e-7)


def test_before_the_average_begins_an_epoch_keeps_its_last_weights(prepared: Path, tmp_path: Path) -> None:
    data = PreparedData(prepared)
    plain = fit(tmp_path / "plain", data, experiment("esmm", epochs=4, patience=1, learning_rate=0.05))
    averaged = experiment("esmm", epochs=4, patience=1, learning_rate=0.05, average_last=0.25)
    history = json.loads((fit(tmp_path / "averaged", data, averaged).folder / "history.json").read_text())
    assert (
        history["epochs"][0]["valid_ne"]
        == json.loads((plain.folder / "history.json").read_text())["epochs"][0]["valid_ne"]
    )


def test_after_each_epoch_a_caller_hears_of_it_and_may_end_the_training(prepared: Path, tmp_path: Path) -> None:
    data, config = PreparedData(prepared), experiment("mmoe", epochs=3)
    heard: list[list[int]] = []

    def listen(epochs: Sequence[dict[str, Any]]) -> None:
        heard.append([point["epoch"] for point in epochs])
        if len(heard) == 2:
            raise LookupError

    with pytest.raises(LookupError):
        fit(tmp_path / "ended", data, config, after_epoch=listen)
    run = fit(tmp_path / "ended", data, config, resume=True, after_epoch=listen)
    assert heard == [[0], [0, 1], [0, 1, 2]]
    assert weights(run) == weights(fit(tmp_path / "unbroken", data, config))


def test_an_interrupt_at_the_very_end_of_an_epoch_is_not_lost(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, original = PreparedData(prepared), Loader.epoch

    def epoch(loader: Loader, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        yield from original(loader, seed, epoch, start)
        signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Loader, "epoch", epoch)
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / "broken", data, experiment("esmm"))
    resumed = fit(tmp_path / "broken", data, experiment("esmm"), resume=True)
    assert weights(resumed) == weights(fit(tmp_path / "unbroken", data, experiment("esmm")))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_while_valid_is_scored_keeps_the_epoch(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    def scored(model: FunnelModel, loader: Loader) -> Scores:
        signal.raise_signal(number)
        return score(model, loader)

    data = PreparedData(prepared)
    # Without care SIGTERM would end the process, the tests with it.
    former = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with monkeypatch.context() as patch:
            patch.setattr("funnelcast.train.score", scored)
            with pytest.raises(KeyboardInterrupt):
                fit(tmp_path / "broken", data, experiment("esmm"))
    finally:
        signal.signal(signal.SIGTERM, former)
    state = json.loads((tmp_path / "broken" / "checkpoint.json").read_text())["state"]
    assert state["epoch"] == 1 and state["best_epoch"] == 0
    resumed = fit(tmp_path / "broken", data, experiment("esmm"), resume=True)
    assert weights(resumed) == weights(fit(tmp_path / "unbroken", data, experiment("esmm")))


def test_the_seconds_before_an_interruption_count(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, original = PreparedData(prepared), Loader.epoch

    def slow(loader: Loader, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        for batch in original(loader, seed, epoch, start):
            time.sleep(0.1)
            yield batch

    with monkeypatch.context() as patch:
        patch.setattr(Loader, "epoch", slow)
        Interruption(patch, 5)
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / "run", data, experiment("esmm", epochs=1))
    run = fit(tmp_path / "run", data, experiment("esmm", epochs=1), resume=True)
    assert json.loads((run.folder / "history.json").read_text())["train_seconds"] >= 0.5


def test_a_training_that_another_process_has_ended_is_left_alone(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = PreparedData(prepared)
    run = fit(tmp_path / "run", data, experiment("esmm"))
    before = (run.folder / "weights.safetensors").stat().st_mtime_ns
    answers = iter([False, True])  # not complete when first asked, complete once the folder is held
    monkeypatch.setattr(Run, "complete", property(lambda _: next(answers)))
    fit(tmp_path / "run", data, experiment("esmm"), resume=True)
    assert (run.folder / "weights.safetensors").stat().st_mtime_ns == before


def test_resume_after_two_interruptions(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = PreparedData(prepared)
    unbroken = fit(tmp_path / "unbroken", data, experiment("esmm"), seed=1)
    for resume in (False, True):
        with monkeypatch.context() as patch:
            Interruption(patch, 7)
            with pytest.raises(KeyboardInterrupt):
                fit(tmp_path / "broken", data, experiment("esmm"), seed=1, resume=resume)
    assert weights(fit(tmp_path / "broken", data, experiment("esmm"), seed=1, resume=True)) == weights(unbroken)


@pytest.mark.slow
def test_a_killed_process_can_be_resumed(prepared: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        "[model]\nname = 'esmm'\n[train]\nepochs = 30\nbatch_size = 64\npatience = 0\ncheckpoint_steps = 10\n"
    )
    command = [sys.executable, "-m", "funnelcast", "train", str(file), "--data", str(prepared)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([*command, "--out", str(tmp_path / "killed")], env=environment)
    deadline = time.monotonic() + 60
    while not (tmp_path / "killed" / "checkpoint.json").exists():
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.01)
    time.sleep(0.2)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    for extra in (["--out", str(tmp_path / "killed"), "--resume"], ["--out", str(tmp_path / "whole")]):
        subprocess.run([*command, *extra], env=environment, check=True, capture_output=True)
    assert weights(Run(tmp_path / "killed")) == weights(Run(tmp_path / "whole"))
    assert not list((tmp_path / "killed").glob("checkpoint*"))


def test_same_seed_same_weights_other_seed_other_weights(prepared: Path, tmp_path: Path) -> None:
    data = PreparedData(prepared)
    runs = [fit(tmp_path / name, data, experiment("esmm"), seed=s) for name, s in [("a", 0), ("b", 0), ("c", 1)]]
    assert weights(runs[0]) == weights(runs[1]) != weights(runs[2])


def test_streaming_from_disk_gives_the_same_weights(prepared: Path, tmp_path: Path) -> None:
    data = PreparedData(prepared)
    in_memory = fit(tmp_path / "memory", data, experiment("esmm"))
    streamed = fit(tmp_path / "streamed", data, experiment("esmm", memory_gb=1e-9))
    assert weights(in_memory) == weights(streamed)


def test_the_best_epoch_is_kept_without_an_early_stop(prepared: Path, tmp_path: Path) -> None:
    """T6: the weights of the best epoch, not of the last, also when training never stops early."""
    data = PreparedData(prepared)
    run = fit(tmp_path / "run", data, experiment("mmoe", epochs=12, learning_rate=0.02))
    history = json.loads((run.folder / "history.json").read_text())
    scores = [epoch["valid_mean_ne"] for epoch in history["epochs"]]
    best = min(range(12), key=scores.__getitem__)
    assert len(scores) == 12 and history["best_epoch"] == best != 11, "the test needs a run that overfits"
    valid = funnel_metrics(score(run.load_model(), Loader(data, Split.VALID, 100)))
    assert sum(step["reach"]["ne"] for step in valid) / 2 == pytest.approx(scores[best], abs=1e-9)


def test_early_stop_waits_for_patience(prepared: Path, tmp_path: Path) -> None:
    run = fit(tmp_path / "run", PreparedData(prepared), experiment("mmoe", epochs=30, learning_rate=0.02, patience=2))
    history = json.loads((run.folder / "history.json").read_text())
    assert len(history["epochs"]) == history["best_epoch"] + 3 < 30


def test_test_rows_do_not_matter_for_training(make_prepared: Any, tmp_path: Path) -> None:
    """TEST is never opened: a training whose TEST shards are gone gives the same weights."""
    folder = make_prepared()
    data = PreparedData(folder)
    with_test = fit(tmp_path / "a", data, experiment("esmm"))
    (folder / "test" / "part-00000.parquet").unlink()
    assert weights(fit(tmp_path / "b", data, experiment("esmm"))) == weights(with_test)


def test_the_curve_says_on_how_many_rows_a_clip_binds(prepared: Path, tmp_path: Path) -> None:
    def shares(clip: float) -> list[list[float]]:
        model = Component(name="multi_ipw", options={"clip": clip, "hidden": (4,)})
        config = TrainConfig(epochs=4, batch_size=64, device="cpu", patience=0)
        run = fit(tmp_path / f"clip-{clip}", PreparedData(prepared), Experiment(name="m", model=model, train=config))
        points = json.loads((run.folder / "history.json").read_text())["loss"]
        return [point["clipped_share"]["transition_ips"] for point in points if "clipped_share" in point]

    assert shares(1.0) == [[0.0, 1.0]]  # 64 steps, one full window of 50; a clip of 1 binds on every row
    assert shares(0.0) == [[0.0, 0.0]]
    plain = fit(tmp_path / "plain", PreparedData(prepared), experiment("esmm", epochs=4))
    assert all("clipped_share" not in p for p in json.loads((plain.folder / "history.json").read_text())["loss"])


def test_a_diverging_loss_stops_with_advice(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def poisoned(loader: Loader, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        for batch in loader.in_order():
            yield Batch(batch.ids, batch.labels, batch.observed, batch.weight * float("inf"))

    monkeypatch.setattr(Loader, "epoch", poisoned)
    with pytest.raises(DataError, match=r"should be finite, received (nan|inf).*learning_rate"):
        fit(tmp_path / "run", PreparedData(prepared), experiment("esmm", batch_size=8))


@pytest.mark.parametrize("model", ["apem", "mmoe"])
def test_a_step_reads_nothing_back(prepared: Path, model: str) -> None:
    """On a GPU it would wait for the device; tensors without numbers refuse it."""
    data, meta = PreparedData(prepared), torch.device("meta")
    chosen = experiment(model)
    built = build_model(chosen, data.schema).train()
    losses = build_losses(chosen, data.schema, built)
    built.to(meta)
    optimizers = build_optimizers(built, chosen)
    batch = next(Loader(data, Split.TRAIN, 64).in_order()).to(meta)
    built.set_progress(0.5)
    objective(losses, built(batch.ids), batch).backward()
    assert optimizers.clip(1.0).device == meta
    with pytest.raises(RuntimeError, match="meta"):
        float(batch.labels.sum())


def test_a_taken_folder_is_refused(prepared: Path, tmp_path: Path) -> None:
    data = PreparedData(prepared)
    fit(tmp_path / "run", data, experiment("esmm"))
    with pytest.raises(ConfigError, match="a run is here already; use --resume"):
        fit(tmp_path / "run", data, experiment("esmm"))
    with pytest.raises(ConfigError, match="another experiment and seed"):
        fit(tmp_path / "run", data, experiment("mmoe"), seed=1, resume=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.doc").touch()
    for taken in (tmp_path / "other", tmp_path / "other" / "thesis.doc", tmp_path / "other" / "thesis.doc" / "run"):
        with pytest.raises(ConfigError, match="should be a new or empty folder"):
            fit(taken, data, experiment("esmm"))


def test_other_data_are_refused(make_prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Interruption(monkeypatch, 3)
    with pytest.raises(KeyboardInterrupt):
        fit(tmp_path / "run", PreparedData(make_prepared("one")), experiment("esmm"))
    with pytest.raises(ConfigError, match="the run there has another data"):
        fit(tmp_path / "run", PreparedData(make_prepared("two", seed=5)), experiment("esmm"), resume=True)


def test_a_second_process_is_refused(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = PreparedData(prepared)
    with monkeypatch.context() as patch:
        Interruption(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / "run", data, experiment("esmm"))
    with (
        Run(tmp_path / "run").lock(),
        pytest.raises(ArtifactError, match="another process is training in this folder"),
    ):
        fit(tmp_path / "run", data, experiment("esmm"), resume=True)


@pytest.mark.parametrize("name", ["weights.safetensors", "schema.json", "history.json"])
def test_a_damaged_run_is_refused(prepared: Path, tmp_path: Path, name: str) -> None:
    run = fit(tmp_path / "run", PreparedData(prepared), experiment("esmm"))
    path = run.folder / name
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=f"{name}: has changed or is damaged"):
        run.load_model()


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("run.json", "[]", "run.json: should be the record of a run, received JSON without keys"),
        ("run.json", '{"format": 1}', "run.json: should be the record of a run, but its key 'experiment' is missing"),
        ("schema.json", "{}", "schema.json: should be a schema, but key 'dataset': Field required$"),
    ],
)
def test_a_record_without_its_keys_is_refused(
    prepared: Path, tmp_path: Path, name: str, text: str, message: str
) -> None:
    run = fit(tmp_path / "run", PreparedData(prepared), experiment("esmm", epochs=1))
    (run.folder / name).write_text(text)
    with pytest.raises(ArtifactError, match=message):
        Run(run.folder)


def test_a_damaged_checkpoint_is_refused(prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = PreparedData(prepared)
    with monkeypatch.context() as patch:
        Interruption(patch, 3)
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path / "run", data, experiment("esmm"))
    (path,) = (tmp_path / "run").glob("checkpoint-*.safetensors")
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ArtifactError, match=r"checkpoint-3.safetensors: has changed or is damaged"):
        fit(tmp_path / "run", data, experiment("esmm"), resume=True)
    with pytest.raises(ArtifactError, match="training is not complete"):
        Run(tmp_path / "run").load_model()


def test_unknown_model_option_and_loss_are_named(prepared: Path, tmp_path: Path) -> None:
    data = PreparedData(prepared)
    wrong = experiment("esmm").model_copy(update={"losses": (Component(name="reach_bec"),)})
    with pytest.raises(Exception, match=r"unknown loss 'reach_bec'; did you mean 'reach_bce'\?"):
        fit(tmp_path / "a", data, wrong)
    wrong = experiment("esmm").model_copy(update={"model": Component(name="esmm", options={"hiden": [3]})})
    with pytest.raises(ConfigError, match=r"model 'esmm' has no option 'hiden'; did you mean 'hidden'\?"):
        fit(tmp_path / "b", data, wrong)
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()


def test_report_of_a_run(prepared: Path, tmp_path: Path) -> None:
    data = PreparedData(prepared)
    run = fit(tmp_path / "run", data, experiment("esmm"))
    report = evaluate(run, data, Split.TEST)
    assert report == json.loads((run.folder / "report.json").read_text())
    assert [step["name"] for step in report["steps"]] == ["click", "buy"]
    assert report["split"] == "test" and report["rows"] == 300 and report["model"] == "esmm"
    # Items 5..8 of 9 are clicked with 0.8, the others with 0.2; P(high | click) = 16/21, P(high | no click) = 1/6. So
    # the best AUC is 16/21 * 5/6 + (16/21 * 1/6 + 5/21 * 5/6) / 2 = 0.798; 300 rows leave a standard error of 0.026.
    assert report["steps"][0]["reach"]["auc"] == pytest.approx(0.798, abs=4 * 0.026)
    assert report["steps"][1]["transition"]["rows"] < report["steps"][0]["reach"]["positives"]
    assert report["steps"][1]["reach"]["rising_share"] == 0.0


def test_the_curve_holds_gamma_as_the_schedule_has_it(prepared: Path, tmp_path: Path) -> None:
    data = PreparedData(prepared)
    run = fit(tmp_path / "run", data, experiment("apem", epochs=4, batch_size=32, patience=0))  # 4 * 32 steps
    history = json.loads((run.folder / "history.json").read_text())
    curve = history["loss"]
    assert [point["step"] for point in curve] == [50, 100, 128]
    # Before step s, s - 1 of the 128 steps are done; gamma falls from 10 to 0 over half of them, and stops at 0.05.
    expected = [10 * (1 - 49 / 64), 0.05, 0.05]
    assert [point["model"]["gamma"] for point in curve] == pytest.approx(expected)
    done = 32 * (history["best_epoch"] + 1) - 1  # before the last step of the epoch whose weights are kept
    assert run.load_model().curve_point()["gamma"] == pytest.approx(max(10 * (1 - done / 64), 0.05))


def test_the_curve_of_a_model_without_a_schedule_has_losses_alone(prepared: Path, tmp_path: Path) -> None:
    run = fit(tmp_path / "run", PreparedData(prepared), experiment("esmm"))
    curve = json.loads((run.folder / "history.json").read_text())["loss"]
    assert [set(point) for point in curve] == [{"step", "rows", "loss"}]
