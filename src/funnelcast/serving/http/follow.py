"""Services follow registries and a traffic file: what is new is checked and warmed before it counts."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from funnelcast.errors import ArtifactError, FunnelcastError
from funnelcast.serving.http.measure import log_line
from funnelcast.serving.http.variants import Variant, Variants
from funnelcast.serving.registry import Registry
from funnelcast.serving.traffic import read_traffic

__all__ = ["Follower"]

_LOOK = 0.3  # seconds between looks at the pointers
_AGAIN = 5.0  # seconds until a version that was refused is read again: a copy that was not complete may be by then


class Follower:
    """Looks at the pointers of registries and at the traffic file in a thread.

    Args:
        variants: of the service, in which a new version takes the place of the old one.
        traffic: the traffic file, or None.
        changed: called with the old and the new variant after a swap.
        refused: called with the variant's name where a version is not taken.
    """

    def __init__(
        self,
        variants: Variants,
        traffic: Path | None,
        changed: Callable[[Variant, Variant], None],
        refused: Callable[[str], None],
    ) -> None:
        self._registries = {name: Registry(folder) for name, folder in variants.registries.items()}
        self._traffic = traffic
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
                self._go_on(name, partial(self.look, name, registry))
            if self._traffic is not None:
                self._go_on("traffic", partial(self.look_at_traffic, self._traffic))

    def _go_on(self, name: str, look: Callable[[], None]) -> None:
        """Look, and go on whatever happens: the next look may find what is sound."""
        try:
            look()
        except Exception as error:
            self._tell(name, "follow_failed", f"{type(error).__name__}: {error}", error=True)

    def look_at_traffic(self, path: Path) -> None:
        """Take the shares of the traffic file, or say why not and keep the old ones.

        Args:
            path: of the file.
        """
        try:
            found = read_traffic(path)
            if found != self._variants.traffic:
                self._variants.reallocate(found)
                log_line("shares", experiment=found.experiment, shares=found.allocation.shares)
        except FunnelcastError as error:
            self._tell("traffic", "shares_refused", str(error))
        else:
            self._told.pop("traffic", None)

    def _tell(self, name: str, event: str, reason: str, **said: Any) -> None:
        """Log and count a reason, once for as long as it lasts."""
        if self._told.get(name) != reason:
            self._told[name] = reason
            log_line(event, level=logging.ERROR, reason=reason, **said)
            self._refused(name)

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
            self._tell(name, "swap_refused", str(error), variant=name, kept=old.version)
            return
        self._variants.replace(new)
        log_line("swapped", variant=name, version=new.version, former=old.version)
        self._changed(old, new)
