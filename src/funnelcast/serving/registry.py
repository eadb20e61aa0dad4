"""A registry: bundles under their versions, a pointer to the one that answers, and a log of every change.

```
current.json        which version answers, and which one did before
versions/<version>/ bundles, never changed
audit.jsonl         one line a change, refused ones among them; what a crash left of a line stands on a line of its own
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
from typing import IO, Any, NamedTuple

from funnelcast.errors import ArtifactError, FunnelcastError, choices
from funnelcast.files import make_folder, read_json, temporary_beside, write_json
from funnelcast.serving.bundle import Bundle
from funnelcast.serving.manifest import FILES, MANIFEST

__all__ = ["CURRENT", "NotLoggedError", "Pointer", "Registry", "user_name"]

FORMAT = 1
CURRENT, AUDIT = "current.json", "audit.jsonl"
_VERSION = re.compile(r"[0-9a-f]{12}")


class NotLoggedError(ArtifactError):
    """A registry was changed as it should be, and its log has no line of it."""


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
            NotLoggedError: it was added, and the log could not be written.
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
            NotLoggedError: it answers, and the log could not be written.
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
            NotLoggedError: it answers, and the log could not be written.
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
        """Keep others from changing the registry, and write down what was done, refused or failed."""
        if action != "add":
            self.check()
        with self._locked() as audit:
            now, by = datetime.now(UTC).isoformat(), self._by or user_name()
            line: dict[str, Any] = {"time": now, "by": by, "action": action, **said}
            try:
                yield line
            except FunnelcastError as error:
                line["outcome"] = f"refused: {error}"
                if failure := _append(audit, line):
                    raise ArtifactError(f"{error}; nor could this be written to {AUDIT}: {failure}") from error
                raise
            except BaseException as error:  # of a user who interrupts, too
                line["outcome"] = f"failed: {error!r}"
                _append(audit, line)
                raise
            line["outcome"] = "done"
            if failure := _append(audit, line):
                done = f"{self.folder}: '{action}' of '{line['version']}' is done"
                raise NotLoggedError(f"{done}, but could not be written to {AUDIT}: {failure}") from failure

    @contextmanager
    def _locked(self) -> Iterator[IO[bytes]]:
        """Open the log, which is also the lock, for nobody else."""
        try:
            # Without a buffer, which would write once more what could not be written when the file is closed.
            with (self.folder / AUDIT).open("a+b", buffering=0) as audit:
                fcntl.flock(audit, fcntl.LOCK_EX)
                yield audit
        except OSError as error:
            raise ArtifactError(f"{self.folder}: the registry could not be changed: {error}") from error


def _append(audit: IO[bytes], line: dict[str, Any]) -> OSError | None:
    """Write a line of its own, also behind one that a crash left unfinished; return what kept it from the disk."""
    data = json.dumps(line).encode() + b"\n"
    try:
        if audit.seek(0, os.SEEK_END):
            audit.seek(-1, os.SEEK_END)
            data = data if audit.read(1) == b"\n" else b"\n" + data
        while data:
            data = data[audit.write(data) :]
        os.fsync(audit.fileno())
    except OSError as error:
        return error
    return None


def user_name() -> str:
    """Name who runs this process, for logs of changes."""
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container's user may have no name
        return str(os.getuid())
