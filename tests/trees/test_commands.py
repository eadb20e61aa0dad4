"""A tree experiment beside a neural one, from raw rows to scores, by the commands and in Python."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from funnelcast import Funnel
from funnelcast.cli import main

DATASET = """
source = { files = ["logs.parquet"] }
steps = [{ name = "click" }, { name = "buy" }]
features = [{ names = ["item", "page"] }, { name = "price", kind = "numeric" }]
split = { kind = "hash", column = "row", valid = 0.2, test = 0.2 }
"""


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with raw rows, a dataset file and two experiments."""
    draw, rows = np.random.default_rng(7), 1500
    item, page = draw.integers(0, 6, rows), draw.integers(0, 2, rows)
    click = draw.random(rows) < np.where((item > 2) == (page == 1), 0.8, 0.2)  # neither column alone says anything
    columns = {"row": np.arange(rows), "item": item, "page": page, "price": draw.gamma(2.0, 10.0, rows)}
    columns |= {"click": click.astype(np.int8), "buy": (click & (draw.random(rows) < 0.5)).astype(np.int8)}
    pq.write_table(pa.table(columns), tmp_path / "logs.parquet")
    (tmp_path / "shop.toml").write_text(DATASET)
    (tmp_path / "logistic.toml").write_text('model = { name = "logistic" }\ntrain = { epochs = 1, device = "cpu" }\n')
    (tmp_path / "trees.toml").write_text(
        'model = { name = "lightgbm", rounds = 40, num_leaves = 6, largest_category = 9 }\n'
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr(sys, "argv", ["funnelcast", *words])
    with pytest.raises(SystemExit) as caught:
        main()
    return int(caught.value.code or 0)


@pytest.mark.slow
def test_compare_evaluate_predict(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "prepare", "shop.toml", "data") == 0
    both = ["compare", "logistic.toml", "trees.toml", "--data", "data", "--out", "out", "--seeds", "1"]
    assert run(monkeypatch, *both, "--jobs", "2") == 0
    rows = json.loads((work / "out" / "leaderboard.json").read_text())["rows"]
    plain, trees = (row["steps"][0]["reach"]["auc"]["mean"] for row in rows)
    assert plain < 0.6 < 0.7 < trees  # an interaction, which a sum over fields cannot learn
    assert rows[1]["train_rows_per_second"] > 0 and rows[1]["parameters"] > 40
    assert (work / "out" / "report.html").stat().st_size > 1000
    folder = "out/runs/trees-seed0"
    assert run(monkeypatch, "evaluate", folder, "--split", "valid") == 0
    assert run(monkeypatch, "predict", folder, "logs.parquet", "scored.parquet") == 0
    scored = pq.read_table(work / "scored.parquet")
    reach = scored["reach_click"].to_numpy()
    assert reach[scored["click"].to_numpy() == 1].mean() > reach[scored["click"].to_numpy() == 0].mean() + 0.1
    assert run(monkeypatch, "train", "trees.toml", "--data", "data", "--out", "own") == 0
    assert run(monkeypatch, "models") == 0
    assert "lightgbm_local" in capsys.readouterr().out


def test_mistakes_end_with_one_line(
    work: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "prepare", "shop.toml", "data") == 0
    words = ["train", "trees.toml", "--data", "data", "--out", "own"]
    assert run(monkeypatch, *words, "--set", "train.epochs=3") == 2
    assert run(monkeypatch, *words, "--set", "model.num_leafs=3") == 2
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    assert run(monkeypatch, *words) == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert [line.split(": ")[0] for line in errors] == ["error"] * 3
    assert "'train.epochs' should be left out" in errors[0]
    assert "did you mean 'num_leaves'?" in errors[1]
    assert errors[2].endswith("pip install 'funnelcast[trees]'")
    assert not (work / "own").exists()


def test_in_python(work: Path) -> None:
    frame = pq.read_table(work / "logs.parquet").drop_columns(["row"])
    funnel = Funnel("lightgbm", options={"rounds": 40, "largest_category": 9}).fit(frame, steps=["click", "buy"])
    assert funnel.report is not None and funnel.report["steps"][0]["reach"]["auc"] > 0.7
    funnel.save(work / "saved")
    assert Funnel.load(work / "saved").predict(frame) == funnel.predict(frame)
