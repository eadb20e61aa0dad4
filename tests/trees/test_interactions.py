"""The gains of pairs on a tree drawn by hand."""

from __future__ import annotations

from collections import Counter

from benchmarks.tree_interactions import column_of, pair_gains


def split(feature: int, gain: float, left: object = None, right: object = None) -> dict[str, object]:
    leaf = {"leaf_value": 0.0}
    return {
        "split_feature": feature,
        "split_gain": gain,
        "left_child": left or leaf,
        "right_child": right or leaf,
    }


def test_gains_of_pairs_by_hand() -> None:
    fields = ["user", "tab", "tab"]  # two columns of one field
    tree = split(0, 10.0, split(1, 4.0, split(2, 3.0), split(0, 2.0)), split(0, 1.0, None, split(2, 0.5)))
    pairs, singles = pair_gains(tree, fields)
    assert pairs == Counter({("tab", "user"): 4.0 + 2.0 + 0.5})  # tab below tab and user below user are no pairs
    assert singles == Counter({"user": 13.0, "tab": 7.5})


def test_a_tree_of_one_leaf_has_none() -> None:
    assert pair_gains({"leaf_value": 0.1}, ["user"]) == (Counter(), Counter())


def test_statistics_belong_to_their_columns() -> None:
    assert [column_of(field) for field in ("tab", "stat(tab).click", "stat(user_id,tab).count")] == [
        *("tab", "tab", "user_id,tab")
    ]
