"""Which pairs of fields trees use together: the gain of every split, by its field and the field of the split above it.

A split below a split on another field is where an interaction can be learned: its gain is what knowing the second field
brings once the first is known. gain(a, b) = sum of the gains of splits on b right below a split on a, and of a below b.

python benchmarks/tree_interactions.py RUN [PAIRS] [columns]

With `columns` the statistics of a column count as the column itself, so that `tab` and `stat(tab).click` are one.
"""

from __future__ import annotations

import re
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import lightgbm

from funnelcast import Run
from funnelcast.files import read_json

Node = dict[str, Any]


def pair_gains(tree: Node, fields: list[str]) -> tuple[Counter[tuple[str, str]], Counter[str]]:
    """Add up the gains of a tree's splits by (field above, field) in alphabetical order, and by field.

    Args:
        tree: `tree_structure` of LightGBM's dump.
        fields: the field of each column.
    """
    pairs: Counter[tuple[str, str]] = Counter()
    singles: Counter[str] = Counter()
    waiting: list[tuple[Node, str | None]] = [(tree, None)]
    while waiting:
        node, above = waiting.pop()
        if "split_feature" not in node:
            continue
        field = fields[node["split_feature"]]
        singles[field] += node["split_gain"]
        if above is not None and above != field:
            pairs[min(above, field), max(above, field)] += node["split_gain"]
        waiting += [(node[child], field) for child in ("left_child", "right_child")]
    return pairs, singles


def column_of(field: str) -> str:
    """Name the raw column or columns that a field is made of, by our names of target statistics.

    Args:
        field: such as `tab` or `stat(user_id,tab).click`.
    """
    found = re.fullmatch(r"stat\((.*)\)\..*", field)
    return found[1] if found else field


def step_gains(run: Run, step: int, *, by_column: bool = False) -> tuple[Counter[tuple[str, str]], Counter[str]]:
    """Add up the gains of all trees of a step.

    Args:
        run: of the model `lightgbm`.
        step: number of the step.
        by_column: whether the statistics of a column count as the column.
    """
    fields = [column["field"] for column in read_json(run.folder / "trees.json", "columns of trees")["columns"]]
    fields = [column_of(field) for field in fields] if by_column else fields
    booster = lightgbm.Booster(model_file=str(run.folder / f"booster-{step}.txt"))
    pairs: Counter[tuple[str, str]] = Counter()
    singles: Counter[str] = Counter()
    for tree in booster.dump_model()["tree_info"]:
        own_pairs, own_singles = pair_gains(tree["tree_structure"], fields)
        pairs.update(own_pairs)
        singles.update(own_singles)
    return pairs, singles


def main(folder: Path, shown: int, *, by_column: bool) -> None:
    """Print the strongest pairs of each step, with their share of the gain of all splits."""
    run = Run(folder)
    for step, name in enumerate(run.schema.step_names):
        pairs, singles = step_gains(run, step, by_column=by_column)
        gain = sum(singles.values())
        print(f"\n{name}: {sum(pairs.values()) / gain:.1%} of the gain lies below a split on another field")
        for (one, other), value in pairs.most_common(shown):
            print(f"{value / gain:7.2%}  {one} x {other}")
        print("fields:", ", ".join(f"{field} {value / gain:.1%}" for field, value in singles.most_common(10)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 20, by_column="columns" in sys.argv[3:])
