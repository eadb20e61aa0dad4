"""Files larger than memory: parts, their order, what is refused, and going on after a kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.serving.raw_files import bundle, checksums, folder, names, raw_rows, scored_pieces

from funnelcast.errors import ArtifactError, ConfigError, DataError
from funnelcast.serving import Bundle, score_files
from funnelcast.serving.score_files import score_files as score

__all__ = ["bundle", "folder"]  # fixtures of another file

COLUMNS = ["reach_click", "transition_click", "reach_buy", "transition_buy", "model_version"]


def test_rows_keep_their_order_and_their_scores(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep" / "out"
    assert score(bundle, folder, out, keep=["key", "page"]) == 340
    parts = [pq.read_table(path) for path in sorted(out.glob("part-*.parquet"))]
    assert [part.num_rows for part in parts] == [80, 80, 90, 90]
    found, raw = pa.concat_tables(parts), pa.concat_tables([raw_rows(250, 0), raw_rows(90, 1)])
    assert found.column_names == ["key", "page", *COLUMNS]
    assert found["key"].to_pylist() == raw["key"].to_pylist() and found["page"].equals(raw["page"])
    scored = bundle.score(raw)
    np.testing.assert_allclose(found["reach_buy"].to_numpy(), scored.reach[:, 1], rtol=1e-5)
    np.testing.assert_allclose(found["transition_buy"].to_numpy(), scored.transition[:, 1], rtol=1e-5)
    assert found.schema.field("reach_click").type == pa.float32()
    assert set(found["model_version"].to_pylist()) == {bundle.version}
    assert names(out) == ["_PLAN.json", "_SUCCESS", *(f"part-{k:05d}.parquet" for k in range(4))]


def test_a_second_run_computes_nothing(
    bundle: Bundle, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score(bundle, folder, tmp_path / "out")
    before = checksums(tmp_path / "out")
    monkeypatch.setattr(Bundle, "score", lambda *_: pytest.fail("a part was computed again"))
    assert score(bundle, folder, tmp_path / "out") == 340
    assert checksums(tmp_path / "out") == before


def test_a_run_that_stopped_goes_on_where_it_was(
    bundle: Bundle, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score(bundle, folder, tmp_path / "whole")
    honest, calls = Bundle.score, iter(range(7))

    def tired(self: Bundle, table: pa.Table) -> Any:
        if next(calls, None) is None:
            raise KeyboardInterrupt
        return honest(self, table)

    monkeypatch.setattr(Bundle, "score", tired)
    with pytest.raises(KeyboardInterrupt):
        score(bundle, folder, tmp_path / "out")
    assert names(tmp_path / "out") == ["_PLAN.json", "part-00000.parquet", "part-00001.parquet"]
    assert not list((tmp_path / "out").glob(".part*"))
    (tmp_path / "out" / ".part-00002.1.tmp").write_bytes(b"left by a process that was killed")
    monkeypatch.setattr(Bundle, "score", honest)
    done = scored_pieces(monkeypatch)
    score(bundle, folder, tmp_path / "out")
    assert sum(done) == 340 - 160
    assert checksums(tmp_path / "out") == checksums(tmp_path / "whole")
    assert (tmp_path / "out" / "_SUCCESS").exists() and not list((tmp_path / "out").glob(".part*"))


@pytest.mark.slow
def test_a_killed_process_leaves_whole_parts(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    code = f"""
import time
from pathlib import Path
from funnelcast.serving import Bundle, plan, score_files, score_files_pieces
plan.PART_ROWS, score_files_pieces.PIECE_ROWS, score_files_pieces.READ_ROWS = 100, 30, 10
honest = Bundle.score
Bundle.score = lambda self, table: (time.sleep(0.15), honest(self, table))[1]
opened = Bundle.load(Path({str(bundle.folder)!r}))
score_files.score_files(opened, Path({str(folder)!r}), Path({str(tmp_path / "out")!r}))
"""
    child = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 60
    while not (tmp_path / "out" / "part-00001.parquet").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    assert not (tmp_path / "out" / "_SUCCESS").exists()
    kept = checksums(tmp_path / "out")
    assert 2 <= len(kept) < 4
    score(bundle, folder, tmp_path / "out")
    score(bundle, folder, tmp_path / "whole")
    assert checksums(tmp_path / "out") == checksums(tmp_path / "whole")
    assert kept.items() <= checksums(tmp_path / "out").items()


def test_a_plan_that_a_killed_process_left_half_written_is_no_obstacle(
    bundle: Bundle, folder: Path, tmp_path: Path
) -> None:
    left = tmp_path / "out" / "._PLAN.json.0123456789ab.tmp"
    left.parent.mkdir()
    left.write_text("{")
    score(bundle, folder, tmp_path / "out")
    assert not left.exists() and (tmp_path / "out" / "_SUCCESS").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".x.tmp").touch()
    with pytest.raises(ConfigError, match="but holds other files"):
        score(bundle, folder, tmp_path / "other")


def test_after_an_error_the_mended_files_can_be_scored(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    out, honest = tmp_path / "out", (folder / "day-0.parquet").read_bytes()
    rows = pq.read_table(folder / "day-0.parquet")
    pq.write_table(rows.set_column(rows.column_names.index("tags"), "tags", rows["page"]), folder / "day-0.parquet")
    with pytest.raises(DataError, match="column 'tags' should hold lists"):
        score(bundle, folder, out)
    (folder / "day-0.parquet").write_bytes(honest)
    score(bundle, folder, out)
    assert (out / "_SUCCESS").exists()


def test_one_file_and_no_rows(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    assert score(bundle, folder / "day-1.parquet", tmp_path / "one") == 90
    pq.write_table(raw_rows(40).slice(0, 0), tmp_path / "empty.parquet")
    assert score(bundle, tmp_path / "empty.parquet", tmp_path / "none", keep=["key"]) == 0
    table = pq.read_table(tmp_path / "none" / "part-00000.parquet")
    assert table.num_rows == 0 and table.column_names == ["key", *COLUMNS]
    assert names(tmp_path / "none") == ["_PLAN.json", "_SUCCESS", "part-00000.parquet"]


def test_other_input_or_options_in_the_same_folder_are_refused(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    score(bundle, folder, tmp_path / "out", keep=["key"])
    with pytest.raises(ConfigError, match="holds scores of another keep; choose another folder"):
        score(bundle, folder, tmp_path / "out")
    pq.write_table(raw_rows(90, 7), folder / "day-1.parquet", row_group_size=40)
    with pytest.raises(ConfigError, match=r"holds scores of other files \(day-1.parquet .*\); choose another"):
        score(bundle, folder, tmp_path / "out", keep=["key"])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "note").write_text("mine")
    with pytest.raises(ConfigError, match="should be a new or empty folder, but holds other files"):
        score(bundle, folder, tmp_path / "mine")
    with pytest.raises(ConfigError, match="should be a folder, received a file"):
        score(bundle, folder, tmp_path / "mine" / "note")


def test_wrong_files_are_named(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    rows = raw_rows(90, 1)
    cases: list[tuple[pa.Table, str]] = [
        (
            rows.drop_columns(["page"]),
            r"day-1.parquet: should have one column 'page' for the encoders, received none; known:",
        ),
        (rows.append_column("page", rows["page"]), r"one column 'page' for the encoders, received 2 of them"),
        (rows.set_column(2, "tags", rows["page"]), r"day-1.parquet: column 'tags' should hold lists, received type"),
    ]
    for number, (table, pattern) in enumerate(cases):
        pq.write_table(table, folder / "day-1.parquet")
        with pytest.raises(DataError, match=pattern):
            score(bundle, folder, tmp_path / f"out{number}")
        assert not (tmp_path / f"out{number}" / "_SUCCESS").exists()
    (folder / "day-1.parquet").write_bytes(b"PAR1 no such file")
    with pytest.raises(DataError, match=r"day-1.parquet: should be a Parquet file, received"):
        score(bundle, folder, tmp_path / "out")
    with pytest.raises(ConfigError, match="should be a Parquet file or a folder of them, but is none"):
        score(bundle, tmp_path / "nowhere.parquet", tmp_path / "out")
    (tmp_path / "bare").mkdir()
    with pytest.raises(ConfigError, match=r"should hold files named \*.parquet, received none"):
        score(bundle, tmp_path / "bare", tmp_path / "out")


@pytest.mark.parametrize(
    ("keep", "error", "pattern"),
    [
        (["reach_buy"], ConfigError, "received 'reach_buy', under which scores are written"),
        (["key", "key"], ConfigError, "should name a column once, received 'key' again"),
        (["keyy"], DataError, "should have one column 'keyy' for --keep, received none; did you mean 'key'"),
    ],
)
def test_wrong_columns_to_keep(bundle: Bundle, folder: Path, keep: list[str], error: Any, pattern: str) -> None:
    with pytest.raises(error, match=pattern):
        score(bundle, folder, folder.parent / "out", keep=keep)
    assert not (folder.parent / "out").exists()


def test_damaged_parts_and_a_second_writer_are_refused(bundle: Bundle, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    score(bundle, folder, out)
    whole = (out / "part-00001.parquet").read_bytes()
    (out / "part-00001.parquet").write_bytes(whole[:100])
    with pytest.raises(ArtifactError, match=r"part-00001.parquet: is damaged, remove it"):
        score(bundle, folder, out)
    (out / "part-00001.parquet").write_bytes((out / "part-00002.parquet").read_bytes())
    with pytest.raises(ArtifactError, match=r"part-00001.parquet: should have 80 rows, received 90; remove it"):
        score(bundle, folder, out)
    (out / "part-00001.parquet").unlink()
    with score_files._lock(out), pytest.raises(ArtifactError, match="another process is writing scores there"):
        score(bundle, folder, out)
    score(bundle, folder, out)
    assert (out / "part-00001.parquet").read_bytes() == whole


def test_the_command(bundle: Bundle, folder: Path, tmp_path: Path, command: Any) -> None:
    code, out, _ = command("score", str(bundle.folder), str(folder), str(tmp_path / "out"), "--keep", "key")
    assert code == 0 and out.strip() == f"scored 340 rows into {tmp_path / 'out'}, model version {bundle.version}"
    code, _, error = command("score", str(tmp_path), str(folder), str(tmp_path / "out2"))
    assert code == 2 and "manifest.json: should be the manifest of a bundle, but does not exist" in error
