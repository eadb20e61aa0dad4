"""torch-rechub's side: its features, models, DataGenerator and MTLTrainer.

Its MLPs have batch norm after every layer, which is no option. Its weight decay is set to 0: no other side has one.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from benchmarks.peers import sizes
from benchmarks.peers.worker import Rows, answer, read_rows
from torch_rechub.basic.features import SparseFeature
from torch_rechub.models.multi_task import AITM, ESMM, MMOE, PLE, SharedBottom
from torch_rechub.trainers import MTLTrainer
from torch_rechub.utils.data import DataGenerator


def build(name: str, rows: Rows) -> Any:
    """Build a model of the common sizes."""
    fields = [SparseFeature(f"f{i}", vocab_size=size, embed_dim=sizes.WIDTH) for i, size in enumerate(rows.sizes)]
    types = ["classification"] * len(sizes.STEPS)
    body, towers = {"dims": [*sizes.HIDDEN]}, [{"dims": [*sizes.TOWER]} for _ in types]
    if name == "shared_bottom":
        return SharedBottom(fields, types, body, towers)
    if name == "esmm":
        half, hidden = len(fields) // 2, {"dims": [*sizes.ESMM_HIDDEN]}
        return ESMM(fields[:half], fields[half:], hidden, hidden)
    if name == "aitm":
        return AITM(fields, len(types), body, [{"dims": []} for _ in types])
    if name == "mmoe":
        return MMOE(fields, types, sizes.EXPERTS, body, towers)
    return PLE(fields, types, sizes.LEVELS, sizes.OWN_EXPERTS, sizes.SHARED_EXPERTS, body, towers)


def main(name: str, path: str) -> None:
    """Answer on stdin."""
    rows = read_rows(Path(path))
    labels = rows.labels
    if name == "esmm":  # it wants the transition first and does not train it
        labels = labels[:, [1, 0, 1]]
    columns = {f"f{number}": column for number, column in enumerate(rows.ids.T.copy())}
    loader, _, _ = DataGenerator(columns, labels).generate_dataloader(
        x_val=columns, y_val=labels, x_test=columns, y_test=labels, batch_size=sizes.BATCH
    )
    torch.manual_seed(0)
    model = build(name, rows)
    trainer = MTLTrainer(
        model,
        ["classification"] * labels.shape[1],
        optimizer_params={"lr": sizes.LEARNING_RATE, "weight_decay": 0.0},
        n_epoch=1,
    )
    answer(model, lambda: trainer.train_one_epoch(loader))


if __name__ == "__main__":
    main(*sys.argv[1:])
