"""A registry: bundles under their versions, a pointer to the one that answers, and a log of every change.

```
current.json        which version answers, and which one did before
versions/<version>/ bundles, never changed
audit.jsonl         one line a change, refused ones among them
```
"""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from funnelcast.errors import ArtifactError, FunnelcastError, choices
from funnelcast.files import make_folder, read_json, temporary_beside, write_json
from funnelcast.serving.bundle import Bundle
from funnelcast.serving.manifest import FILES, MANIFEST

__all__ = ["CURRENT", "Pointer", "Registry", "user_name"]

FORMAT = 1
CURRENT, AUDIT = "current.json", "audit.jsonl"
_VERSION = re.compile(r"[0-9a-f]{12}")


class Pointer(NamedTuple):
    """What `current.json` says.

    Args:
        version: that answers.
        former: the one before, to which `rollback` goes back; None at first.
    """

    version: str
    former: str | None


class Registry:
    """A folder of bundles; several processes may change it, one after the other.

    Args:
        folder: of the registry.
        by: who changes it, for the log; None for the user of this process.
    """

    def __init__(self, folder: Path, by: str | None = None) -> None:
        self.folder, self._by = folder, by

    @staticmethod
    def is_at(folder: Path) -> bool:
        """Say whether a folder is a registry with a version that answers.

        Args:
            folder: a registry, or a bundle.
        """
        return (folder / CURRENT).is_file()

    @staticmethod
    def is_idle(folder: Path) -> bool:
        """Say whether a folder is a registry of which no version answers yet.

        Args:
            folder: a registry, or a bundle.
        """
        return (folder / "versions").is_dir() and not Registry.is_at(folder) and not (folder / MANIFEST).exists()

    def versions(self) -> list[str]:
        """Return all versions, in the order of their names."""
        return sorted(path.name for path in self.folder.glob("versions/*") if _VERSION.fullmatch(path.name))

    def path(self, version: str) -> Path:
        """Return the folder of a version.

        Args:
            version: twelve digits.

        Raises:
            ArtifactError: there is no such version, or it is a link.
        """
        path = self.folder / "versions" / version
        if not _VERSION.fullmatch(version) or not path.is_dir():
            raise ArtifactError(f"{self.folder}: no version '{version}'; {choices(self.versions(), version)}")
        if path.is_symlink():
            raise ArtifactError(f"{path}: should be a folder, received a symbolic link")
        return path

    def current(self) -> Pointer:
        """Read which version answers.

        Raises:
            ArtifactError: none does, or the pointer is damaged.
        """
        path = self.folder / CURRENT
        record = read_json(path, "the pointer of a registry", "version", "former", version=FORMAT)
        pointer = Pointer(record["version"], record["former"])
        for version in (pointer.version, *([] if pointer.former is None else [pointer.former])):
            if not isinstance(version, str) or not _VERSION.fullmatch(version):
                raise ArtifactError(f"{path}: should name a version of twelve digits, received {version!r}")
        return pointer

    def add(self, bundle: Path) -> str:
        """Copy a bundle into the registry, after checking the copy; it does not answer yet.

        Args:
            bundle: that `export` wrote.

        Returns:
            Its version; adding it again changes nothing.

        Raises:
            ArtifactError: the bundle is damaged, gives other scores, or cannot be copied; or the folder holds other
                files than a registry's.
        """
        self._make()
        with self._change("add") as said:
            new = self.folder / "versions" / "new"
            for left in new.parent.glob(f".{new.name}.*.tmp"):  # by a process that was killed
                shutil.rmtree(left, ignore_errors=True)
            temporary = temporary_beside(new)
            try:
                temporary.mkdir(parents=True)
                Bundle.load(bundle)
                for name in (MANIFEST, *FILES):
                    if (bundle / name).is_file():
                        shutil.copyfile(bundle / name, temporary / name)
                version = said["version"] = Bundle.load(temporary).version
                if version in self.versions():
                    Bundle.load(self.path(version))
                else:
                    temporary.rename(self.folder / "versions" / version)
            except OSError as error:
                raise ArtifactError(f"{self.folder}: {bundle} could not be added: {error}") from error
            finally:
                shutil.rmtree(temporary, ignore_errors=True)
        return version

    def activate(self, version: str) -> None:
        """Let a version answer; services that follow the registry take it within a second.

        Args:
            version: that was added.

        Raises:
            ArtifactError: there is none, or it is damaged or gives other scores; the pointer stays.
        """
        with self._change("activate", version=version) as said:
            former = said["former"] = self._former(version)
            self._point(version, former)

    def rollback(self) -> str:
        """Let the version before answer again.

        Returns:
            That version.

        Raises:
            ArtifactError: there is none, or it is damaged.
        """
        with self._change("rollback") as said:
            pointer = self.current()
            if pointer.former is None:
                raise ArtifactError(f"{self.folder}: there is no version before '{pointer.version}' to go back to")
            said |= {"version": pointer.former, "former": pointer.version}
            self._point(pointer.former, pointer.version)
        return pointer.former

    def _former(self, version: str) -> str | None:
        """Return the version to which `rollback` shall go back; a pointer that is damaged is replaced by a new one."""
        try:
            pointer = self.current()
        except ArtifactError:
            return None
        return pointer.former if pointer.version == version else pointer.version

    def _make(self) -> None:
        """Make the folder, unless it is one of something else."""
        names = {path.name for path in self.folder.iterdir()} if self.folder.is_dir() else set()
        if names and "versions" not in names and AUDIT not in names:
            what = "a bundle" if MANIFEST in names else "other files"
            raise ArtifactError(f"{self.folder}: should be a new folder, an empty one or a registry, received {what}")
        make_folder(self.folder)

    def check(self) -> None:
        """Find that there is a registry.

        Raises:
            ArtifactError: there is none.
        """
        if not (self.folder / AUDIT).is_file() and not self.is_at(self.folder):
            raise ArtifactError(
                f"{self.folder}: should be a registry, received none; `funnelcast registry add` makes one"
            )

    def _point(self, version: str, former: str | None) -> None:
        found = Bundle.load(self.path(version)).version
        if found != version:
            raise ArtifactError(f"{self.path(version)}: should have the version '{version}', received '{found}'")
        write_json(self.folder / CURRENT, {"format": FORMAT, "version": version, "former": former})

    @contextmanager
    def _change(self, action: str, **said: Any) -> Iterator[dict[str, Any]]:
        """Keep others from changing the registry, and write down what was done or refused."""
        if action != "add":
            self.check()
        try:
            with (self.folder / AUDIT).open("a", encoding="utf-8") as audit:
                fcntl.flock(audit, fcntl.LOCK_EX)
                line: dict[str, Any] = {
                    "time": datetime.now(UTC).isoformat(),
                    "by": self._by or user_name(),
                    "action": action,
                    **said,
                }
                try:
                    yield line
                    line["outcome"] = "done"
                except FunnelcastError as error:
                    line["outcome"] = f"refused: {error}"
                    raise
                finally:
                    audit.write(json.dumps(line) + "\n")
                    audit.flush()
                    os.fsync(audit.fileno())
        except OSError as error:
            raise ArtifactError(f"{self.folder}: the registry could not be changed: {error}") from error


def user_name() -> str:
    """Name who runs this process, for logs of changes."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return str(os.getuid())
