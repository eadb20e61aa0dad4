"""Services follow their registries: a new version is checked and warmed before it answers, and a bad one never does."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from funnelcast.errors import ArtifactError, FunnelcastError
from funnelcast.serving.http.measure import log_line
from funnelcast.serving.http.variants import Variant, Variants
from funnelcast.serving.registry import Registry

__all__ = ["Follower"]

_LOOK = 0.3  # seconds between looks at the pointers
_AGAIN = 5.0  # seconds until a version that was refused is read again: a copy that was not complete may be by then


class Follower:
    """Looks at the pointers of registries in a thread.

    Args:
        registries: name of the variant -> registry.
        variants: of the service, in which a new version takes the place of the old one.
        changed: called with the old and the new variant after a swap.
        refused: called with the variant's name where a version is not taken.
    """

    def __init__(
        self,
        registries: Mapping[str, Path],
        variants: Variants,
        changed: Callable[[Variant, Variant], None],
        refused: Callable[[str], None],
    ) -> None:
        self._registries = {name: Registry(folder) for name, folder in registries.items()}
        self._variants, self._changed, self._refused = variants, changed, refused
        self._told: dict[str, str] = {}  # the last reason of each variant, so that it is told once
        self._until: dict[tuple[str, str], float] = {}  # variant and refused version -> when it is read again
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="follow", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._stop.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._stop.wait(_LOOK):
            for name, registry in self._registries.items():
                self.look(name, registry)

    def look(self, name: str, registry: Registry) -> None:
        """Take the version that a registry points to, or say why not and keep the old one.

        Args:
            name: of the variant.
            registry: that is followed.
        """
        old, version = self._variants.all[name], ""
        try:
            version = registry.current().version
            if version == old.version:
                self._told.pop(name, None)
                return
            if time.monotonic() < self._until.get((name, version), 0.0):
                return
            new = Variant.load(name, registry.path(version))
            if new.version != version:
                raise ArtifactError(f"{registry.path(version)}: should have its version, received '{new.version}'")
        except (FunnelcastError, OSError) as error:
            self._until[name, version] = time.monotonic() + _AGAIN
            if self._told.get(name) != str(error):
                self._told[name] = str(error)
                log_line("swap_refused", level=logging.ERROR, variant=name, kept=old.version, reason=str(error))
                self._refused(name)
            return
        self._variants.replace(new)
        log_line("swapped", variant=name, version=new.version, former=old.version)
        self._changed(old, new)
