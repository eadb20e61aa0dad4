"""The experiment file: strict, and clear about what is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from funnelcast.config import load_experiment
from funnelcast.errors import ConfigError
from funnelcast.registry import registry_of


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.toml"
    path.write_text(text)
    return path


def test_a_whole_file(tmp_path: Path) -> None:
    experiment = load_experiment(
        write(
            tmp_path,
            """
            data = "build/data"
            [model]
            name = "mmoe"
            experts = 3
            [[losses]]
            name = "reach_bce"
            step_weights = [1, 2]
            [train]
            epochs = 4
            """,
        )
    )
    assert experiment.name == "mine" and experiment.data == "build/data"
    assert experiment.model.name == "mmoe" and experiment.model.options == {"experts": 3}
    assert experiment.losses[0].options == {"step_weights": [1, 2]}
    assert experiment.train.epochs == 4 and experiment.train.batch_size == 1024
    assert type(experiment).model_validate(experiment.model_dump(mode="json")) == experiment


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[model]\nname = 'mmoe'\n[train]\nepoch = 3",
            r"unknown key 'train.epoch'; did you mean 'epochs'\? known: average_last, batch",
        ),
        ("[modle]\nname = 'mmoe'", r"unknown key 'modle'; did you mean 'model'\?"),
        ("[model]\nexperts = 3", r"key 'model.name' is missing"),
        (
            "[model]\nname = 'mmoe'\n[train]\nepochs = 0",
            r"key 'train.epochs': .*greater than or equal to 1; received 0",
        ),
        (
            "[model]\nname = 'mmoe'\n[train]\ndevice = 'tpu'",
            r"key 'train.device': .*'auto', 'cpu' or 'cuda'; received 'tpu'",
        ),
        ("[model\nname = 'mmoe'", r"should be a TOML file, received: .*line 1"),
        ("model = 3", r"key 'model': Input should be a valid dictionary .*; received 3"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_experiment(write(tmp_path, text))
    assert "mine.toml" in str(caught.value)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="should be a TOML file, but does not exist"):
        load_experiment(tmp_path / "none.toml")
    with pytest.raises(ConfigError, match="received a folder"):
        load_experiment(tmp_path)


ROOT = Path(__file__).parents[1]
EXPERIMENTS = sorted((ROOT / "experiments").rglob("*.toml"))


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_experiment_file_names_a_model_and_options_it_has(path: Path) -> None:
    experiment = load_experiment(path)
    assert experiment.name == path.stem  # of the model that it trains, or of what it changes about one
    assert set(experiment.model.options) <= set(registry_of(name := experiment.model.name).options(name))
    head = path.read_text().splitlines()[:3]
    assert head[0].startswith("# funnelcast prepare") and str(path.relative_to(ROOT)) in head[1]
