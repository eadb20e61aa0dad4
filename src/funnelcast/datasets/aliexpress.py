"""AliExpress: clicks and purchases after a search, one dataset a country."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import duckdb

from funnelcast.data.description import ColumnSplit, Description, Feature, Labels, Source, StepColumn
from funnelcast.data.sql import connect, identifier, literal
from funnelcast.datasets._locate import locate_folder
from funnelcast.errors import ConfigError, DataError
from funnelcast.registry import DATASETS

__all__ = ["AliExpress"]

CATEGORIES = tuple(f"categorical_{number}" for number in range(1, 17))
NUMBERS = tuple(f"numerical_{number}" for number in range(1, 64))
STEPS = ("click", "conversion")
SEARCH = "search_id"
FILES = ("train.csv", "test.csv")
PROTOCOL = "official_split"
_MEMORY, _THREADS = 1 << 30, 1  # the rows go through as a stream, in their order


@DATASETS.register
class AliExpress:
    """AliExpress search log of one country: impression -> click -> conversion.

    16 categories and 63 numbers; train and test are the published files. The public benchmark has no VALID and stops
    early on test; here VALID is a stable tenth of the training file, whole searches by the MD5 of `search_id`. GAUC is
    measured within a search.

    NOTE[paper]: the public models read the numbers as they are; here each number becomes one of `buckets` ids, as every
    model of this package reads ids.

    Args:
        country: `NL`, `ES`, `FR` or `US`; the dataset's name becomes `aliexpress_nl` and so on.
        buckets: equal-mass buckets of each numeric field, >= 2.
        valid_percent: share of the training file's searches for VALID, in 1..50.

    Raises:
        ConfigError: an option is out of its range.

    Source: Li et al., Improving Multi-Scenario Learning to Rank in E-commerce by Exploiting Task Relationships in the
        Label Space, CIKM 2020 (the data); easezyc/Multitask-Recommendation-Library (the layout and the split).

    Example:
        >>> len(AliExpress(country="ES").features)
        79
    """

    terms: ClassVar[str] = "The terms of Alibaba's Tianchi platform; credit Li et al., CIKM 2020."
    where: ClassVar[str] = (
        "https://tianchi.aliyun.com/dataset/74690, in the layout of Multitask-Recommendation-Library: one folder a "
        "country with train.csv and test.csv."
    )

    def __init__(
        self, *, country: Literal["NL", "ES", "FR", "US"] = "NL", buckets: int = 32, valid_percent: int = 10
    ) -> None:
        if not 1 <= valid_percent <= 50:
            raise ConfigError(
                f"dataset 'aliexpress': option 'valid_percent' should be in 1..50, received {valid_percent}"
            )
        self.country = country
        self.features = (
            *(Feature(name=name) for name in CATEGORIES),
            *(Feature(name=name, kind="numeric", encoder="quantile", buckets=buckets) for name in NUMBERS),
        )
        self._valid = f"md5_number_lower(CAST({SEARCH} AS VARCHAR)) % 100 < {valid_percent}"

    def describe(self, source: Path | None, work: Path) -> Description:
        """Write the rows with their part into `work` and describe them.

        Args:
            source: the country's folder, or the folder that holds `AliExpress_<country>`.
            work: folder for `aliexpress_train.parquet` and `aliexpress_test.parquet`.

        Raises:
            DataError: a file is missing, unreadable, or lacks columns.
        """
        below = None if source is None else source / f"AliExpress_{self.country}"
        raw = locate_folder(type(self), below if below is not None and below.is_dir() else source, FILES)
        rules = {"train": f"CASE WHEN {self._valid} THEN 'valid' ELSE 'train' END", "test": literal("test")}
        paths = [work / f"aliexpress_{part}.parquet" for part in rules]
        for (part, rule), path in zip(rules.items(), paths, strict=True):
            _add_split(raw[f"{part}.csv"], rule, path)
        return Description(
            name=f"aliexpress_{self.country.lower()}",
            source=Source(files=tuple(str(path) for path in paths), format="parquet"),
            features=self.features,
            steps=tuple(StepColumn(name=step) for step in STEPS),
            split=ColumnSplit(kind="column", column="split"),
            user=SEARCH,
            labels=Labels(violations="drop"),
            protocol=PROTOCOL,
        )


def _add_split(raw: Path, rule: str, path: Path) -> None:
    """Copy the used columns of a file, in the order of its rows, with the part of each row."""
    types = dict.fromkeys((SEARCH, *CATEGORIES), "BIGINT") | dict.fromkeys(NUMBERS, "DOUBLE")
    types |= dict.fromkeys(STEPS, "TINYINT")
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        with connect(path.with_name(f".{path.name}.spill"), _MEMORY, _THREADS) as connection:
            text = f"read_csv({literal(str(raw))}, header = true, delim = ',', all_varchar = true)"
            found = [row[0] for row in connection.execute(f"DESCRIBE SELECT * FROM {text}").fetchall()]
            missing = [column for column in types if column not in found]
            if missing:
                raise DataError(
                    f"{raw}: should have the column(s) {', '.join(missing)}, received only {', '.join(found)}"
                )
            cells = [_cell(name, kind) for name, kind in types.items()]
            rows = f"SELECT {', '.join(cells)} FROM {text}"
            query = f"SELECT *, {rule} AS split FROM ({rows})"
            connection.execute(f"COPY ({query}) TO {literal(str(temporary))} (FORMAT parquet)")
        temporary.replace(path)
    except duckdb.Error as error:
        raise DataError(f"{raw}: should be a readable table, received: {str(error).splitlines()[0]}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _cell(name: str, kind: str) -> str:
    """SQL of a column with a type; whole numbers may be written as 3 or as 3.0."""
    number = f"CAST({identifier(name)} AS DOUBLE)"
    return f"{number if kind == 'DOUBLE' else f'CAST({number} AS {kind})'} AS {identifier(name)}"
