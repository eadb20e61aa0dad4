"""The bundles that answer, and which of them answers whom."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import msgspec

from funnelcast.errors import ArtifactError, ConfigError, choices
from funnelcast.experiment.allocation import Allocation
from funnelcast.serving.bundle import Bundle
from funnelcast.serving.http.columns import RawColumn, raw_columns
from funnelcast.serving.http.decode import parse_body
from funnelcast.serving.http.refusal import RefusalError, excerpt, quoted
from funnelcast.serving.http.rows import FEW_ROWS, raw_rows
from funnelcast.serving.http.settings import Settings
from funnelcast.serving.http.shapes import Shapes, shapes_of
from funnelcast.serving.registry import Registry
from funnelcast.serving.traffic import Traffic, read_traffic

__all__ = ["Variant", "Variants"]

_USER = 200  # characters of a user key
_SMALL_SECONDS = 0.002  # that a request may keep the event loop


@dataclass(frozen=True, eq=False)
class Variant:
    """A bundle under a name.

    Args:
        name: of the variant.
        bundle: what scores.
        columns: what JSON may hold.
        small_rows: rows of a request that the event loop may score.
    """

    name: str
    bundle: Bundle
    columns: Mapping[str, RawColumn]
    small_rows: int = 0

    @property
    def version(self) -> str:
        """What a score can be traced back by."""
        return self.bundle.version

    @cached_property
    def shapes(self) -> Shapes:
        """Decoders of requests; variants with the same columns share them."""
        return shapes_of(tuple(self.columns.values()))

    @classmethod
    def load(cls, name: str, folder: Path) -> Variant:
        """Read and check a bundle, and make it ready for small requests.

        Args:
            name: of the variant.
            folder: the bundle.

        Raises:
            ArtifactError: the bundle is damaged.
        """
        bundle = Bundle.load(folder)
        bundle.encoders.keep_dictionaries()
        bundle.verify()  # with the dictionaries, and warm
        columns = raw_columns(bundle.encoders)
        return cls(name, bundle, columns, _small_rows(bundle, columns))


class Variants:
    """All bundles of a service with the users' places.

    Args:
        variants: by name.
        traffic: whom each of them answers.
        registries: name of a variant -> the registry that it follows.
        shadows: names of those that answer nobody, unless the traffic gives them users.

    Raises:
        ConfigError: the traffic names another variant.
    """

    def __init__(
        self,
        variants: Mapping[str, Variant],
        traffic: Traffic,
        registries: Mapping[str, Path],
        shadows: Collection[str] = (),
    ) -> None:
        self.all, self.registries, self.shadows = dict(variants), dict(registries), frozenset(shadows)
        self.traffic = self._checked(traffic)

    @property
    def small_rows(self) -> int:
        """Rows that the event loop may score, whichever variant answers."""
        return min(variant.small_rows for variant in self.all.values())

    @property
    def shapes(self) -> Shapes:
        """Decoders of requests before it is known which variant answers: those of the first one."""
        return next(iter(self.all.values())).shapes

    @classmethod
    def load(cls, folders: Sequence[Path], settings: Settings) -> Variants:
        """Read bundles; each is a variant with the name of its folder.

        Args:
            folders: bundles, or registries, of which the current version is taken.
            settings: with the shares or the traffic file.

        Raises:
            ConfigError: two bundles have one name, or the shares name others.
            ArtifactError: a bundle or the traffic file is damaged.
        """
        names = [folder.resolve().name for folder in folders]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ConfigError(f"bundles should stand in folders of different names, received '{twice[0]}' twice")
        traffic = _traffic(names, settings)
        places = dict(zip(names, folders, strict=True))
        registries = {name: folder for name, folder in places.items() if Registry.is_at(folder)}
        for name, folder in places.items():
            if name not in registries and Registry.is_idle(folder):
                raise ArtifactError(
                    f"{folder}: a registry of which no version answers; let one by: funnelcast registry activate "
                    f"{folder} VERSION; {choices(Registry(folder).versions())}"
                )
        for name, folder in registries.items():
            registry = Registry(folder)
            places[name] = registry.path(registry.current().version)
        loaded = {name: Variant.load(name, folder) for name, folder in places.items()}
        return cls(loaded, traffic, registries, settings.shadow.shares)

    def _checked(self, traffic: Traffic) -> Traffic:
        shares = traffic.allocation.shares
        if unknown := [name for name in shares if name not in self.all]:
            raise ConfigError(f"shares: no bundle has the name '{unknown[0]}'; {choices(self.all, unknown[0])}")
        return traffic

    def reallocate(self, traffic: Traffic) -> None:
        """Change whom the variants answer.

        Args:
            traffic: the new shares.

        Raises:
            ConfigError: they name another variant; the old ones stay.
        """
        self.traffic = self._checked(traffic)

    def replace(self, variant: Variant) -> None:
        """Let a new bundle answer in the place of the variant of its name; requests that run end with the old one.

        Args:
            variant: the new one.
        """
        self.all = {**self.all, variant.name: variant}

    def of(self, user: str | int | None) -> tuple[Variant, str]:
        """Return the variant of a user, always the same while shares are, and the name of the experiment.

        Args:
            user: key of the user; may be left out where there is one variant.

        Raises:
            RefusalError: there is no key though there are several variants, or it is too long.
        """
        variants, (experiment, allocation, _) = self.all, self.traffic
        if user is None or user == "":
            answering = [name for name in variants if name not in self.shadows or name in allocation.shares]
            if len(answering) > 1:
                raise RefusalError(
                    400,
                    "missing_user",
                    "the body should have a 'user', who decides between the variants, received none",
                    column="user",
                )
            return variants[answering[0]], experiment
        if len(str(user)) > _USER:
            wanted = f"'user' should have at most {_USER} characters"
            raise RefusalError(400, "out_of_range", f"{wanted}, received {excerpt(user)}", column="user")
        if len(allocation.shares) == 1:
            return variants[next(iter(allocation.shares))], experiment  # no hash is needed
        return variants[allocation.assign([user], experiment)[0]], experiment

    def named(self, name: str, version: str | None = None) -> Variant:
        """Return a variant by its name.

        Args:
            name: of the variant.
            version: of its bundle; None takes any.

        Raises:
            RefusalError: there is none.
        """
        variant = self.all.get(name)
        if variant is None:
            known = ", ".join(self.all)
            raise RefusalError(404, "unknown_model", f"there is no model {quoted(name)}; known: {known}")
        if version is not None and version != variant.version:
            wanted = f"the model '{name}' has the version '{variant.version}'"
            raise RefusalError(404, "unknown_version", f"{wanted}, received {excerpt(version)}")
        return variant


def _small_rows(bundle: Bundle, columns: Mapping[str, RawColumn]) -> int:
    """Measure how many rows are parsed and scored in `_SMALL_SECONDS`, with half of it left for the answer."""
    try:
        one, all_rows = _seconds(bundle, columns, 1), _seconds(bundle, columns, FEW_ROWS)
    except RefusalError:
        return 0  # the golden rows hold what no JSON can say
    a_row = max((all_rows - one) / (FEW_ROWS - 1), 1e-7)
    return max(0, min(FEW_ROWS, int((_SMALL_SECONDS / 2 - one) / a_row)))


def _seconds(bundle: Bundle, columns: Mapping[str, RawColumn], rows: int) -> float:
    """Least time of the processor for golden rows; what else runs on the machine does not count."""
    golden, taken = bundle.golden.rows, []
    body = msgspec.json.encode({"candidates": [golden[number % len(golden)] for number in range(rows)]})
    for _ in range(5):
        started = time.thread_time()
        given, few = raw_rows(parse_body(body), columns, largest=rows, strict=False), bundle.encoders.few
        if few is None or given.cells is None:
            bundle.score(given.table)
        else:
            bundle.score_ids(few.ids(given.cells))
        taken.append(time.thread_time() - started)
    return min(taken)


def _traffic(names: Sequence[str], settings: Settings) -> Traffic:
    """Read or make the shares of bundles; a shadow needs none."""
    shadows = settings.shadow.shares
    if unknown := [name for name in shadows if name not in names]:
        raise ConfigError(f"key 'shadow.shares': no bundle has the name '{unknown[0]}'; {choices(names, unknown[0])}")
    answering = [name for name in names if name not in shadows]
    if not answering:
        raise ConfigError(f"key 'shadow.shares' should leave a bundle that answers, received {', '.join(names)}")
    if settings.traffic is not None:
        return read_traffic(settings.traffic)
    shares = settings.shares or dict.fromkeys(answering, 1 / len(answering))
    if unknown := [name for name in shares if name not in names]:
        raise ConfigError(f"key 'shares': no bundle has the name '{unknown[0]}'; {choices(names, unknown[0])}")
    if left := [name for name in answering if name not in shares]:
        raise ConfigError(f"key 'shares' should name every bundle, received none for '{left[0]}'")
    return Traffic(settings.experiment, Allocation.of(shares))
