"""funnelcast's side: the loop of `funnelcast train` on the prepared folder, with every default but the sizes."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from funnelcast.process import prepare_process

prepare_process()  # before torch

import torch  # noqa: E402
from benchmarks.peers import sizes  # noqa: E402
from benchmarks.peers.worker import answer  # noqa: E402

from funnelcast.config import Experiment  # noqa: E402
from funnelcast.data.shards import PreparedData  # noqa: E402
from funnelcast.interrupt import Interrupt  # noqa: E402
from funnelcast.progress import RowProgress  # noqa: E402
from funnelcast.run import build_model, create_run  # noqa: E402
from funnelcast.train import State, build_losses, set_up, train_epoch  # noqa: E402

OPTIONS: dict[str, dict[str, Any]] = {
    "shared_bottom": {"bottom": sizes.HIDDEN, "tower": sizes.TOWER},
    "esmm": {"hidden": sizes.ESMM_HIDDEN},
    "aitm": {"hidden": sizes.HIDDEN, "dropout": 0.0},
    "mmoe": {"experts": sizes.EXPERTS, "expert": sizes.HIDDEN, "tower": sizes.TOWER},
    "ple": {
        "levels": sizes.LEVELS,
        "own_experts": sizes.OWN_EXPERTS,
        "shared_experts": sizes.SHARED_EXPERTS,
        "expert_hidden": sizes.HIDDEN,
        "tower_hidden": sizes.TOWER,
    },
}


def main(name: str, data_folder: str, precision: str) -> None:
    """Answer on stdin."""
    data = PreparedData(Path(data_folder))
    experiment = Experiment.model_validate(
        {
            "name": name,
            "model": {"name": name, **OPTIONS[name]},
            "train": {
                "batch_size": sizes.BATCH,
                "learning_rate": sizes.LEARNING_RATE,
                "precision": precision,
                "device": "cpu",
            },
        }
    )
    torch.manual_seed(0)
    model = build_model(experiment, data.schema)
    with tempfile.TemporaryDirectory() as folder:
        run = create_run(Path(folder) / "run", data, experiment, 0, resume=False)
        parts, state = set_up(run, data, model, build_losses(experiment, data.schema, model)), State()

        def epoch() -> None:
            with Interrupt() as interrupt, RowProgress(name, parts.train.rows) as progress:
                train_epoch(parts, state, torch.zeros(()), progress, interrupt)
            parts.optimizers.flush()  # what is put off until the end of an epoch belongs to it
            state.epoch, state.batch = state.epoch + 1, 0

        answer(model, epoch)


if __name__ == "__main__":
    main(*sys.argv[1:])
