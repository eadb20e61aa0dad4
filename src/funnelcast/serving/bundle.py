"""A bundle: an exported model with all that scoring raw rows needs, in one checked folder.

```
manifest.json     format, target, checksums of all files
model.onnx        or model.pt2
schema.json       the fields and the funnel
encoders.json     what raw rows pass through
calibration.json  where the run has one
golden.json       rows with their ids and scores
README.md         the model card
```
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from funnelcast.arrow import pa
from funnelcast.calibration import Calibration
from funnelcast.data.encode import Encoders
from funnelcast.data.ids import Ids, ids_matrix
from funnelcast.errors import ArtifactError
from funnelcast.files import sha256
from funnelcast.schema import Schema
from funnelcast.serving.golden import Golden
from funnelcast.serving.manifest import MANIFEST, Manifest
from funnelcast.serving.scorer import ROWS, OnnxScorer, Scored, Scorer, finish

__all__ = ["Bundle", "open_bundle"]


class Bundle:
    """What scores raw rows; made by `Bundle.load`.

    Args:
        folder: where it was read.
        manifest: its files.
        schema: the fields and the funnel.
        encoders: what raw rows pass through.
        calibration: applied to the model's log-odds, or None.
        golden: rows with their scores.
        scorer: the exported model.

    Attributes:
        version: twelve digits of the manifest's checksum, and so of all files: what a score can be traced back by.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        schema: Schema,
        encoders: Encoders,
        calibration: Calibration | None,
        golden: Golden,
        scorer: Scorer,
    ) -> None:
        self.folder, self.manifest, self.schema, self.encoders = folder, manifest, schema, encoders
        self.calibration, self.golden, self._scorer = calibration, golden, scorer
        self.version = sha256(folder / MANIFEST)[:12]
        self._model = folder / manifest.model_file  # for messages

    @classmethod
    def load(cls, folder: Path, *, threads: int = 1) -> Bundle:
        """Read a bundle for ONNX Runtime, check every file, and score its golden rows.

        No code of the bundle is run: it is data, and the model has operators of ONNX alone.

        Args:
            folder: the bundle.
            threads: of one call of the model.

        Raises:
            ConfigError: ONNX Runtime is not installed.
            ArtifactError: a file is missing, damaged, a link or of another format, the model is not that of the schema,
                or golden rows get other ids or scores.
        """
        manifest = Manifest.read(folder)
        if manifest.target != "onnx":
            raise ArtifactError(f"{folder}: should be a bundle of the target 'onnx', received '{manifest.target}'")
        data = manifest.read_model(folder)
        schema = Schema.load(folder / "schema.json")
        path = folder / manifest.model_file
        scorer = OnnxScorer(path, data, schema, calibrated=manifest.calibrated, threads=threads)
        bundle = open_bundle(folder, manifest, scorer)
        bundle.verify()
        return bundle

    def encode(self, table: pa.Table) -> Ids:
        """Encode raw rows as ids [B, W].

        Args:
            table: raw columns as they were prepared, in any order; other columns are passed over.

        Raises:
            DataError: a column is missing or does not fit.
        """
        return ids_matrix(self.encoders.encode(table), self.schema)

    def score_ids(self, ids: Ids) -> Scored:
        """Score encoded rows.

        Args:
            ids: [B, W] int32.

        Raises:
            ArtifactError: the model gives a score that is NaN or infinite.
        """
        parts = [
            finish(self._model, self._scorer.outputs(ids[start : start + ROWS]), self.schema, self.calibration)
            for start in range(0, len(ids), ROWS)
        ]
        if len(parts) == 1:
            return parts[0]
        empty = np.zeros((0, self.schema.n_steps), np.float32)
        values = [part.value for part in parts if part.value is not None]
        return Scored(
            np.concatenate([empty, *(part.reach for part in parts)]),
            np.concatenate([empty, *(part.transition for part in parts)]),
            None if self.schema.value_step is None else np.concatenate([np.zeros(0, np.float32), *values]),
        )

    def score(self, table: pa.Table) -> Scored:
        """Score raw rows.

        Args:
            table: as for `encode`.

        Raises:
            DataError: a column is missing or does not fit.
            ArtifactError: the model gives a score that is NaN or infinite.
        """
        return self.score_ids(self.encode(table))

    def verify(self) -> float:
        """Score the golden rows again and return the largest difference.

        Raises:
            ArtifactError: a row has other ids, or a score that differs by more than 1e-5.
        """
        return self.golden.check(self.folder / "golden.json", self.encoders, self.schema, self.score_ids)


def open_bundle(folder: Path, manifest: Manifest, scorer: Scorer) -> Bundle:
    """Read what stands beside a model.

    Args:
        folder: the bundle, whose files were checked.
        manifest: its manifest.
        scorer: the model.

    Raises:
        ArtifactError: a file is damaged, the encoders are not those of the schema, or there is no raw golden row.
    """
    schema, encoders = Schema.load(folder / "schema.json"), Encoders.load(folder / "encoders.json")
    fields, wanted = [field.name for field in encoders.fields()], [field.name for field in schema.fields]
    if encoders.fields() != list(schema.fields):
        raise ArtifactError(
            f"{folder / 'encoders.json'}: should make the fields {', '.join(wanted)} of schema.json in their sizes, "
            f"received {', '.join(fields)}"
        )
    path, calibration = folder / "calibration.json", None
    if manifest.calibrated:
        calibration = Calibration.load(path, schema.step_names, manifest.run_sha256)
    path = folder / "golden.json"
    golden = Golden.read(path, schema)
    if not 0 < len(golden.rows) <= len(golden.ids):  # without raw rows nothing would check the encoders
        raise ArtifactError(
            f"{path}: key 'rows' should hold 1 to {len(golden.ids)} raw rows, as there are ids, "
            f"received {len(golden.rows)}"
        )
    return Bundle(folder, manifest, schema, encoders, calibration, golden, scorer)
