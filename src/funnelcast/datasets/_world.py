"""The law behind the synthetic dataset: how fields, a hidden confounder and time make a funnel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from funnelcast.errors import ConfigError

__all__ = ["Inputs", "Truth", "World", "WorldOptions"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Shapes: N rows, S steps.
MAX_PAIRS = 4
CALIBRATION_ROWS = 65_536
ZIPF_EXPONENT = 1.1
QUADRATURE_NODES = 32
SHARES = {"fields": 0.62, "pairs": 0.20, "numbers": 0.10, "tags": 0.08}  # of each logit's variance, if all are there
SMALL_FIELD = 24  # ids; interactions join small fields only, so that each pair of ids is seen often
LARGE_FIELD = 200  # ids; a larger field has a weaker effect, since most of its ids are rare
LARGE_FIELD_WEIGHT = 0.3
TAGS = 50
MAX_TAGS = 5
WORLD_STREAM, CALIBRATION_STREAM, FIRST_CHUNK_STREAM = 0, 1, 2


@dataclass(frozen=True)
class WorldOptions:
    """The knobs of the law; `Synthetic` describes and checks them."""

    seed: int
    rates: tuple[float, ...]
    ids: tuple[int, ...]
    numeric: int
    multi: int
    users: int
    signal: float
    agreement: float
    confounder: float
    drift: float


@dataclass(frozen=True)
class Inputs:
    """What is drawn for N rows before any outcome.

    Args:
        user: user number, [N].
        time: share of the period that has passed, in [0, 1), [N].
        ids: one array [N] for each categorical field.
        numbers: one standard normal array [N] for each numeric field.
        tags: for each multi-valued field its values, row after row, and the N+1 offsets of the rows.
        confounder: u ~ N(0, 1), hidden, [N].
    """

    user: Ints
    time: Floats
    ids: list[Ints]
    numbers: list[Floats]
    tags: list[tuple[Ints, Ints]]
    confounder: Floats


@dataclass(frozen=True)
class Truth:
    """True probabilities given the fields, each [N, S]: the confounder is integrated out."""

    reach: Floats
    transition: Floats
    potential: Floats


class World:
    """Draws rows and knows their true probabilities.

    logit_k(x, t, u) = b_k + [(g(x) - mean g) W]_k + drift * (t - 1/2) * h_k(x) + rho * u

    g sums main effects of all fields, products of the main effects of some pairs of small fields, smooth effects of
    numbers and mean effects of tags, in the proportions of SHARES. W makes the logits' standard deviation `signal` and
    their correlation between steps i and j agreement^|i-j|; b makes the mean transitions equal to `rates`. Both are set
    on a calibration sample.

    Args:
        options: the knobs.

    Raises:
        ConfigError: the fields carry too little variety for the number of steps.
    """

    def __init__(self, options: WorldOptions) -> None:
        self.options = options
        self.n_steps = len(options.rates)
        rng = self._generator(WORLD_STREAM)
        self._odds = [_zipf(size) for size in options.ids]
        self._tag_odds = _zipf(TAGS)
        self._draw_effects(rng)
        self._draw_pairs(rng)
        self._calibrate()

    def chunk(self, number: int, time: Floats) -> Inputs:
        """Draw the inputs of one chunk of rows; a chunk depends on the seed, its number and its times only.

        Args:
            number: the chunk's number, >= 0.
            time: share of the period that has passed, in [0, 1), [N].
        """
        return self.draw(self._generator(FIRST_CHUNK_STREAM + 2 * number), time)

    def outcomes(self, number: int, inputs: Inputs, logits: Floats) -> NDArray[np.bool_]:
        """Draw the potential outcome of every step for every row of a chunk, [N, S].

        Args:
            number: the chunk's number, >= 0.
            inputs: the chunk's inputs.
            logits: the chunk's logits without the confounder, [N, S].
        """
        return self.respond(self._generator(FIRST_CHUNK_STREAM + 2 * number + 1), inputs, logits)

    def draw(self, rng: np.random.Generator, time: Floats, user: Ints | None = None) -> Inputs:
        """Draw the inputs of rows.

        Args:
            rng: numbers of their own for these rows.
            time: share of the period that has passed, [N]; 1 and more is later than the dataset's rows.
            user: user of each row, >= 0, [N], who may be one that the dataset has not; None draws them.
        """
        options, n_rows = self.options, len(time)
        if user is None:
            user = rng.integers(0, options.users, n_rows)
        ids = []
        for field, odds in enumerate(self._odds):
            # the first quarter of the fields describes the user, the others change from row to row
            of_user = field < len(self._odds) // 4
            place = _hash_to_unit(user, field + options.seed * 7919) if of_user else rng.random(n_rows)
            ids.append(_pick(odds, place))
        numbers = [rng.standard_normal(n_rows) for _ in range(options.numeric)]
        tags = []
        for _ in range(options.multi):
            offsets = np.concatenate([[0], np.cumsum(rng.integers(1, MAX_TAGS + 1, n_rows))])
            tags.append((_pick(self._tag_odds, rng.random(offsets[-1])), offsets))
        return Inputs(user, time, ids, numbers, tags, rng.standard_normal(n_rows))

    def respond(self, rng: np.random.Generator, inputs: Inputs, logits: Floats) -> NDArray[np.bool_]:
        """Draw the potential outcome of every step for every row, [N, S].

        Args:
            rng: numbers of their own for these rows.
            inputs: the rows.
            logits: their logits without the confounder, [N, S].
        """
        probability = _sigmoid(logits + self.options.confounder * inputs.confounder[:, None])  # [N, S]
        return np.asarray(rng.random(probability.shape) < probability)

    def logits(self, inputs: Inputs) -> Floats:
        """Compute the logits of the potential outcomes without the confounder, [N, S].

        Args:
            inputs: N rows.
        """
        logits = self.intercepts + (self._score(inputs) - self._mean) @ self._mix
        if self.options.drift:
            logits += self.options.drift * (inputs.time - 0.5)[:, None] * self._movement(inputs)
        return np.asarray(logits)

    def truth(self, logits: Floats) -> Truth:
        """Compute the true probabilities given the fields.

        With c_k(u) the potential rate given u: reach_i = E_u[c_1 ... c_i], transition_i = reach_i / reach_{i-1},
        potential_i = E_u[c_i], by Gauss-Hermite quadrature; without a confounder nothing is integrated.

        Args:
            logits: logits without the confounder, [N, S].
        """
        if not self.options.confounder:
            rate = _sigmoid(logits)
            return Truth(np.asarray(np.cumprod(rate, axis=1), dtype=np.float64), rate, rate)
        nodes, weights = np.polynomial.hermite_e.hermegauss(QUADRATURE_NODES)
        reach: Floats = np.zeros_like(logits)  # [N, S]
        potential: Floats = np.zeros_like(logits)  # [N, S]
        for node, weight in zip(nodes, weights / weights.sum(), strict=True):
            rate = _sigmoid(logits + self.options.confounder * node)
            potential += weight * rate
            reach += weight * np.cumprod(rate, axis=1)
        former = np.concatenate([np.ones_like(reach[:, :1]), reach[:, :-1]], axis=1)
        return Truth(reach, reach / former, potential)

    def _generator(self, stream: int) -> np.random.Generator:
        """Counter-based numbers: each stream is independent and can be drawn in any order."""
        return np.random.Generator(np.random.Philox(key=np.array([self.options.seed, stream], dtype=np.uint64)))

    def _draw_effects(self, rng: np.random.Generator) -> None:
        """Draw main effects [ids, S], their movement, and the effects of numbers and tags."""
        options, S = self.options, self.n_steps
        weights = [LARGE_FIELD_WEIGHT if size >= LARGE_FIELD else 1.0 for size in options.ids]
        self._main = [_effect(rng, odds, S) * weight for odds, weight in zip(self._odds, weights, strict=True)]
        self._moving = {f: _effect(rng, self._odds[f], S) for f in range(0, len(options.ids), 2)}
        self._curves = rng.standard_normal((options.numeric, 2, S))
        self._tags = [_effect(rng, self._tag_odds, S) for _ in range(options.multi)]

    def _draw_pairs(self, rng: np.random.Generator) -> None:
        """Choose pairs of small fields whose main effects also multiply, with a sign for each step."""
        small = [f for f, size in enumerate(self.options.ids) if size <= SMALL_FIELD]
        candidates = rng.permutation(small if len(small) > 1 else np.arange(len(self.options.ids)))
        count = min(len(candidates) // 2, MAX_PAIRS)
        self._pairs = [
            (int(left), int(right), rng.choice([-1.0, 1.0], self.n_steps))
            for left, right in zip(candidates[:count], candidates[count : 2 * count], strict=True)
        ]

    def _effects(self, inputs: Inputs) -> dict[str, Floats]:
        """Sum the effects of each group before scaling, each [N, S]."""
        total = {group: np.zeros((len(inputs.user), self.n_steps)) for group in SHARES}
        for table, ids in zip(self._main, inputs.ids, strict=True):
            total["fields"] += table[ids]
        for left, right, sign in self._pairs:
            total["pairs"] += sign * self._main[left][inputs.ids[left]] * self._main[right][inputs.ids[right]]
        for (slope, bend), number in zip(self._curves, inputs.numbers, strict=True):
            total["numbers"] += number[:, None] * slope + (number[:, None] ** 2 - 1) / np.sqrt(2) * bend
        for table, (values, offsets) in zip(self._tags, inputs.tags, strict=True):
            total["tags"] += np.add.reduceat(table[values], offsets[:-1]) / np.diff(offsets)[:, None]
        return total

    def _score(self, inputs: Inputs) -> Floats:
        """Sum all effects, each group with its share of the variance, g(x), [N, S]."""
        return np.asarray(sum(effect * self._scale[group] for group, effect in self._effects(inputs).items()))

    def _movement(self, inputs: Inputs) -> Floats:
        """How far the logits move over the whole period, h(x), standard deviation near 1, [N, S]."""
        total = np.zeros((len(inputs.user), self.n_steps))
        for field, table in self._moving.items():
            total += table[inputs.ids[field]]
        return np.asarray(total / np.sqrt(len(self._moving)))

    def _calibrate(self) -> None:
        """Set the mixing of steps and the intercepts on a sample of their own."""
        rng = self._generator(CALIBRATION_STREAM)
        inputs = self.draw(rng, rng.random(CALIBRATION_ROWS))
        self._scale = {
            group: np.sqrt(SHARES[group]) / np.where(effect.std(axis=0) > 0, effect.std(axis=0), 1.0)
            for group, effect in self._effects(inputs).items()
        }
        effects = self._score(inputs)
        self._mean = effects.mean(axis=0)
        try:
            spread = np.linalg.cholesky(np.cov(effects, rowvar=False).reshape(self.n_steps, self.n_steps))
        except np.linalg.LinAlgError as error:
            raise ConfigError(
                f"synthetic: the fields should have enough ids for {self.n_steps} steps with effects of their own, "
                f"received ids {self.options.ids}, numeric {self.options.numeric}, multi {self.options.multi}"
            ) from error
        self._mix = self.options.signal * np.linalg.inv(spread).T @ _chain(self.options.agreement, self.n_steps).T
        self.intercepts = np.zeros(self.n_steps)
        logits = self.logits(inputs) + self.options.confounder * inputs.confounder[:, None]
        weight = np.ones(CALIBRATION_ROWS)
        for step, rate in enumerate(self.options.rates):
            self.intercepts[step] = _solve_intercept(logits[:, step], weight, rate)
            weight = weight * _sigmoid(logits[:, step] + self.intercepts[step])


def _zipf(size: int) -> Floats:
    """Probability of each id, falling as a power of its rank, [size]."""
    odds = np.arange(1, size + 1, dtype=np.float64) ** -ZIPF_EXPONENT
    return np.asarray(odds / odds.sum())


def _pick(odds: Floats, place: Floats) -> Ints:
    """Turn uniform numbers into ids by the inverse of the distribution function."""
    return np.minimum(np.searchsorted(np.cumsum(odds), place, side="right"), len(odds) - 1)


def _effect(rng: np.random.Generator, odds: Floats, width: int) -> Floats:
    """Draw a table [ids, width] whose columns have mean 0 and variance 1 under the odds of the ids."""
    table = rng.standard_normal((len(odds), width))
    table -= odds @ table
    scale = np.sqrt(odds @ table**2)
    return np.asarray(table / np.where(scale > 0, scale, 1.0))


def _chain(agreement: float, n_steps: int) -> Floats:
    """Lower triangular L with (L L^T)_ij = agreement^|i-j|, also where that matrix is singular."""
    power = np.subtract.outer(np.arange(n_steps), np.arange(n_steps))
    lower = np.tril(np.power(float(agreement), np.maximum(power, 0)))
    lower[:, 1:] *= np.sqrt(1.0 - agreement**2)
    return np.asarray(lower)


def _solve_intercept(logits: Floats, weight: Floats, rate: float) -> float:
    """Find b with sum(weight * sigmoid(logits + b)) = rate * sum(weight), by bisection."""
    low, high = -60.0 - float(logits.max()), 60.0 - float(logits.min())
    for _ in range(60):
        middle = (low + high) / 2
        if weight @ _sigmoid(logits + middle) < rate * weight.sum():
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _sigmoid(logits: Floats) -> Floats:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * logits)))


def _hash_to_unit(user: Ints, salt: int) -> Floats:
    """Map users to uniform numbers in [0, 1) by the SplitMix64 finaliser, the same in every chunk."""
    z = user.astype(np.uint64) + np.uint64((salt + 1) * 0x9E3779B97F4A7C15 & 0xFFFFFFFFFFFFFFFF)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return np.asarray((z >> np.uint64(11)).astype(np.float64) / 2.0**53)
