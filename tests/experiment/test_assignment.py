"""The hash that splits users: as documented, stable, even, and independent between salts."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from funnelcast.errors import ConfigError
from funnelcast.experiment.assignment import assign
from funnelcast.experiment.sample_ratio import sample_ratio


def test_it_is_the_documented_hash() -> None:
    place = int(hashlib.sha256(b"spring:ann").hexdigest()[:16], 16) / 2**64
    assert 0.5 < place < 1
    assert assign(["ann"], "spring").tolist() == [1]
    assert assign(["ann"], "spring", (place + 0.001, 0.999 - place)).tolist() == [0]


@given(st.lists(st.integers(0, 10**12), max_size=20), st.text(max_size=5))
def test_a_user_stays_whoever_else_comes(users: list[int], salt: str) -> None:
    alone = [int(assign([user], salt)[0]) for user in users]
    assert assign(users, salt).tolist() == alone
    assert assign(map(str, users), salt).tolist() == alone


def test_shares_are_kept_and_salts_are_independent() -> None:
    users = range(30_000)
    first, second = assign(users, "one", (0.2, 0.5, 0.3)), assign(users, "two")
    assert not sample_ratio(np.bincount(first).tolist(), [0.2, 0.5, 0.3]).mismatch
    for arm in range(3):
        own = second[first == arm]
        assert not sample_ratio(np.bincount(own).tolist(), [0.5, 0.5]).mismatch


def test_golden_users_have_their_arms_on_every_machine() -> None:
    assert "".join(map(str, assign(range(32), "golden", (0.2, 0.5, 0.3)))) == "11200122202101102200121222112101"
    assert assign(["ann", "Łukasz", "日本", "", "a:b"], "spring").tolist() == [1, 1, 1, 1, 1]


@pytest.mark.parametrize("salt", ["spring", "autumn", "2026-03"])
def test_shares_are_within_half_a_percent_at_100_000_users(salt: str) -> None:
    shares = np.bincount(assign(range(100_000), salt, (0.2, 0.5, 0.3))) / 100_000
    assert np.abs(shares - [0.2, 0.5, 0.3]).max() <= 0.005


def test_a_change_of_two_shares_moves_only_the_users_it_must() -> None:
    before, after = (assign(range(20_000), "spring", (share, 1 - share)) for share in (0.5, 0.6))
    assert set(zip(before[before != after].tolist(), after[before != after].tolist(), strict=True)) == {(1, 0)}
    assert (before != after).mean() == pytest.approx(0.1, abs=0.01)


@pytest.mark.parametrize("shares", [(), (0.5,), (0.5, 0.6), (1.5, -0.5), (1.0, float("nan"))])
def test_impossible_shares_are_refused(shares: tuple[float, ...]) -> None:
    with pytest.raises(ConfigError, match="above 0 with the sum 1"):
        assign([1], "salt", shares)
