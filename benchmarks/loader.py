"""The loader alone: 4 M rows of 23 fields and 2 labels, shuffled, in batches of 1024, from memory and from the shards.

python -m benchmarks.loader

The rows are prepared once into build/bench-loader (about 0.3 GB, half a minute) and kept.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import torch
from benchmarks.measure import Figure, alternate, run_benchmark
from benchmarks.prepare import describe, generate
from torch.utils.data import DataLoader, TensorDataset

from funnelcast import PreparedData, Split
from funnelcast.data.loader import Loader
from funnelcast.data.prepare import prepare

WORK = Path("build/bench-loader")
SOURCE_ROWS = 5_000_000  # four fifths of them are TRAIN
BATCH = 1024


def prepared() -> PreparedData:
    """Prepare the rows of `benchmarks/prepare.py`, unless that is done."""
    folder = WORK / "prepared"
    if not (folder / "manifest.json").exists():
        WORK.mkdir(parents=True, exist_ok=True)
        source = WORK / "source.parquet"
        generate(source, SOURCE_ROWS)
        prepare(describe(source), folder)
        source.unlink()
    return PreparedData(folder)


def go_through(loader: Loader) -> None:
    """Take every batch of an epoch and nothing else."""
    rows = sum(len(batch.labels) for batch in loader.epoch(seed=0, epoch=0))
    assert rows == loader.rows


def go_through_torch(loader: DataLoader[tuple[torch.Tensor, ...]], expected: int) -> None:
    """Do the same with torch's loader."""
    rows = sum(len(labels) for _, labels in loader)
    assert rows == expected


def figures(threads: int) -> list[Figure]:
    """Measure an epoch in memory against torch's loader, and a streamed one against memory."""
    torch.set_num_threads(threads)
    data = prepared()
    memory, streamed = Loader(data, Split.TRAIN, BATCH), Loader(data, Split.TRAIN, BATCH, memory_bytes=1)
    assert memory.in_memory and not streamed.in_memory
    rows = data.read(data.row_groups(Split.TRAIN))
    torchs = DataLoader(TensorDataset(rows.ids, rows.labels), batch_size=BATCH, shuffle=True)
    ours = alternate({"memory": partial(go_through, memory)})
    # Torch's loader takes half a minute for an epoch, so it runs less often.
    theirs = alternate({"torch": partial(go_through_torch, torchs, memory.rows)}, repeats=1, warm_up=0)
    wall = alternate(
        {"memory": partial(go_through, memory), "streamed": partial(go_through, streamed)}, clock=time.perf_counter
    )
    columns = f"{data.schema.width} fields, {data.schema.n_steps} labels, batches of {BATCH}"
    speed = {name: memory.rows / seconds for name, seconds in (ours | theirs).items()}
    wall_speed = {name: memory.rows / seconds for name, seconds in wall.items()}
    return [
        Figure(
            "loader",
            speed["memory"],
            speed["torch"],
            "rows/s",
            None,
            f"in memory against torch's DataLoader(shuffle=True), {memory.rows:,} rows, {columns}; aim 4 M rows/s",
        ),
        Figure(
            "loader_streamed",
            wall_speed["streamed"],
            wall_speed["memory"],
            "rows/s",
            None,
            f"from {len(data.row_groups(Split.TRAIN))} row groups against memory, {columns}; wall time, since a second "
            "thread reads ahead; aim 2 M rows/s",
        ),
    ]


if __name__ == "__main__":
    run_benchmark(figures, __doc__)
