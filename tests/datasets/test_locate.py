"""Every recipe says what is missing, where to get it and under which terms."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from funnelcast.errors import DataError
from funnelcast.registry import DATASETS

FILES = {
    "kuairand": "impressions.parquet",
    "retrosheet": "pitches.parquet",
    "ga4": "sessions.parquet",
    "hillstrom": "emails.parquet or emails.csv",
    "ali_ccp": "sample_skeleton_train.csv",
    "aliexpress": "train.csv, test.csv",
}


def test_every_dataset_states_terms_and_origin_and_is_tested_here() -> None:
    assert set(DATASETS.names()) == {"synthetic", *FILES}
    for name in DATASETS.names():
        recipe = DATASETS.get(name)
        assert len(recipe.terms) > 20
        assert len(recipe.where) > 20


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("given", ["nothing", "empty folder", "no such path"])
def test_a_missing_file_is_named_with_origin_and_terms(name: str, given: str, tmp_path: Path) -> None:
    source = {"nothing": None, "empty folder": tmp_path, "no such path": tmp_path / "elsewhere"}[given]
    recipe = DATASETS.get(name)
    with pytest.raises(DataError) as caught:
        recipe().describe(source, tmp_path / "work")
    message = str(caught.value)
    assert FILES[name] in message
    assert recipe.where in message
    assert recipe.terms in message
    assert source is None or str(source) in message
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("name", ["kuairand", "retrosheet", "ga4", "hillstrom"])
def test_a_file_of_another_layout_is_refused(name: str, tmp_path: Path) -> None:
    path = tmp_path / "other.parquet"
    pq.write_table(pa.table({"purchase": [0, 1], "colour": ["red", "blue"]}), path)
    with pytest.raises(DataError) as caught:
        DATASETS.get(name)().describe(path, tmp_path)
    assert f"{path}: should have the column(s) " in str(caught.value)
    assert str(caught.value).endswith("received only purchase, colour")
    if name == "ga4":
        assert "column(s) device_category, geo_country, channel_source, channel_medium, view_item" in str(caught.value)

    path.write_text("no parquet at all")
    with pytest.raises(DataError, match=r"other\.parquet: should be a readable"):
        DATASETS.get(name)().describe(path, tmp_path)
    assert sorted(tmp_path.iterdir()) == [path]
