"""Which calibration makes every reach right: four models in three simulated funnels, fitted on VALID, measured on TEST.

`separate` is what the joint calibration is held against: every transition calibrated on its own local space, and the
product taken for the reach. `python -m benchmarks.calibration` takes a few minutes and prints means over the 12 models.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

from funnelcast.calibration import METHODS, Calibration, StepMap
from funnelcast.calibration_fit import fit_calibration, fit_linear
from funnelcast.config import Component, Experiment, TrainConfig
from funnelcast.data.loader import Loader
from funnelcast.data.prepare import prepare
from funnelcast.data.shards import PreparedData
from funnelcast.data.split import Split
from funnelcast.datasets.synthetic import Synthetic
from funnelcast.evaluate import SCORING_ROWS, score
from funnelcast.scores import Scores, funnel_metrics
from funnelcast.train import fit

ROWS = 60_000
# Transition rates, their agreement and the hidden confounder.
WORLDS = [((0.2, 0.3, 0.4), 0.5, 0.0), ((0.2, 0.3, 0.4), 0.5, 1.5), ((0.3, 0.8, 0.9), -0.5, 0.0)]
BOTTOM = {"bottom": [32], "tower": []}
MODELS = {
    "esmm": Component(name="esmm", options={"hidden": [32]}),
    "apem": Component(name="apem", options={"inducing_points": 4, "layers": 1}),
    "reach": Component(name="shared_bottom", options={**BOTTOM, "head": "reach"}),
    "monotone": Component(name="shared_bottom", options={**BOTTOM, "head": "monotone"}),
}


def separate(scores: Scores) -> Calibration:
    """Calibrate each transition by itself on its local space."""
    maps = []
    for step in range(len(scores.steps)):
        rows = scores.rows_of(step, "transition")
        z = (scores.log_transition - scores.log_not_transition)[rows, step].astype(np.float64)
        ones, label = np.ones(len(z)), scores.labels[rows, step].astype(np.float64)
        slope, intercept = fit_linear(
            np.stack([z, ones], 1), ones, label, np.array([1.0, 0.0]), np.array([True, False])
        )
        if slope <= 0:  # scores that order the local rows wrongly: their rate
            slope, intercept = 1e-9, np.log(label.mean()) - np.log1p(-label.mean())
        maps.append(StepMap(float(slope), float(intercept)))
    return Calibration("joint", scores.steps, tuple(maps), {})


def measure(scores: Scores) -> list[float]:
    """For steps 2 and 3: error of the sum to the truth, ECE by rate, NE and AUC of reach, NE of the transition."""
    assert scores.true_reach is not None
    sums = np.exp(scores.log_reach, dtype=np.float64).sum(0) / scores.true_reach.sum(0, dtype=np.float64)
    values: list[float] = []
    for step, ratio in list(zip(funnel_metrics(scores), sums, strict=True))[1:]:
        reach: dict[str, Any] = step["reach"]
        rate = reach["positives"] / reach["rows"]
        values += [abs(ratio - 1), reach["ece"] / rate, reach["ne"], reach["auc"], step["transition"]["ne"]]
    return values


def main() -> None:
    found: dict[str, list[list[float]]] = defaultdict(list)
    for rates, agreement, confounder in WORLDS:
        with tempfile.TemporaryDirectory() as name:
            work = Path(name)
            world = Synthetic(rows=ROWS, seed=5, rates=rates, agreement=agreement, confounder=confounder, drift=0.5)
            prepare(world.describe(None, work), work / "data")
            data = PreparedData(work / "data")
            for label, model in MODELS.items():
                epochs = 1 if label == "apem" else 3
                train = TrainConfig(epochs=epochs, patience=0, batch_size=512, learning_rate=3e-3, device="cpu")
                run = fit(work / label, data, Experiment(name=label, model=model, train=train))
                valid, test = (
                    score(run.load_model(), Loader(data, s, SCORING_ROWS)) for s in (Split.VALID, Split.TEST)
                )
                found["none"].append(measure(test))
                found["separate"].append(measure(separate(valid).scores(test)))
                for method in METHODS:
                    found[method].append(measure(fit_calibration(valid, method).scores(test)))
    print("             step 2: sum/truth ECE/rate  NE      AUC     transition NE | step 3")
    for name, rows in found.items():
        mean = np.mean(rows, axis=0)
        print(f"{name:12}", *(f"{v:.4f}" for v in mean[:5]), "|", *(f"{v:.4f}" for v in mean[5:]))


if __name__ == "__main__":
    main()
