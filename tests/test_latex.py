"""The leaderboard in LaTeX: hostile names, marks, and one row a line."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from funnelcast.latex import escape, to_latex
from funnelcast.tables import to_markdown

HOSTILE = "a_b & 100% \\input{/etc/passwd} ^~ #1 $x$ {open\n%|<i>"


def summary(mean: float, interval: list[float] | None = None, **test: Any) -> dict[str, Any]:
    record = {"mean": mean, "std": 0.01, "values": [mean], "undefined": 0, "interval": interval}
    return record | {"test": {"difference": 0.02, "paper_mark": False, "holm_mark": False, **test}}


@pytest.fixture
def board() -> dict[str, Any]:
    def row(name: str, auc: dict[str, Any]) -> dict[str, Any]:
        step = {"name": "buy", "reach": {"auc": auc, "auc_gain": None}, "transition": {"auc": auc, "auc_gain": None}}
        speeds = dict.fromkeys(("train_rows_per_second", "score_rows_per_second", "train_seconds"), 10.0)
        return {
            "experiment": name,
            "model": "ple",
            "parameters": 9,
            "runs": 2,
            "seeds": [0, 1],
            "steps": [step],
            **speeds,
        }

    return {
        "dataset": "sh_op",
        "split": "test",
        "row_count": 1000,
        "seeds": [0, 1],
        "baseline": None,
        "funnel": [{"name": "buy", "rows": 1000, "positives": 90, "local_rows": 1000, "local_positives": 90}],
        "rows": [
            row(HOSTILE, summary(0.72, [0.70, 0.74], paper_mark=True, holm_mark=True)),
            row("plain", summary(0.70, None, difference=-0.02, holm_mark=True)),
        ],
        "power": [
            {"step": "buy", "space": "reach", "positives": 90, "smallest_difference": 0.02, "sentence": "with 90"}
        ],
        "statistics": {"alpha": 0.05, "resamples": 1000, "clusters": "user"},
    }


def test_hostile_names_are_printed_as_they_are(board: dict[str, Any]) -> None:
    text = to_latex(board)
    name = text.splitlines()[6].split(r" & \shortstack")[0]
    assert name == (
        r"a\_b \& 100\% \textbackslash{}input\{/etc/passwd\} \textasciicircum{}\textasciitilde{} \#1 \$x\$ \{open "
        r"\%\textbar{}\textless{}i\textgreater{}"
    )
    assert r"sh\_op" in text


def test_marks_and_intervals(board: dict[str, Any]) -> None:
    first, second = to_latex(board).splitlines()[6:8]
    assert r"\shortstack[r]{\textbf{0.7200$^{*}$$^{*}$ $\pm$0.0100}\\\scriptsize 0.7000..0.7400 $^\dagger$}" in first
    assert r"\shortstack[r]{0.7000 $\pm$0.0100\\\scriptsize -}" in second  # worse for certain is no mark
    assert first.endswith(r" \\") and second.endswith(r" \\")
    assert "With 90." in to_latex(board)


def test_the_table_has_a_column_for_every_cell(board: dict[str, Any]) -> None:
    lines = to_latex(board).splitlines()
    columns = re.search(r"\{tabular\}\{(lr*)\}", lines[2])
    assert columns
    for line in (lines[4], lines[6], lines[7]):
        assert len(re.findall(r"(?<!\\)&", line)) == len(columns.group(1)) - 1


def test_markdown_has_the_same_marks(board: dict[str, Any]) -> None:
    assert r"**0.7200\*\* ±0.0100** [0.7000..0.7400 †]" in to_markdown(board)
    assert "1000 resamples by user. † better by seeds and rows (by user) together" in to_markdown(board)
    without = copy.deepcopy(board)
    without["statistics"]["resamples"] = 0
    assert "DeLong's variance by user" in to_markdown(without)


@given(st.text())
def test_no_text_can_open_anything(text: str) -> None:
    escaped = escape(text)
    assert "\n" not in escaped and "''" not in escaped and "--" not in escaped
    bare = re.sub(
        r"\\(text[a-z]+\{\}|char34\{\}|[&%$#_{}])|\{\[\}|\{\]\}|\$\^\{\*\}\$|\$\\pm\$|\$\^\\dagger\$|\{\}", "", escaped
    )
    assert not re.search(r"[\\&%$#_{}~^]", bare)


def test_pairs_that_would_be_drawn_as_one_sign() -> None:
    assert escape("a--b'''") == "a-{}-b'{}'{}'"
