"""DeepCTR-Torch's side: its feature columns, models and `fit`; it has no AITM.

Its L2 terms are set to 0 and its gates have no hidden layer: no other side has them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from benchmarks.peers import sizes
from benchmarks.peers.worker import Rows, answer, read_rows
from deepctr_torch.inputs import SparseFeat
from deepctr_torch.models import ESMM, MMOE, PLE, SharedBottom


def build(name: str, rows: Rows) -> Any:
    """Build a model of the common sizes."""
    fields = [SparseFeat(f"f{i}", vocabulary_size=size, embedding_dim=sizes.WIDTH) for i, size in enumerate(rows.sizes)]
    plain: dict[str, Any] = {"l2_reg_linear": 0, "l2_reg_embedding": 0}
    towers = {"tower_dnn_hidden_units": sizes.TOWER}
    if name == "shared_bottom":
        return SharedBottom(fields, bottom_dnn_hidden_units=sizes.HIDDEN, **towers, **plain)
    if name == "esmm":
        return ESMM(fields, tower_dnn_hidden_units=sizes.ESMM_HIDDEN, **plain)
    experts = {"expert_dnn_hidden_units": sizes.HIDDEN, "gate_dnn_hidden_units": ()}
    if name == "mmoe":
        return MMOE(fields, num_experts=sizes.EXPERTS, **experts, **towers, **plain)
    counts = {"shared_expert_num": sizes.SHARED_EXPERTS, "specific_expert_num": sizes.OWN_EXPERTS}
    return PLE(fields, num_levels=sizes.LEVELS, **counts, **experts, **towers, **plain)


def main(name: str, path: str) -> None:
    """Answer on stdin."""
    rows = read_rows(Path(path))
    columns = {f"f{number}": column for number, column in enumerate(rows.ids.T.copy())}
    torch.manual_seed(0)
    model = build(name, rows)
    model.compile(
        torch.optim.Adam(model.parameters(), lr=sizes.LEARNING_RATE), loss=["binary_crossentropy"] * len(sizes.STEPS)
    )
    answer(model, lambda: model.fit(columns, rows.labels, batch_size=sizes.BATCH, epochs=1, verbose=0))


if __name__ == "__main__":
    main(*sys.argv[1:])
