"""The simulated funnel obeys its own law, and its truth is the truth."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from funnelcast.data.description import load_description
from funnelcast.data.prepare import prepare
from funnelcast.data.shards import PreparedData
from funnelcast.data.split import Split
from funnelcast.datasets._world import World, WorldOptions
from funnelcast.datasets.synthetic import Synthetic
from funnelcast.errors import ConfigError, FunnelcastError
from funnelcast.registry import DATASETS
from funnelcast.schema import Schema

Columns = dict[str, NDArray[Any]]
Simulate = Callable[..., Columns]
STEPS = ("click", "authorize", "convert")


@pytest.fixture(scope="module")
def simulate(tmp_path_factory: pytest.TempPathFactory) -> Simulate:
    def run(**options: Any) -> Columns:
        work = tmp_path_factory.mktemp("work")
        options = {"rows": 20_000, "fields": 6, "ids": (8, 40, 12, 5, 300, 24), **options}
        description = Synthetic(**options).describe(None, work)
        table = pq.read_table(description.source.files[0])
        return {name: table[name].to_numpy() for name in table.column_names}

    return run


def per_step(columns: Columns, prefix: str, steps: tuple[str, ...] = STEPS) -> NDArray[np.float64]:
    return np.stack([columns[prefix + step] for step in steps], axis=1).astype(np.float64)  # [N, S]


def logit(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.log(probability) - np.log1p(-probability))


@settings(max_examples=6, deadline=None)
@given(
    agreement=st.sampled_from([-1.0, -0.4, 0.0, 0.7, 1.0]),
    confounder=st.sampled_from([0.0, 0.5, 1.5]),
    drift=st.sampled_from([0.0, 1.0]),
    seed=st.integers(0, 2**32 - 1),
)
def test_laws_hold_for_any_knobs(
    simulate: Simulate, agreement: float, confounder: float, drift: float, seed: int
) -> None:
    columns = simulate(rows=3_000, agreement=agreement, confounder=confounder, drift=drift, seed=seed)
    reach, transition = per_step(columns, "true_reach_"), per_step(columns, "true_transition_")
    np.testing.assert_allclose(reach, np.cumprod(transition, axis=1), atol=1e-6)
    np.testing.assert_array_equal(per_step(columns, ""), np.cumprod(per_step(columns, "potential_"), axis=1))
    assert np.all((transition > 0) & (transition < 1))
    np.testing.assert_allclose(per_step(columns, "potential_rate_")[:, 0], transition[:, 0], rtol=1e-5)


@pytest.mark.parametrize("confounder", [0.0, 1.5])
def test_labels_follow_the_truth_in_every_space_and_group(simulate: Simulate, confounder: float) -> None:
    columns = simulate(rows=80_000, confounder=confounder, drift=0.8, seed=3)
    labels, potential = per_step(columns, ""), per_step(columns, "potential_")
    reach, transition = per_step(columns, "true_reach_"), per_step(columns, "true_transition_")
    rate = per_step(columns, "potential_rate_")
    former = np.concatenate([np.ones((len(labels), 1)), labels[:, :-1]], axis=1)
    for step in range(3):
        group = np.argsort(np.argsort(transition[:, step])) * 5 // len(labels)
        for part in range(5):
            rows = group == part
            local = rows & (former[:, step] == 1)
            for seen, true, where in ((labels, reach, rows), (potential, rate, rows), (labels, transition, local)):
                p = true[where, step]
                error = (seen[where, step] - p).sum() / np.sqrt((p * (1 - p)).sum())
                assert abs(error) < 4.5, (step, part)


@pytest.mark.parametrize(
    ("steps", "rates", "tolerance"),
    [(STEPS, (0.2, 0.3, 0.4), 0.03), (("click", "purchase"), (0.039, 0.0055), 0.06)],
)
@pytest.mark.parametrize("confounder", [0.0, 1.0])
def test_mean_transitions_are_the_given_rates(
    simulate: Simulate, steps: tuple[str, ...], rates: tuple[float, ...], tolerance: float, confounder: float
) -> None:
    columns = simulate(rows=60_000, steps=steps, rates=rates, confounder=confounder)
    reach = per_step(columns, "true_reach_", steps).mean(axis=0)
    np.testing.assert_allclose(reach / np.concatenate([[1.0], reach[:-1]]), rates, rtol=tolerance)


def test_without_a_confounder_potential_rate_is_the_transition(simulate: Simulate) -> None:
    columns = simulate()
    np.testing.assert_array_equal(per_step(columns, "potential_rate_"), per_step(columns, "true_transition_"))


def test_a_confounder_makes_those_who_went_on_better_than_the_rest(simulate: Simulate) -> None:
    columns = simulate(confounder=1.5)
    rate, transition = per_step(columns, "potential_rate_"), per_step(columns, "true_transition_")
    assert np.all(transition[:, 1:] > rate[:, 1:])  # u > 0 is commoner among rows that reached the former step
    assert (transition[:, 1] - rate[:, 1]).mean() > 0.05
    assert abs(columns["confounder"].mean()) < 4 / np.sqrt(20_000)
    assert columns["confounder"][columns["convert"] == 1].mean() > 0.5


def options(**changes: Any) -> WorldOptions:
    defaults: dict[str, Any] = {
        "seed": 5,
        "rates": (0.1, 0.5),
        "ids": (6, 9, 30),
        "numeric": 0,
        "multi": 0,
        "users": 100,
        "signal": 1.0,
        "agreement": 0.3,
        "confounder": 0.0,
        "drift": 0.0,
    }
    return WorldOptions(**(defaults | changes))


def test_truth_agrees_with_a_fine_grid_over_the_confounder() -> None:
    world = World(options(confounder=1.3))
    logits = world.logits(world.chunk(0, np.linspace(0, 1, 7, endpoint=False)))  # [7, 2]
    u = np.linspace(-9, 9, 20_001)
    density = np.exp(-(u**2) / 2)
    density /= density.sum()
    rate = 1 / (1 + np.exp(-(logits[:, :, None] + 1.3 * u)))  # [7, 2, U]
    truth = world.truth(logits)
    np.testing.assert_allclose(truth.reach, np.cumprod(rate, axis=1) @ density, rtol=1e-6)
    np.testing.assert_allclose(truth.potential, rate @ density, rtol=1e-6)
    np.testing.assert_allclose(truth.transition[:, 1], truth.reach[:, 1] / truth.reach[:, 0])


@pytest.mark.parametrize("agreement", [-1.0, -0.6, 0.0, 0.6, 1.0])
def test_agreement_is_the_correlation_of_the_logits(simulate: Simulate, agreement: float) -> None:
    columns = simulate(agreement=agreement, signal=0.8)
    logits = logit(per_step(columns, "true_transition_"))
    found = np.asarray(np.corrcoef(logits, rowvar=False))
    expected = [[1, agreement, agreement**2], [agreement, 1, agreement], [agreement**2, agreement, 1]]
    np.testing.assert_allclose(found, expected, atol=0.08)
    np.testing.assert_allclose(logits.std(axis=0), 0.8, rtol=0.08)


def test_drift_moves_effects_linearly_with_time() -> None:
    world = World(options(drift=0.7, ids=(6, 9, 30, 12), users=10_000))
    start, middle, end = (world.logits(world.chunk(0, np.full(20_000, time))) for time in (0.0, 0.5, 1.0))
    np.testing.assert_allclose(middle, (start + end) / 2)
    np.testing.assert_allclose((end - start).std(axis=0), 0.7, rtol=0.1)
    still = World(options(ids=(6, 9, 30, 12), users=10_000))
    np.testing.assert_array_equal(
        still.logits(still.chunk(0, np.zeros(50))), still.logits(still.chunk(0, np.full(50, 0.9)))
    )


def test_an_additive_model_misses_the_interactions() -> None:
    world = World(options(rates=(0.2,), ids=(8, 12)))
    inputs = world.chunk(0, np.zeros(30_000))
    one_hot = np.concatenate([np.eye(size)[ids] for size, ids in zip((8, 12), inputs.ids, strict=True)], axis=1)
    logits = world.logits(inputs)[:, 0]
    fitted = one_hot @ np.linalg.lstsq(one_hot, logits, rcond=None)[0]
    share = np.var(logits - fitted) / np.var(logits)
    assert share == pytest.approx(0.20 / 0.82, abs=0.05)  # the shares of pairs and of fields


def test_ids_follow_zipf_in_user_fields_too() -> None:
    world = World(options(ids=(4, 4, 4, 4), users=50_000))
    expected = np.arange(1, 5) ** -1.1 / (np.arange(1, 5) ** -1.1).sum()
    inputs = world.chunk(0, np.zeros(40_000))
    for ids in inputs.ids:
        np.testing.assert_allclose(np.bincount(ids, minlength=4) / 40_000, expected, atol=0.012)
    for user in np.unique(inputs.user)[:50]:
        assert len(np.unique(inputs.ids[0][inputs.user == user])) == 1  # the first quarter belongs to the user


def test_same_options_same_bytes_and_another_seed_other_rows(tmp_path: Path) -> None:
    digests = []
    for folder, seed in (("a", 0), ("b", 0), ("c", 1)):
        described = Synthetic(rows=70_000, fields=3, ids=(5, 9), seed=seed).describe(None, tmp_path / folder)
        path = Path(described.source.files[0])
        assert pq.read_metadata(path).num_row_groups == 2  # written in chunks
        assert list(path.parent.iterdir()) == [path]
        digests.append(hashlib.sha256(path.read_bytes()).hexdigest())
    assert digests[0] == digests[1] != digests[2]


def test_prepared_rows_carry_truth_and_are_split_by_time(tmp_path: Path) -> None:
    described = Synthetic(rows=2_003, fields=3, ids=(5, 9)).describe(None, tmp_path / "work")
    assert [feature.name for feature in described.features] == [
        *("field_00", "field_01", "field_02", "number_0", "number_1", "tags_0")
    ]
    raw = pq.read_table(described.source.files[0]).to_pydict()
    assert raw["time"] == sorted(raw["time"])
    manifest = prepare(described, tmp_path / "out")
    borders = [0, round(0.8 * 2_003), round(0.9 * 2_003), 2_003]
    for part, first, last in zip(("train", "valid", "test"), borders[:-1], borders[1:], strict=True):
        assert manifest["splits"][part]["rows"] == last - first
        assert manifest["splits"][part]["positives"] == {step: sum(raw[step][first:last]) for step in STEPS}
    schema = Schema.load(tmp_path / "out" / "schema.json")
    assert schema.has_truth and schema.has_potential
    data = PreparedData(tmp_path / "out")
    batch = data.read(data.row_groups(Split.TEST))
    assert batch.true_potential is not None
    expected = np.stack([raw[f"potential_rate_{step}"][borders[2] :] for step in STEPS], axis=1)
    np.testing.assert_array_equal(batch.true_potential.numpy(), expected.astype(np.float32))


def test_a_folder_prepared_without_potential_rates_is_read_as_before(tmp_path: Path) -> None:
    described = Synthetic(rows=2_000, fields=3, ids=(5, 9)).describe(None, tmp_path / "work")
    steps = tuple(step.model_copy(update={"true_potential": None}) for step in described.steps)
    prepare(described.model_copy(update={"steps": steps}), tmp_path / "out")
    record = json.loads((tmp_path / "out" / "schema.json").read_text())
    del record["has_potential"]  # as written before the key came
    (tmp_path / "out" / "schema.json").write_text(json.dumps(record))
    data = PreparedData(tmp_path / "out", verify=False)
    batch = data.read(data.row_groups(Split.TEST))
    assert batch.true_transition is not None
    assert batch.true_potential is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"rows": 9}, "'rows' should be at least 10, received 9"),
        ({"rates": (0.1, 0.2)}, "'rates' should be one number a step, here 3, received (0.1, 0.2)"),
        ({"rates": (0.1, 0.2, 1.0)}, "'rates' should be transition rates in (0, 1)"),
        ({"ids": (1,)}, "'ids' should be one or more numbers, each at least 2"),
        ({"agreement": -1.5}, "'agreement' should be in [-1, 1], received -1.5"),
        ({"confounder": -1.0}, "'confounder' should be at least 0"),
        ({"steps": ("click", "click", "time")}, "'steps' should be unique names that no other column has"),
        ({"seed": -1}, "'seed' should be in [0, 2^32)"),
        ({"field": 3}, "no option 'field'; did you mean 'fields'?"),
    ],
)
def test_wrong_options_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        DATASETS.create("synthetic", options=wrong)
    assert message in str(caught.value)


def test_too_little_variety_and_a_source_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="should have enough ids for 3 steps"):
        Synthetic(fields=1, ids=(2,), numeric=0, multi=0).describe(None, tmp_path)
    with pytest.raises(FunnelcastError, match="should have no source"):
        Synthetic().describe(tmp_path, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_recorded_options_make_the_same_rows_again(tmp_path: Path) -> None:
    first = Synthetic(rows=500, fields=5, ids=(8, 40), steps=("click", "buy"), rates=(0.3, 0.4), drift=0.5, seed=4)
    prepare(first.describe(None, tmp_path / "first"), tmp_path / "data", threads=1)
    manifest = json.loads((tmp_path / "data" / "manifest.json").read_text())
    again = DATASETS.create("synthetic", options=manifest["description"]["options"])
    again.describe(None, tmp_path / "again")
    names = [tmp_path / name / "synthetic.parquet" for name in ("first", "again")]
    assert names[0].read_bytes() == names[1].read_bytes()


def test_rows_of_given_users_have_those_users_fields() -> None:
    world = Synthetic(rows=2_000, fields=8, ids=(8, 40, 12)).world()
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(30), 5)
    inputs = world.draw(rng, rng.random(150), user)
    np.testing.assert_array_equal(inputs.user, user)
    chunk = world.chunk(0, np.zeros(2_000))
    for field in range(2):  # a quarter of the fields is the user's, the same in the dataset and later
        of_user = dict(zip(chunk.user.tolist(), chunk.ids[field].tolist(), strict=True))
        known = [i for i, number in enumerate(user.tolist()) if number in of_user]
        assert known
        assert all(inputs.ids[field][i] == of_user[int(user[i])] for i in known)


def test_a_dataset_file_has_no_options_of_the_simulator(tmp_path: Path) -> None:
    (tmp_path / "shop.toml").write_text(
        'features = [{ name = "item" }]\nsteps = ["click"]\nsource = { files = ["logs.csv"] }\n'
        'split = { kind = "hash", column = "item" }\noptions = { rows = 10 }\n'
    )
    with pytest.raises(ConfigError, match=r"shop\.toml: unknown key 'options'"):
        load_description(tmp_path / "shop.toml")
