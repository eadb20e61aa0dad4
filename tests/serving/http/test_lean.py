"""`funnelcast serve` in an installation without PyTorch, PyArrow and what else it can do without."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.serving.http.processes import Process, serving

from funnelcast.data import encode_categories
from funnelcast.data.encode import Encoders, Quantile, Vocabulary
from funnelcast.errors import ConfigError
from funnelcast.experiment.exposure import exposure_columns
from funnelcast.serving import Bundle

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LEAN = [line for line in (ROOT / "requirements-serve.txt").read_text().splitlines() if not line.startswith("#")]
MODULES = {"scikit-learn": "sklearn"}
ABSENT = [
    MODULES.get(name, name)
    for name in (re.split(r"[^\w-]", one)[0] for one in PROJECT["dependencies"] if one not in LEAN)
]
CODE = f"""
import sys
sys.modules.update(dict.fromkeys({[*ABSENT, "onnx", "onnxscript", "pandas", "polars"]!r}))
from funnelcast.cli import main
main()
"""


def test_the_list_has_the_bounds_of_the_package() -> None:
    serve = PROJECT["optional-dependencies"]["serve"]
    assert set(serve) <= set(LEAN) <= {*serve, *PROJECT["dependencies"]}
    assert sorted(LEAN) == LEAN and {"torch", "pyarrow", "duckdb", "sklearn"} <= set(ABSENT)


@pytest.fixture(scope="module")
def lean(first: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    with serving(tmp_path_factory.mktemp("lean"), str(first), start=("-c", CODE)) as service:
        yield service


@pytest.mark.parametrize("rows", [1, 40, 416])
def test_it_gives_the_same_scores(lean: Process, first: Path, shop: Path, rows: int) -> None:
    bundle = Bundle.load(first)
    raw = pq.read_table(shop / "rows.parquet").select(bundle.encoders.raw_columns()).cast(bundle.golden.raw.schema)
    raw = pa.concat_tables([bundle.golden.raw, raw]).slice(0, rows)
    assert raw.num_rows == rows
    status, _, said = lean.ask("POST", "/v1/score", json.dumps({"candidates": raw.to_pylist()}))
    assert status == 200, said
    answer = json.loads(said)
    reach = np.array([answer["reach"][step] for step in answer["steps"]]).T
    np.testing.assert_allclose(reach, bundle.score(raw).reach, rtol=0, atol=1e-6)


def test_it_never_loads_what_is_absent_and_logs_as_json(first: Path, tmp_path: Path) -> None:
    text = f'[exposures]\nfolder = "{tmp_path / "log"}"\nformat = "jsonl"\n'
    with serving(tmp_path, str(first), text=text, start=("-c", CODE)) as service:
        assert service.score(user="ann") == 200
        assert service.ask("POST", "/v1/score", json.dumps({"candidates": [{"tags": 1.5}]}))[0] == 400
        mapped = {one.path for one in psutil.Process(service.process.pid).memory_maps()}
        assert any("onnxruntime" in path for path in mapped) and not [path for path in mapped if "arrow" in path]
        service.stop()
    (log,) = (tmp_path / "log").iterdir()
    (line,) = map(json.loads, log.read_text().splitlines())
    assert list(line) == [column.name for column in exposure_columns("latency_ms", "error")]
    assert line["user"] == "ann" and line["error"] is None and line["latency_ms"] > 0


def test_tensors_are_scored_too(lean: Process, first: Path) -> None:
    bundle = Bundle.load(first)
    columns = json.loads(lean.ask("GET", "/v2/models/first")[2])["inputs"]
    raw = bundle.golden.raw.slice(4, 3)
    inputs = []
    for column in columns:
        values = raw[column["name"]].to_pylist()
        width = max(len(value or []) for value in values) if len(column["shape"]) == 2 else 0
        data = [[*(value or []), *[None] * width][:width] for value in values] if width else values
        inputs.append({**column, "shape": [3, width] if len(column["shape"]) == 2 else [3], "data": data})
    status, _, said = lean.ask("POST", "/v2/models/first/infer", json.dumps({"inputs": inputs}))
    assert status == 200, said
    outputs = {one["name"]: one["data"] for one in json.loads(said)["outputs"]}
    found = np.array([outputs[f"reach_{step}"] for step in bundle.schema.step_names]).T
    np.testing.assert_allclose(found, bundle.golden.scored.reach[4:7], rtol=0, atol=1e-5)


def test_other_commands_say_what_is_missing(tmp_path: Path) -> None:
    words = [sys.executable, "-c", CODE, "prepare", "synthetic", str(tmp_path / "data")]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert (
        done.stderr
        == "error: this command needs 'duckdb', which is not installed; install all by: pip install funnelcast\n"
    )


def test_encoders_that_need_pyarrow_say_so() -> None:
    encoders = Encoders([Vocabulary("a", "x", pa.array(["1", "2"])), Quantile("b", "x", (1.0,))])
    with pytest.raises(ConfigError, match="reads as a number what another one reads as text, which needs PyArrow"):
        encoders.few_rows()


@pytest.mark.parametrize("value", [None, "", "a", 0.0, 1.5, False])
def test_a_vocabulary_read_without_pyarrow_has_values_of_its_type(
    value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encode_categories, "has_arrow", lambda: False)
    data = Vocabulary("a", "x", pa.array([1, 2])).to_json()
    assert Vocabulary.from_json(data).to_json() == data
    with pytest.raises(ValueError, match=f"a vocabulary of the type 'int64' that is {value!r}"):
        Vocabulary.from_json(data | {"values": [1, value]})
