"""Raw rows -> probabilities, with a run's encoders and weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from funnelcast.calibration import Calibration
from funnelcast.data.encode import Encoders
from funnelcast.data.ids import ids_matrix
from funnelcast.errors import ConfigError, DataError
from funnelcast.evaluate import SCORING_ROWS, pick_device
from funnelcast.files import temporary_beside
from funnelcast.layers import FunnelModel
from funnelcast.prediction import Prediction
from funnelcast.progress import RowProgress
from funnelcast.run import Run
from funnelcast.schema import score_columns

__all__ = ["Predictor", "calibrate_prediction", "predict_file", "score_ids"]

CHUNK_ROWS = 65_536  # raw rows read and encoded at once


def calibrate_prediction(calibration: Calibration, prediction: Prediction) -> Prediction:
    """Apply a calibration to a prediction; a value given the last step stays. No gradient passes.

    Args:
        calibration: of the same steps.
        prediction: [B, S], on any device.
    """
    log_odds = (
        prediction.log_reach - prediction.log_not_reach,
        prediction.log_transition - prediction.log_not_transition,
    )
    found = calibration.apply(*(value.detach().cpu().numpy() for value in log_odds))
    device = prediction.log_reach.device
    return replace(prediction, **{name: torch.from_numpy(v).to(device) for name, v in found._asdict().items()})


class Predictor:
    """A run's encoders, best weights and calibration, ready to score raw rows.

    Args:
        run: a complete run.
        calibrated: use the run's calibration, where it has one.

    Raises:
        ArtifactError: the run is not complete, or a file is damaged.
    """

    def __init__(self, run: Run, *, calibrated: bool = True) -> None:
        self._device = pick_device(run.experiment.train.device)
        self._model = run.load_model().to(self._device)
        self._encoders = Encoders.load(run.folder / "encoders.json")
        self._schema = run.schema
        self.calibration = run.load_calibration() if calibrated and run.calibrated else None

    def columns(self) -> list[str]:
        """Name the columns that `scores` adds: `reach_<step>`, `transition_<step>`, and `value_<step>` of a value."""
        return score_columns(self._schema)

    def scores(self, table: pa.Table) -> pa.Table:
        """Score raw rows.

        Args:
            table: raw columns as they were prepared, in any order; other columns are passed over.

        Returns:
            One float32 column for each name of `columns`, in the order of the rows.

        Raises:
            DataError: a column is missing or does not fit.
        """
        ids = torch.from_numpy(ids_matrix(self._encoders.encode(table), self._schema))  # [N, W]
        reach, transition, value = score_ids(self._model, self.calibration, ids)
        arrays = [pa.array(c[:, i].numpy()) for i in range(self._schema.n_steps) for c in (reach, transition)]
        return pa.table(arrays if value is None else [*arrays, pa.array(value.numpy())], names=self.columns())


def score_ids(model: FunnelModel, calibration: Calibration | None, ids: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Score encoded rows: what `predict` writes and what an exported model must give.

    Args:
        model: in evaluation mode, on its device.
        calibration: of the same steps, or None.
        ids: [N, W], on the CPU.

    Returns:
        On the CPU, reach [N, S], transition [N, S], and the expected value [N] where the last step has one.
    """
    schema, device = model.schema, next(model.parameters()).device
    empty = torch.zeros(0, schema.n_steps)
    reach, transition, value = [empty], [empty], [torch.zeros(0)]
    with torch.inference_mode():
        for start in range(0, len(ids), SCORING_ROWS):
            prediction = model(ids[start : start + SCORING_ROWS].to(device))
            if calibration is not None:
                prediction = calibrate_prediction(calibration, prediction)
            reach.append(prediction.reach.cpu())
            transition.append(prediction.transition.cpu())
            if schema.value_step is not None:
                value.append(prediction.expected_value.cpu())
    return torch.cat(reach), torch.cat(transition), torch.cat(value) if schema.value_step is not None else None


def predict_file(run: Run, source: Path, target: Path, *, calibrated: bool = True) -> int:
    """Score a Parquet file of raw rows, chunk by chunk.

    Args:
        run: a complete run.
        source: the raw rows.
        target: gets the raw columns and the scores; it appears whole or not at all.
        calibrated: use the run's calibration, where it has one.

    Returns:
        The number of rows.

    Raises:
        ConfigError: the source is not a Parquet file, or has a column with the name of a score; or the target's folder
            does not exist.
        DataError: a column is missing or does not fit.
    """
    predictor = Predictor(run, calibrated=calibrated)
    try:
        reader = pq.ParquetFile(source)
    except pa.ArrowInvalid as error:
        raise DataError(f"{source}: should be a Parquet file, received: {error}") from error
    except OSError as error:
        raise ConfigError(f"{source}: should be a Parquet file, but is none: {error}") from error
    if target.is_dir() or not target.parent.is_dir():
        raise ConfigError(f"{target}: should be a file in a folder that exists")
    taken = sorted(set(predictor.columns()) & set(reader.schema_arrow.names))
    if taken:
        raise ConfigError(f"{source}: should have no column '{taken[0]}', the scores are written under that name")
    added = pa.schema([(name, pa.float32()) for name in predictor.columns()])
    schema = pa.schema([*reader.schema_arrow, *added])
    temporary = temporary_beside(target)
    rows = reader.metadata.num_rows
    try:
        with (
            reader,
            RowProgress(f"predict {source.name}", rows) as progress,
            pq.ParquetWriter(temporary, schema) as writer,
        ):
            for batch in reader.iter_batches(batch_size=CHUNK_ROWS):
                raw = pa.Table.from_batches([batch])
                scores = predictor.scores(raw)
                writer.write_table(pa.table([*raw.columns, *scores.columns], schema=schema))
                progress.advance(raw.num_rows)
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)
    return int(rows)
