"""Ali-CCP: clicks and purchases of an e-commerce site, the classic benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from funnelcast.data.description import ColumnSplit, Description, Feature, Labels, Source, StepColumn
from funnelcast.data.sql import bytes_of, literal
from funnelcast.datasets._ali_ccp_raw import RawFields, RawFiles, write_joined
from funnelcast.datasets._locate import locate_folder
from funnelcast.errors import ConfigError, choices
from funnelcast.registry import DATASETS

__all__ = ["AliCcp"]

COMMON = ("101", "121", "122", "124", "125", "126", "127", "128", "129")
SKELETON = ("205", "206", "207", "216", "508", "509", "702", "853", "301")
COMMON_LISTS = ("109_14", "110_14", "127_14", "150_14")
SKELETON_LISTS = ("210",)
FILES = tuple(f"{kind}_{part}.csv" for part in ("train", "test") for kind in ("sample_skeleton", "common_features"))
PROTOCOL = {"min_count": 12, "multi": False, "valid_by": "sample", "valid_percent": 10}
KEYS = {"sample": "CAST(sample_id AS VARCHAR)", "common": "common_key"}


@DATASETS.register
class AliCcp:
    """Ali-CCP by the AITM recipe: impression -> click -> purchase.

    18 single-valued fields, the first value of each; ids rarer than `min_count` are unknown; rows with a purchase but
    no click are dropped and counted; VALID is a stable random tenth of the training file; TEST is the official test
    file.

    NOTE[paper]: AITM's text keeps ids seen more than 10 times; its code starts to count at 0 and so keeps those seen 12
    times or more, which gives the published 1,283,090 ids. The default follows the code; 11 follows the text. Ids are
    counted on TRAIN alone here, not on TRAIN and VALID together, and missing ids differ from rare ones.

    Args:
        protocol: `aitm` names the recipe above, so that results may stand beside those published under it; the other
            options must then be left at their defaults, the last two excepted. None by default.
        min_count: an id seen less often on TRAIN becomes unknown, >= 1.
        multi: also use the multi-valued fields 210, 109_14, 110_14, 127_14 and 150_14 (ids alone, without weights).
        max_length: values kept of a multi-valued field, from the front, >= 1.
        valid_by: what falls into VALID together: a `sample`, or all samples of one `common` line, that is of one user
            state.
        valid_percent: share of the training file for VALID, in 1..50.
        missing_common: what to do with a sample whose common line is missing: `refuse` the files, or set the common
            fields to `null`.
        memory_limit: what the join may hold; the rest spills into the work folder.

    Raises:
        ConfigError: an option is out of its range.

    Source: Xi et al., Modeling the Sequential Dependence among Audience Multi-step Conversions with Multi-task Learning
        in Targeted Display Advertising, KDD 2021, section 4.1; Ma et al., Entire Space Multi-Task Model, SIGIR 2018.

    Example:
        >>> len(AliCcp().features), len(AliCcp(multi=True).features)
        (18, 23)
    """

    terms: ClassVar[str] = "The terms of Alibaba's Tianchi platform; credit Ma et al., SIGIR 2018."
    where: ClassVar[str] = (
        "https://tianchi.aliyun.com/dataset/408, unpacked into one folder (about 41 GB): " + ", ".join(FILES) + "."
    )

    def __init__(
        self,
        *,
        protocol: Literal["aitm"] | None = None,
        min_count: int = 12,
        multi: bool = False,
        max_length: int = 20,
        valid_by: Literal["sample", "common"] = "sample",
        valid_percent: int = 10,
        missing_common: Literal["refuse", "null"] = "refuse",
        memory_limit: str = "2GB",
    ) -> None:
        if valid_by not in KEYS:
            raise ConfigError(f"dataset 'ali_ccp': option 'valid_by': {choices(KEYS, valid_by)}")
        if missing_common not in ("refuse", "null"):
            raise ConfigError(
                f"dataset 'ali_ccp': option 'missing_common': {choices(('refuse', 'null'), missing_common)}"
            )
        if not 1 <= valid_percent <= 50:
            raise ConfigError(f"dataset 'ali_ccp': option 'valid_percent' should be in 1..50, received {valid_percent}")
        given = {"min_count": min_count, "multi": multi, "valid_by": valid_by, "valid_percent": valid_percent}
        self.protocol = protocol
        for option, value in given.items() if protocol is not None else ():
            if value != PROTOCOL[option]:
                raise ConfigError(
                    f"dataset 'ali_ccp': option '{option}' should be {PROTOCOL[option]!r} under protocol '{protocol}', "
                    f"received {value!r}"
                )
        self.fields = RawFields(
            skeleton=SKELETON,
            common=COMMON,
            skeleton_lists=SKELETON_LISTS if multi else (),
            common_lists=COMMON_LISTS if multi else (),
            max_length=max_length,
            require_common=missing_common == "refuse",
        )
        self.features = (
            *(Feature(name=name, min_count=min_count) for name in (*COMMON, *SKELETON)),
            *(
                Feature(name=name, kind="multi", min_count=min_count, max_length=max_length)
                for name in (*self.fields.skeleton_lists, *self.fields.common_lists)
            ),
        )
        self._valid = f"md5_number_lower({KEYS[valid_by]}) % 100 < {valid_percent}"
        self._memory = bytes_of(memory_limit)

    def describe(self, source: Path | None, work: Path) -> Description:
        """Join the raw files into `work` and describe them.

        Args:
            source: the folder with the four raw files.
            work: folder for `ali_ccp_train.parquet` and `ali_ccp_test.parquet`; the join spills there too.

        Raises:
            DataError: a file is missing, a line is malformed, or a sample lacks its common line.
        """
        raw = locate_folder(type(self), source, FILES)
        rules = {"train": f"CASE WHEN {self._valid} THEN 'valid' ELSE 'train' END", "test": literal("test")}
        paths = []
        for part, rule in rules.items():
            files = RawFiles(raw[f"sample_skeleton_{part}.csv"], raw[f"common_features_{part}.csv"])
            paths.append(work / f"ali_ccp_{part}.parquet")
            write_joined(files, self.fields, rule, paths[-1], self._memory)
        return Description(
            name="ali_ccp",
            source=Source(files=tuple(str(path) for path in paths), format="parquet"),
            features=self.features,
            steps=(StepColumn(name="click"), StepColumn(name="purchase")),
            split=ColumnSplit(kind="column", column="split"),
            user="101",
            labels=Labels(violations="drop"),
            protocol=self.protocol,
        )
