"""The command line from raw rows to scores, and twenty wrong inputs with one clear error each."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.conftest import Command

DATASET = """
name = "shop"
[source]
files = ["logs.parquet"]
[[steps]]
name = "click"
[[steps]]
name = "buy"
[[features]]
names = ["item", "page"]
[[features]]
name = "price"
kind = "numeric"
[split]
kind = "hash"
column = "row"
valid = 0.2
test = 0.2
"""

EXPERIMENT = """
[model]
name = "esmm"
hidden = [8]
[train]
epochs = 1
batch_size = 128
device = "cpu"
"""


def logs(rows: int = 1200) -> pa.Table:
    draw = np.random.default_rng(7)
    item = draw.integers(0, 6, rows)
    click = draw.random(rows) < 0.2 + 0.1 * item
    return pa.table(
        {
            "row": np.arange(rows),
            "item": item,
            "page": np.array(["home", "search"])[draw.integers(0, 2, rows)],
            "price": draw.gamma(2.0, 10.0, rows),
            "click": click.astype(np.int8),
            "buy": (click & (draw.random(rows) < 0.5)).astype(np.int8),
        }
    )


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with raw rows, a dataset file and an experiment file, and the working directory."""
    pq.write_table(logs(), tmp_path / "logs.parquet")
    (tmp_path / "shop.toml").write_text(DATASET)
    (tmp_path / "esmm.toml").write_text(EXPERIMENT)
    (tmp_path / "single_task.toml").write_text(EXPERIMENT.replace("esmm", "single_task"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ok(result: tuple[int, str, str]) -> str:
    code, out, err = result
    assert code == 0, err
    return out


def test_from_raw_rows_to_scores(work: Path, command: Command) -> None:
    assert "prepared shop in data" in ok(command("prepare", "shop.toml", "data"))
    assert "trained esmm" in ok(command("train", "esmm.toml", "--data", "data", "--out", "run", "--seed", "1"))
    out = ok(command("evaluate", "run"))
    assert "buy" in out and "transition" in out
    report = json.loads(Path("run/report.json").read_text())
    assert report["seed"] == 1 and report["split"] == "test"
    ok(command("evaluate", "run", "--split", "valid"))
    assert json.loads(Path("run/report.json").read_text())["split"] == "valid"

    raw = logs().drop_columns(["click", "buy"]).slice(0, 100)
    raw = raw.select(["price", "row", "page", "item"])  # another order of columns
    pq.write_table(raw, "new.parquet")
    assert "scored 100 rows" in ok(command("predict", "run", "new.parquet", "scored.parquet"))
    scored = pq.read_table("scored.parquet")
    assert scored.column_names == [
        *raw.column_names, "reach_click", "transition_click", "reach_buy", "transition_buy",
    ]  # fmt: skip
    product = scored["transition_click"].to_numpy() * scored["transition_buy"].to_numpy()
    np.testing.assert_allclose(scored["reach_buy"].to_numpy(), product, rtol=1e-5)


def test_compare_writes_table_and_report_and_goes_on(work: Path, command: Command) -> None:
    ok(command("prepare", "shop.toml", "data"))
    words = ["compare", "single_task.toml", "esmm.toml", "--data", "data", "--out", "out", "--seeds", "2"]
    out = ok(command(*words))
    assert out.count("reach AUC") >= 4 and "taken from an earlier call" not in out
    board = json.loads(Path("out/leaderboard.json").read_text())
    assert [row["experiment"] for row in board["rows"]] == ["single_task", "esmm"]
    assert board["baseline"] == "single_task" and board["seeds"] == [0, 1]
    first = {p.name: p.read_bytes() for p in Path("out").glob("leaderboard.*")}
    assert len(first) == 4 and Path("out/report.html").stat().st_size > 10_000
    again = ok(command(*words))
    assert again.count("taken from an earlier call") == 4
    assert {p.name: p.read_bytes() for p in Path("out").glob("leaderboard.*")} == first


@pytest.mark.slow
def test_compare_in_two_processes_gives_the_same_table(work: Path, command: Command) -> None:
    ok(command("prepare", "shop.toml", "data"))
    words = ["compare", "single_task.toml", "esmm.toml", "--data", "data", "--seeds", "1"]
    ok(command(*words, "--out", "one"))
    ok(command(*words, "--out", "two", "--jobs", "2"))
    steps = [
        [row["steps"] for row in json.loads(Path(out, "leaderboard.json").read_text())["rows"]]
        for out in ("one", "two")
    ]
    assert steps[0] == steps[1]


def test_lists(command: Command) -> None:
    out = ok(command("models"))
    assert all(name in out for name in ("apem", "single_task", "shared_bottom", "mmoe", "esmm", "dependence"))
    out = ok(command("datasets"))
    assert all(name in out for name in ("synthetic", "kuairand", "retrosheet", "ga4", "hillstrom", "ali_ccp"))
    out = ok(command("doctor"))
    assert "fused Adam │ works" in out and ("no CUDA device" in out or "cuda       │ none" not in out)
    assert ok(command("--version")).strip() == "0.1.0"


def test_set_changes_an_option(work: Path, command: Command) -> None:
    ok(command("prepare", "shop.toml", "data"))
    ok(
        command(
            "train",
            "esmm.toml",
            "--data",
            "data",
            "--out",
            "run",
            "--set",
            "train.epochs=2",
            "--set",
            "model.hidden=[4, 3]",
        )
    )
    record = json.loads(Path("run/run.json").read_text())["experiment"]
    assert record["train"]["epochs"] == 2 and record["model"]["options"] == {"hidden": [4, 3]}


def test_brackets_in_names_are_text(work: Path, command: Command) -> None:
    text = DATASET.replace('name = "buy"', 'name = "buy [red]"\ncolumn = "buy"').replace("logs.parquet", "logs.p*")
    Path("shop.toml").write_text(text)
    Path("esmm.toml").rename("a[-b].toml")
    assert "buy [red] positives" in ok(command("prepare", "shop.toml", "data"))
    out = ok(command("compare", "a[-b].toml", "--data", "data", "--out", "out[/x]", "--seeds", "1"))
    assert "a[-b] seed 0: reach AUC" in out and "report in out[/x]/report.html" in out
    assert "buy [red]" in ok(command("evaluate", "out[/x]/runs/a[-b]-seed0"))


def test_an_interrupted_training_names_the_whole_command(
    work: Path, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    ok(command("prepare", "shop.toml", "my data"))

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("funnelcast.train.fit", interrupted)
    words = ("train", "esmm.toml", "--data", "my data", "--out", "run", "--seed", "3", "--set", "train.epochs=2")
    code, _, err = command(*words)
    assert code == 130
    known = "train esmm.toml --data 'my data' --out run --seed 3 --set train.epochs=2 --resume"
    assert err.strip() == f"stopped; go on with: funnelcast {known}"
    assert command(*words, "--resume")[2] == err


def changed(file: str, old: str, new: str) -> Callable[[], None]:
    """An edit of a file in the working directory."""

    def edit() -> None:
        text = Path(file).read_text()
        assert old in text
        Path(file).write_text(text.replace(old, new))

    return edit


def rows(function: Callable[[pa.Table], pa.Table]) -> Callable[[], None]:
    """An edit of the raw rows."""
    return lambda: pq.write_table(function(logs()), "logs.parquet")


def column(table: pa.Table, name: str, values: object) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, pa.array(values))


PREPARE = ("prepare", "shop.toml", "data")
WRONG: dict[str, tuple[Callable[[], object], tuple[str, ...], str]] = {
    # dataset file
    "dataset file missing": (
        lambda: None,
        ("prepare", "shp.toml", "data"),
        "shp.toml: should be a TOML file, but does not exist",
    ),
    "unknown key": (changed("shop.toml", 'kind = "hash"', 'kind = "hash"\nsalt2 = "x"'), PREPARE, "salt2"),
    "unknown kind": (changed("shop.toml", '"numeric"', '"numerical"'), PREPARE, "'categorical', 'numeric' or 'multi'"),
    "label as feature": (changed("shop.toml", '"page"]', '"page", "buy"]'), PREPARE, "label or truth of step 'buy'"),
    "unknown column": (changed("shop.toml", '"page"]', '"pgae"]'), PREPARE, "did you mean 'page'?"),
    "file without match": (changed("shop.toml", "logs.parquet", "lags.parquet"), PREPARE, "lags.parquet"),
    "option of another encoder": (
        changed("shop.toml", 'kind = "numeric"', 'kind = "numeric"\nmin_count = 3'),
        PREPARE,
        "'min_count' does not belong",
    ),
    # data
    "text in a numeric feature": (
        changed("shop.toml", 'name = "price"', 'name = "row2"\ncolumn = "page"'),
        PREPARE,
        "page",
    ),
    "label of 2": (rows(lambda t: column(t, "buy", np.r_[2, np.zeros(1199, np.int8)].astype(np.int8))), PREPARE, "buy"),
    "broken funnel": (rows(lambda t: column(t, "buy", np.ones(1200, np.int8))), PREPARE, "violations"),
    "step without a positive": (rows(lambda t: column(t, "buy", np.zeros(1200, np.int8))), PREPARE, "buy"),
    "not a Parquet file": (lambda: Path("logs.parquet").write_bytes(b"PAR1 nonsense PAR1"), PREPARE, "logs.parquet"),
    "empty split": (
        changed(
            "shop.toml",
            'kind = "hash"\ncolumn = "row"\nvalid = 0.2\ntest = 0.2',
            'kind = "time"\ncolumn = "row"\nvalid_from = 600\ntest_from = 5000',
        ),
        PREPARE,
        "test",
    ),
    # experiment file
    "unknown model": (
        changed("esmm.toml", '"esmm"', '"esm"'),
        ("train", "esmm.toml", "--data", "data", "--out", "run"),
        "unknown model 'esm'; did you mean 'esmm'?",
    ),
    "unknown model option": (
        changed("esmm.toml", "hidden", "hiden"),
        ("train", "esmm.toml", "--data", "data", "--out", "run"),
        "no option 'hiden'; did you mean 'hidden'?",
    ),
    "unknown training key": (
        changed("esmm.toml", "epochs", "epoch"),
        ("train", "esmm.toml", "--data", "data", "--out", "run"),
        "unknown key 'train.epoch'; did you mean 'epochs'?",
    ),
    "value out of range": (
        changed("esmm.toml", "epochs = 1", "epochs = 0"),
        ("train", "esmm.toml", "--data", "data", "--out", "run"),
        "greater than or equal to 1; received 0",
    ),
    # command line
    "no prepared folder named": (lambda: None, ("train", "esmm.toml", "--out", "run"), "should be given by --data"),
    "not a prepared folder": (
        lambda: None,
        ("train", "esmm.toml", "--data", ".", "--out", "run"),
        "should be the manifest of a prepared folder",
    ),
    "set without a value": (
        lambda: None,
        ("train", "esmm.toml", "--data", "data", "--out", "run", "--set", "train.epochs"),
        "should be key=value, received 'train.epochs'",
    ),
    "set of no section": (
        lambda: None,
        ("train", "esmm.toml", "--data", "data", "--out", "run", "--set", "schedule.lr=1"),
        "should begin with one of 'train.', 'optimizer.', 'model.'",
    ),
    "unknown dataset": (
        lambda: None,
        ("prepare", "kuairnd", "data"),
        "unknown dataset 'kuairnd'; did you mean 'kuairand'?",
    ),
    "unknown dataset option": (
        lambda: None,
        ("prepare", "synthetic", "data", "--set", "rowz=5"),
        "no option 'rowz'; did you mean 'rows'?",
    ),
    "source of a named dataset missing": (
        lambda: None,
        ("prepare", "kuairand", "data", "--source", "nowhere.parquet"),
        "nowhere.parquet",
    ),
    "not a run": (lambda: None, ("evaluate", "data0"), "should be the record of a run, but does not exist"),
    "unknown split": (
        lambda: None,
        ("evaluate", "data0", "--split", "dev"),
        "--split should be one of train, valid, test, received 'dev'",
    ),
    "name that leaves the folder": (
        lambda: None,
        ("compare", "esmm.toml", "--data", "data", "--out", "out", "--set", "name=../../esmm"),
        "key 'name': should serve as a folder's name",
    ),
    "empty name": (
        lambda: None,
        ("train", "esmm.toml", "--data", "data", "--out", "run", "--set", "name="),
        "key 'name': should serve as a folder's name",
    ),
    "infinite training option": (
        lambda: None,
        ("train", "esmm.toml", "--data", "data", "--out", "run", "--set", "train.gradient_clip=inf"),
        "key 'train.gradient_clip': Input should be a finite number; received inf",
    ),
    "infinite model option": (
        lambda: None,
        ("train", "esmm.toml", "--data", "data", "--out", "run", "--set", 'model={name="apem", gamma_share=inf}'),
        "option 'gamma_share' should be finite, received inf",
    ),
    "a file for a run": (
        lambda: None,
        ("evaluate", "esmm.toml"),
        "should be the record of a run, but cannot be read: Not a directory",
    ),
    "a file below a file": (
        lambda: None,
        ("train", "esmm.toml/plan.toml", "--data", "data", "--out", "run"),
        "should be a TOML file, but cannot be read: Not a directory",
    ),
    "same experiment twice": (
        lambda: None,
        ("compare", "esmm.toml", "esmm.toml", "--data", "data", "--out", "out"),
        "names should be unique",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_inputs(work: Path, command: Command, case: str) -> None:
    edit, words, message = WRONG[case]
    if words[0] in ("train", "compare"):
        ok(command(*PREPARE))
    before = set(work.rglob("*"))
    edit()
    code, _, err = command(*words)
    assert code == 2, err
    assert message in err
    assert err.startswith("error: ") and err.count("\n") == 1, err
    assert set(work.rglob("*")) == before, "a wrong input leaves something behind"
