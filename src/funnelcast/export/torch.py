"""torch.export: a `.pt2` file for services that have PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import torch

from funnelcast.data.ids import Ids
from funnelcast.errors import ArtifactError
from funnelcast.export.program import quiet, to_program
from funnelcast.layers import FunnelModel
from funnelcast.registry import EXPORTERS
from funnelcast.schema import Schema
from funnelcast.serving.contract import output_shapes
from funnelcast.serving.scorer import Outputs

__all__ = ["ProgramScorer", "Torch"]


@EXPORTERS.register
class Torch:
    """A program of PyTorch's own operators, with the weights inside; `torch.export.load` reads it."""

    packages: ClassVar[tuple[str, ...]] = ()

    def write(self, model: FunnelModel, path: Path, *, calibrated: bool) -> None:
        """Write a model.

        Args:
            model: on the CPU.
            path: the file.
            calibrated: whether its scores will be calibrated.

        Raises:
            ArtifactError: the model cannot be exported, or the disk is full.
        """
        program = to_program(model, calibrated=calibrated, portable=False)
        try:
            with quiet():
                torch.export.save(program, path)
        except (OSError, RuntimeError) as error:
            raise ArtifactError(f"{path}: the model could not be written: {error}") from error

    def open(self, path: Path, schema: Schema, *, calibrated: bool) -> ProgramScorer:
        """Open what `write` wrote.

        Args:
            path: the file.
            schema: the funnel.
            calibrated: as it was written.
        """
        return ProgramScorer(path, schema, calibrated=calibrated)


class ProgramScorer:
    """A program that `torch.export.load` read.

    Args:
        path: a file of our own: PyTorch reads it as trusted.
        schema: the funnel.
        calibrated: whether it also has log-odds.
    """

    def __init__(self, path: Path, schema: Schema, *, calibrated: bool) -> None:
        with quiet():
            self._module = torch.export.load(path).module()
        self._names = list(output_shapes(schema, calibrated=calibrated))

    def outputs(self, ids: Ids) -> Outputs:
        """Map ids [B, W], B >= 1, to all outputs."""
        with torch.inference_mode():
            found = self._module(torch.from_numpy(ids))
        return {name: part.numpy() for name, part in zip(self._names, found, strict=True)}
