"""Every registered model scores in ONNX Runtime as in PyTorch, on rows with null, unknown and extreme values."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch
from tests.conformance.test_graph_models import SHAPES
from tests.conformance.test_graph_models import make_schema as make_graph
from tests.conformance.test_models import CHAIN_MODELS, open_up

from funnelcast.export.onnx import to_onnx
from funnelcast.export.program import ScoringModel, to_program
from funnelcast.layers import FunnelModel
from funnelcast.registry import MODELS
from funnelcast.schema import Schema
from funnelcast.serving.contract import output_shapes
from funnelcast.serving.onnx_file import check_onnx_file

MakeSchema = Callable[..., Schema]
SMALL: dict[str, Any] = {"layers": 2, "inducing_points": 5, "hidden": (6, 6), "bottom": (6,)}


def small_options(name: str) -> dict[str, Any]:
    """Sizes that a model takes, unless another option of a variant leaves them without a meaning."""
    preset, known = MODELS.preset(name), MODELS.options(name)
    fixed = "representation" in preset or preset.get("patterns") is False
    options = {key: value for key, value in SMALL.items() if key in known and not (fixed and key != "hidden")}
    return options | ({"dropout": 0.1} if name == "aitm" else {})  # by default one a hidden layer


def rows_of(schema: Schema) -> torch.Tensor:
    """Rows all null, all unknown, all smallest and all largest, then drawn ones."""
    sizes = torch.tensor([field.size for field in schema.fields for _ in range(field.max_length)])
    drawn = torch.rand(13, len(sizes), generator=torch.Generator().manual_seed(1)) * sizes
    same = [torch.full_like(sizes, k) for k in (0, 1, 2)]
    return torch.stack([*same, sizes - 1, *drawn.long()]).int()


def check(model: FunnelModel, schema: Schema) -> None:
    """Compare all outputs; weights are large, so that rows differ."""
    open_up(model).eval()
    data = to_onnx(to_program(model, calibrated=True, portable=True), schema, calibrated=True)
    check_onnx_file(Path("model.onnx"), data)
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    ids, names = rows_of(schema), list(output_shapes(schema, calibrated=True))
    with torch.inference_mode():
        expected = dict(zip(names, ScoringModel(model, calibrated=True)(ids), strict=True))
    for rows in (slice(None), slice(3, 4)):
        for name, part in zip(names, session.run(names, {"ids": ids[rows].numpy()}), strict=True):
            wanted = expected[name][rows].numpy()
            relative, absolute = (1e-4, 1e-3) if name.startswith("log_odds") else (1e-5, 1e-5)
            np.testing.assert_allclose(part, wanted, rtol=relative, atol=absolute, err_msg=name)
    assert expected[names[0]].std() > 1e-4


# A variant takes other branches of the code that its family's test has translated already.
VARIANTS = [pytest.param(name, marks=pytest.mark.slow) for name in CHAIN_MODELS if name != MODELS.family(name)]


@pytest.mark.parametrize("name", [*(name for name in CHAIN_MODELS if name == MODELS.family(name)), *VARIANTS])
def test_onnx_runtime_agrees(name: str, make_schema: MakeSchema) -> None:
    schema = make_schema(2)
    torch.manual_seed(0)
    check(MODELS.create(name, schema, options=small_options(name)), schema)


# Each model once; its other graphs with the slow tests.
GRAPHS = [
    pytest.param(*shape, marks=pytest.mark.slow if shape[0] in dict(SHAPES[:k]) else ())
    for k, shape in enumerate(SHAPES)
]


@pytest.mark.parametrize(("name", "parents"), GRAPHS)
def test_onnx_runtime_agrees_on_graphs(name: str, parents: dict[str, Any]) -> None:
    schema = make_graph(parents)
    torch.manual_seed(0)
    check(MODELS.create(name, schema, options={"hidden": (6,)}), schema)


@pytest.mark.parametrize("head", ["reach", "transition", "monotone"])
@pytest.mark.parametrize("scale", [1.0, 300.0])
def test_every_head_stays_exact_far_out(head: str, scale: float, make_schema: MakeSchema) -> None:
    """Probabilities next to 0 and 1, where functions in log space lose their digits first."""
    schema = make_schema(3)
    torch.manual_seed(0)
    model = MODELS.create("shared_bottom", schema, options={"bottom": (6,), "head": head})
    with torch.no_grad():
        for parameter in model.towers.parameters():
            parameter.mul_(scale)
    check(model, schema)
