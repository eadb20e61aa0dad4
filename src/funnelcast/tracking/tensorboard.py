"""Runs as event files that TensorBoard reads."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

from funnelcast.errors import ConfigError
from funnelcast.registry import TRACKERS
from funnelcast.tracking import TrackedRun

__all__ = ["TensorBoard"]

_SUFFIX = ".funnelcast"  # of our event files; those of others stay


@TRACKERS.register
class TensorBoard:
    """Event files, one folder a run: curves as scalars, the configuration as text and as hyperparameters.

    Args:
        target: TensorBoard's folder (`--logdir`); it is made if it does not exist.

    Raises:
        ConfigError: the package is missing.
    """

    def __init__(self, target: str) -> None:
        if importlib.util.find_spec("tensorboard") is None:
            raise ConfigError("tensorboard should be installed: pip install 'funnelcast[track]'")
        self._folder = Path(target)

    def write(self, run: TrackedRun) -> str:
        """Write a run into a folder of its name; an earlier export there is replaced.

        Args:
            run: what to write.

        Raises:
            ConfigError: the folder cannot be written.
        """
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        folder = self._folder / run.name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            former = list(folder.glob(f"events.out.tfevents.*{_SUFFIX}"))
            with SummaryWriter(str(folder), filename_suffix=_SUFFIX) as writer:
                for point in run.points:
                    writer.add_scalar(point.name, point.value, point.step)
                words = json.dumps(run.parameters | run.tags, indent=2, ensure_ascii=False)
                writer.add_text("configuration", "\n".join(f"    {line}" for line in words.splitlines()))
                metrics = {point.name: point.value for point in run.points if not point.name.startswith("train/")}
                for summary in hparams(run.parameters, metrics):
                    writer._get_file_writer().add_summary(summary)
            for path in former:
                path.unlink()
        except OSError as error:
            raise ConfigError(f"{folder}: should be a folder for TensorBoard, received: {error}") from error
        return str(folder)
