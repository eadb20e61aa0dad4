"""Retrosheet: every pitch of two baseball seasons as a funnel."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from funnelcast.data.description import Description, Feature
from funnelcast.datasets._locate import by_date, describe_parquet
from funnelcast.registry import DATASETS

__all__ = ["Retrosheet"]

PEOPLE = ("batter_id", "pitcher_id", "catcher_id", "umpire_home_id")
CATEGORIES = (
    *("park_id", "day_night", "wind_dir", "sky", "precip", "visiting_team", "home_team", "is_home_batting", "inning"),
    *("batter_bats", "batting_order", "batter_field_pos", "pitcher_throws", "balls", "strikes"),
    *("pitch_number_in_pa", "previous_pitch_code", "pickoff_throws_in_pa", "times_faced_in_game"),
)


@DATASETS.register
class Retrosheet:
    """Retrosheet pitches, 2021 and 2022: pitch -> swing -> contact -> in_play -> hit -> extra_base_hit.

    One row is one pitch thrown; no step can happen without the former one. Every feature is known before the pitch:
    counts include the pitch or the meeting itself, never what came of it. Train up to 2022-06-30, valid July, test from
    2022-08-01.

    Args:
        min_count: a player or umpire seen less often on TRAIN becomes unknown, >= 1.
        buckets: equal-mass buckets of the pitcher's pitch count, >= 2.
    """

    terms: ClassVar[str] = (
        "Free for any use with this notice: The information used here was obtained free of charge from and is "
        "copyrighted by Retrosheet. Interested parties may contact Retrosheet at 20 Sunset Rd., Newark, DE 19711."
    )
    where: ClassVar[str] = (
        "event files and rosters of the seasons 2021 and 2022 at https://www.retrosheet.org, with the pitch sequences "
        "written out as one row a pitch into pitches.parquet; docs/datasets.md lists the columns."
    )

    def __init__(self, *, min_count: int = 20, buckets: int = 32) -> None:
        self.features = (
            *(Feature(name=name, min_count=min_count) for name in PEOPLE),
            *(Feature(name=name) for name in CATEGORIES),
            Feature(name="pitcher_pitch_count", kind="numeric", encoder="quantile", buckets=buckets),
            Feature(name="temp_f", kind="numeric", encoder="quantile", buckets=8),
            Feature(name="wind_speed_mph", kind="numeric", encoder="log_round"),
        )

    def describe(self, source: Path | None, work: Path) -> Description:  # noqa: ARG002
        """Describe `pitches.parquet`.

        Args:
            source: the file or its folder.
            work: not used.

        Raises:
            DataError: the file is missing or lacks columns.
        """
        return describe_parquet(
            type(self),
            source,
            "pitches.parquet",
            steps=("swing", "contact", "in_play", "hit", "extra_base_hit"),
            features=self.features,
            split=by_date("game_date", "2022-07-01", "2022-08-01"),
            user="batter_id",
            time="game_date",
        )
