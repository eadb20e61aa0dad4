"""KuaiRand-Pure: what a short-video app showed, and what its users did."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from funnelcast.data.description import Description, Feature, TargetStatistics
from funnelcast.datasets._locate import by_date, describe_parquet
from funnelcast.errors import ConfigError, choices
from funnelcast.registry import DATASETS

__all__ = ["Kuairand"]

IDS = ("user_id", "video_id", "author_id", "music_id")
CATEGORIES = (
    *("tab", "hour", "video_type", "upload_dt", "upload_type", "music_type", "server_width", "server_height"),
    *("user_active_degree", "is_live_streamer", "is_video_author"),
    *("follow_user_num_range", "fans_user_num_range", "friend_user_num_range", "register_days_range"),
    *(f"onehot_feat{index}" for index in range(18)),
)
NUMBERS = ("duration_ms", "video_duration", "follow_user_num", "fans_user_num", "friend_user_num", "register_days")


@DATASETS.register
class Kuairand:
    """KuaiRand-Pure, 2022-04-25 to 05-08: impression -> click -> long_view -> engage.

    One row is one video shown to one user by the normal recommender. Train up to 05-03, valid 05-04 and 05-05, test
    from 05-06 (dates of China). A like, follow, comment or forward counts as `engage` only after a long view. The
    columns `outcome_*` came after the impression and are never features.

    Args:
        min_count: a user, video, author or music id seen less often on TRAIN becomes unknown, >= 1.
        buckets: equal-mass buckets of each numeric field, >= 2.
        tags: values of `video_tags` kept, >= 1; no video has more than 3.
        statistics: columns whose mean labels on TRAIN become fields too; `a*b` is a pair of columns.

    Raises:
        ConfigError: a statistic names a column that is not a feature.

    Source: Gao et al., KuaiRand: An Unbiased Sequential Recommendation Dataset with Randomly Exposed Videos, CIKM 2022.

    Example:
        >>> Kuairand(statistics=("user_id", "video_id*tab")).statistics[1].columns
        ('video_id', 'tab')
    """

    terms: ClassVar[str] = "CC BY-SA 4.0; credit Gao et al., CIKM 2022, and keep the licence."
    where: ClassVar[str] = (
        "KuaiRand-Pure at https://kuairand.com, its standard log from 2022-04-25 on joined with the user and the basic "
        "video features into impressions.parquet; docs/datasets.md lists the columns."
    )

    def __init__(
        self, *, min_count: int = 5, buckets: int = 32, tags: int = 3, statistics: tuple[str, ...] = ()
    ) -> None:
        known = (*IDS, *CATEGORIES)
        keys = [tuple(statistic.split("*")) for statistic in statistics]
        for column in (column for key in keys for column in key):
            if column not in known:
                raise ConfigError(
                    f"dataset 'kuairand': option 'statistics' should name categorical features, "
                    f"received '{column}'; {choices(known, column)}"
                )
        self.statistics = tuple(TargetStatistics(columns=key) for key in keys)
        self.features = (
            *(Feature(name=name, min_count=min_count) for name in IDS),
            *(Feature(name=name) for name in CATEGORIES),
            Feature(name="video_tags", kind="multi", separator=",", max_length=tags),
            *(Feature(name=name, kind="numeric", encoder="quantile", buckets=buckets) for name in NUMBERS),
        )

    def describe(self, source: Path | None, work: Path) -> Description:  # noqa: ARG002
        """Describe `impressions.parquet`.

        Args:
            source: the file or its folder.
            work: not used.

        Raises:
            DataError: the file is missing or lacks columns.
        """
        return describe_parquet(
            type(self),
            source,
            "impressions.parquet",
            steps=("click", "long_view", "engage"),
            features=self.features,
            split=by_date("date", "2022-05-04", "2022-05-06"),
            user="user_id",
            time="time_utc",
            target_statistics=self.statistics,
        )
