"""Imports go one way, and light commands stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import funnelcast

ROOT = Path(funnelcast.__file__).parent
LAYERS = [
    ["errors", "arrow", "files", "process", "registry", "graph", "schema", "progress", "config", "space"],
    [
        "batch",
        "prediction",
        "objective",
        "auc",
        "auc_histogram",
        "metrics",
        "curves",
        "gauc",
        "value_metrics",
        "scores",
        "significance",
        "native",
        "gates",
        "drift",
        "projection",
        "calibration",
        "calibration_fit",
        "field_calibration",
    ],
    [
        "layers",
        "heads",
        "graph_head",
        "experts",
        "dense_path",
        "ensemble",
        "ordered_fields",
        "transition_towers",
        "threads",
        "asrg_chunks",
        "apem_layers",
        "value_head",
        "optimizers",
        "data",
        "negatives",
        "self_fitting",
    ],
    ["datasets", "models", "losses", "trees"],
    [
        "checkpoint",
        "interrupt",
        "run",
        "train",
        "saved_scores",
        "evaluate",
        "overlap",
        "predict",
        "probe",
        "theorems",
        "segments",
        "slices",
        "decomposition",
        "calibrate",
    ],
    [
        "compare",
        "evidence",
        "leaderboard",
        "tables",
        "csv_table",
        "terminal",
        "latex",
        "report",
        "estimator",
        "inspection",
        "explain",
        "column_table",
        "efficiency",
        "experiment",
        "workers",
        "ablate",
        "tuning",
        "catalog",
        "tracking",
        "published",
    ],
    ["serving"],
    ["export"],
    ["cli"],
    ["__main__"],
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}


def modules() -> list[Path]:
    return sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def imported(path: Path) -> set[str]:
    """First-level names below `funnelcast` that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "funnelcast":
            parts = node.module.split(".")[1:]
            names |= {parts[0]} if parts else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {a.name.split(".")[1] for a in node.names if a.name.startswith("funnelcast.")}
    return {name for name in names if name != "__version__"}


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    assert own in LEVEL, f"{own} has no layer; add it to LAYERS"
    upward = {name for name in imported(path) if LEVEL[name] > LEVEL[own]}
    assert not upward, f"{path.name} imports {upward} from a layer above its own"


def test_no_model_or_loss_is_imported_by_name() -> None:
    for path in modules():
        if path.parent.name not in {"models", "trees", "losses"}:
            assert not imported(path) & {"models", "trees", "losses"}, path


@pytest.mark.parametrize(
    "statement",
    [
        "import funnelcast",
        "import funnelcast.cli",
        "import funnelcast.data.description",
        "import funnelcast.data.prepare",
        "import funnelcast.data.encode",
        "import funnelcast.datasets",
        "import funnelcast.experiment.sample_ratio",
        "import funnelcast.experiment.ratio",
        "import funnelcast.experiment.lift",
        "import funnelcast.experiment.assignment",
        "import funnelcast.experiment.allocation",
        "import funnelcast.experiment.exposure",
        "import funnelcast.experiment.sequence",
        "import funnelcast.experiment.history",
        "import funnelcast.experiment.design_page",
        "import funnelcast.experiment.analysis",
        "import funnelcast.experiment.analysis_page",
        "import funnelcast.experiment.live_page",
        "import funnelcast.report.render",
        "from funnelcast import AucHistogram",
        "import funnelcast.catalog",
        "import funnelcast.tracking.mlflow",
        "import funnelcast.calibration",
        "import funnelcast.calibration_fit",
        "import funnelcast.serving",
        "import funnelcast.serving.score_files",
        "import funnelcast.serving.http.run",
        "import funnelcast.cli.export",
        "import funnelcast.cli.score",
        "import funnelcast.cli.serve",
        "import funnelcast.cli.registry",
        "import funnelcast.serving.registry",
    ],
)
def test_light_modules_do_not_load_torch(statement: str) -> None:
    code = f"{statement}; import sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
