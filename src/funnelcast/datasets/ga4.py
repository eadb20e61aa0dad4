"""Google Analytics 4 sample: sessions of a web shop."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from funnelcast.data.description import Description, Feature
from funnelcast.datasets._locate import by_date, describe_parquet
from funnelcast.registry import DATASETS

__all__ = ["Ga4"]

FIELDS = ("device_category", "geo_country", "channel_source", "channel_medium")


@DATASETS.register
class Ga4:
    """Google Merchandise Store sessions: session -> view_item -> begin_checkout -> add_payment_info -> purchase.

    One row is one session between 2020-11 and 2021-01; the time is known to the week. Train up to the week of
    2020-12-28, valid the two weeks from 2021-01-04, test from 2021-01-18. Checkout rates fall by half after Christmas,
    so calibration on TEST is hard.

    Args:
        min_count: a country or source seen less often on TRAIN becomes unknown, >= 1.
    """

    terms: ClassVar[str] = (
        "Google's public, obfuscated sample export; no licence comes with the tables made of it. Use it for tests and "
        "benchmarks, do not publish it as a product."
    )
    where: ClassVar[str] = (
        "the BigQuery public dataset ga4_obfuscated_sample_ecommerce, brought to one row a session in "
        "sessions.parquet; docs/datasets.md lists the columns."
    )

    def __init__(self, *, min_count: int = 5) -> None:
        self.features = tuple(Feature(name=name, min_count=min_count) for name in FIELDS)

    def describe(self, source: Path | None, work: Path) -> Description:  # noqa: ARG002
        """Describe `sessions.parquet`.

        Args:
            source: the file or its folder.
            work: not used.

        Raises:
            DataError: the file is missing or lacks columns.
        """
        return describe_parquet(
            type(self),
            source,
            "sessions.parquet",
            steps=("view_item", "begin_checkout", "add_payment_info", "purchase"),
            features=self.features,
            split=by_date("week_start_date", "2021-01-04", "2021-01-18"),
            time="week_start_date",
        )
