"""Name -> class, for models, trees, losses, datasets, trackers, exporters; a file registers under its own name."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any, Generic, Literal, TypeVar, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from funnelcast.errors import ConfigError, UnknownNameError, choices

__all__ = [
    "DATASETS",
    "EXPORTERS",
    "LOSSES",
    "MODELS",
    "TRACKERS",
    "TREES",
    "Registry",
    "import_siblings",
    "registry_of",
]

T = TypeVar("T")


class Registry(Generic[T]):
    """Classes of one kind by name; the package that holds them is imported at the first look-up.

    Args:
        kind: the word for error messages, such as `model`.
        package: the package whose modules register themselves.

    Example:
        >>> "apem" in MODELS.names()
        True
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self._package = package
        self._classes: dict[str, type[T]] = {}
        self._variants: dict[str, dict[str, Any]] = {}

    def register(self, cls: type[T]) -> type[T]:
        """Register a class under the name of the file it stands in.

        The class may name configurations of itself that deserve a row of their own, in a class attribute
        `variants: ClassVar[dict[str, dict[str, Any]]]`, name -> options; each is registered beside the class.

        Args:
            cls: the class; its constructor is keyword-only after its leading positional arguments.

        Returns:
            The class, unchanged.

        Raises:
            ValueError: another class has this name or that of a variant.
        """
        name = cls.__module__.rpartition(".")[2]
        variants: dict[str, dict[str, Any]] = cls.__dict__.get("variants", {})
        for new, options in {name: {}, **variants}.items():
            if self._classes.get(new, cls).__qualname__ != cls.__qualname__:
                raise ValueError(f"{self.kind} '{new}' is registered twice: {self._classes[new]} and {cls}")
            self._classes[new], self._variants[new] = cls, options
        return cls

    def preset(self, name: str) -> dict[str, Any]:
        """Return the options by which a name differs from its class: those of a variant, else none.

        Args:
            name: a registered name.

        Raises:
            UnknownNameError: no class has this name.

        Example:
            >>> MODELS.preset("single_task_local")
            {'space': 'local'}
        """
        self.get(name)
        return dict(self._variants[name])

    def names(self) -> list[str]:
        """Return all known names in alphabetical order."""
        importlib.import_module(self._package)
        return sorted(self._classes)

    def get(self, name: str) -> type[T]:
        """Return the class of a name.

        Args:
            name: a registered name.

        Raises:
            UnknownNameError: no class has this name; the message lists the known ones.
        """
        known = self.names()
        if name not in self._classes:
            raise UnknownNameError(f"unknown {self.kind} '{name}'; {choices(known, name)}")
        return self._classes[name]

    def family(self, name: str) -> str:
        """Return the name of the file in which a name is defined: a variant's class stands in that of its family.

        Args:
            name: a registered name.

        Raises:
            UnknownNameError: no class has this name.

        Example:
            >>> MODELS.family("single_task_local")
            'single_task'
        """
        return self.get(name).__module__.rpartition(".")[2]

    def options(self, name: str) -> dict[str, inspect.Parameter]:
        """Return the keyword-only parameters of a class: its configuration, with a variant's values as defaults.

        Args:
            name: a registered name.

        Raises:
            UnknownNameError: no class has this name.
        """
        parameters = inspect.signature(self.get(name)).parameters
        known = {key: p for key, p in parameters.items() if p.kind is inspect.Parameter.KEYWORD_ONLY}
        return known | {key: known[key].replace(default=value) for key, value in self.preset(name).items()}

    def create(self, name: str, *args: object, options: Mapping[str, Any]) -> T:
        """Construct a class by name with the options of a configuration file.

        Args:
            name: a registered name.
            *args: positional arguments of the constructor.
            options: keyword arguments of the constructor.

        Raises:
            UnknownNameError: no class has this name.
            ConfigError: an option is unknown, missing, or refused by the constructor.
        """
        known = self.options(name)
        options = {**self.preset(name), **options}
        for key in options:
            if key not in known:
                raise ConfigError(f"{self.kind} '{name}' has no option '{key}'; {choices(known, key)}")
        missing = [k for k, p in known.items() if p.default is inspect.Parameter.empty and k not in options]
        if missing:
            raise ConfigError(f"{self.kind} '{name}' needs the option(s) {', '.join(missing)}")
        arguments = {key: self._typed(name, key, value) for key, value in options.items()}
        try:
            return self.get(name)(*args, **arguments)
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            raise ConfigError(f"{self.kind} '{name}': '{key}': {first['msg']}; received {first['input']!r}") from error

    def _typed(self, name: str, key: str, value: object) -> object:
        """Bring an option to the type that the constructor's signature names, such as a list to a tuple."""
        hint = get_type_hints(self.get(name).__init__).get(key, Any)
        try:
            return TypeAdapter(hint, config=ConfigDict(allow_inf_nan=False)).validate_python(value)
        except ValidationError as error:
            expected = f"should be {self.options(name)[key].annotation}, received {value!r}"
            if any(found["type"] == "finite_number" for found in error.errors()):
                expected = f"should be finite, received {value!r}"
            elif get_origin(hint) is Literal:
                expected = f"should be a known word, received {value!r}; {choices(get_args(hint), str(value))}"
            raise ConfigError(f"{self.kind} '{name}': option '{key}' {expected}") from error


def import_siblings(package: str, path: list[str]) -> None:
    """Import every module of a package so that each file can register itself.

    Args:
        package: the package's dotted name (`__name__`).
        path: its search path (`__path__`).
    """
    for module in pkgutil.iter_modules(path):
        importlib.import_module(f"{package}.{module.name}")


MODELS: Registry[Any] = Registry("model", "funnelcast.models")
LOSSES: Registry[Any] = Registry("loss", "funnelcast.losses")
DATASETS: Registry[Any] = Registry("dataset", "funnelcast.datasets")
TRACKERS: Registry[Any] = Registry("tracker", "funnelcast.tracking")
EXPORTERS: Registry[Any] = Registry("export target", "funnelcast.export")
TREES: Registry[Any] = Registry("model", "funnelcast.trees")


def registry_of(name: str) -> Registry[Any]:
    """Return the registry of a model's name: MODELS of what is trained by gradients, TREES of what fits itself.

    Args:
        name: what stands in an experiment file.

    Raises:
        UnknownNameError: neither has this name; the message lists the names of both.

    Example:
        >>> registry_of("lightgbm") is TREES, registry_of("apem") is MODELS
        (True, True)
    """
    known = {known: registry for registry in (MODELS, TREES) for known in registry.names()}
    if name not in known:
        raise UnknownNameError(f"unknown model '{name}'; {choices(known, name)}")
    return known[name]
