"""A bundle's manifest: which files belong to it, their sizes and checksums; nothing else of a bundle is ever read."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pydantic import Field as Key
from pydantic import ValidationError

from funnelcast.data.encode_stored import Stored, first_fault
from funnelcast.errors import ArtifactError, choices
from funnelcast.files import check_sha256, json_sha256, read_json, sha256, write_json

__all__ = ["FILES", "FORMAT", "MANIFEST", "MODEL_FILES", "Manifest"]

FORMAT = 1
MANIFEST = "manifest.json"
MODEL_FILES = {"onnx": "model.onnx", "torch": "model.pt2"}
_ALWAYS = ("schema.json", "encoders.json", "golden.json", "README.md")
FILES = (*_ALWAYS, "calibration.json", *MODEL_FILES.values())
_SIGNED = ("target", "name", "run_sha256", "made_by", "files")
_KIND = "the manifest of a bundle"
_LARGEST_MANIFEST, _LARGEST_FILE = 1 << 20, 2**31  # bytes


class FileRecord(NamedTuple):
    """What a file should be.

    Args:
        size: its bytes.
        sha256: its checksum.
    """

    size: int
    sha256: str


class _File(Stored):
    size: int = Key(alias="bytes")
    sha256: str = Key(pattern="^[0-9a-f]{64}$")


class _Signed(Stored):
    target: str
    name: str
    run_sha256: str
    made_by: dict[str, str]
    files: dict[str, _File]


@dataclass(frozen=True)
class Manifest:
    """What a bundle consists of.

    Args:
        target: `onnx` or `torch`.
        name: of the experiment.
        run_sha256: checksum of the run's fitted files.
        files: by name.
        made_by: versions of the packages that wrote it.
    """

    target: str
    name: str
    run_sha256: str
    files: dict[str, FileRecord]
    made_by: dict[str, str]

    @property
    def calibrated(self) -> bool:
        """Whether the bundle has a calibration."""
        return "calibration.json" in self.files

    @property
    def model_file(self) -> str:
        """Name of the model's file."""
        return MODEL_FILES[self.target]

    @classmethod
    def of(cls, folder: Path, *, target: str, name: str, run_sha256: str, made_by: dict[str, str]) -> Manifest:
        """Measure the files of a folder.

        Args:
            folder: has the files of a bundle.
            target: as above, and so the next three.
            name: as above.
            run_sha256: as above.
            made_by: as above.
        """
        paths = [folder / file for file in sorted(FILES) if (folder / file).exists()]
        files = {path.name: FileRecord(path.stat().st_size, sha256(path)) for path in paths}
        return cls(target, name, run_sha256, files, made_by)

    def write(self, folder: Path) -> None:
        """Write the manifest beside the files."""
        record = {"target": self.target, "name": self.name, "run_sha256": self.run_sha256, "made_by": self.made_by}
        files = {name: {"bytes": file.size, "sha256": file.sha256} for name, file in self.files.items()}
        signed = {**record, "files": files}
        write_json(folder / MANIFEST, {"format": FORMAT, **signed, "sha256": json_sha256(signed)})

    @classmethod
    def read(cls, folder: Path) -> Manifest:
        """Read a manifest and check every file but the model, whose bytes `read_model` checks.

        Args:
            folder: the bundle.

        Raises:
            ArtifactError: there is no bundle, it is of another format, names a file that is none of a bundle's, or a
                file is missing, a link, of another size, or damaged.
        """
        path = folder / MANIFEST
        _check_plain(path, _KIND)
        _check_size(path, _LARGEST_MANIFEST)
        record = read_json(path, _KIND, *_SIGNED, "sha256", version=FORMAT)
        found = json_sha256({key: record[key] for key in _SIGNED})
        if found != record["sha256"]:
            raise ArtifactError(
                f"{path}: has changed or is damaged: sha256 should be {record['sha256']}, received {found}"
            )
        try:
            signed = _Signed.model_validate(record)
        except ValidationError as error:
            raise ArtifactError(f"{path}: should be {_KIND}, but {first_fault(error)}") from error
        if signed.target not in MODEL_FILES:
            raise ArtifactError(f"{path}: unknown target {signed.target!r}; {choices(MODEL_FILES, signed.target)}")
        files = {name: FileRecord(file.size, file.sha256) for name, file in signed.files.items()}
        manifest = cls(signed.target, signed.name, signed.run_sha256, files, signed.made_by)
        manifest._check_names(path)
        for name, file in files.items():
            _check_plain(folder / name, "a file of the bundle")
            _check_length(folder / name, file.size)
            if name != manifest.model_file:
                check_sha256(folder / name, file.sha256)
        return manifest

    def read_model(self, folder: Path) -> bytes:
        """Read the model once, so that the bytes that were checked are the bytes that are used.

        Args:
            folder: the bundle.

        Raises:
            ArtifactError: the model is damaged.
        """
        path = folder / self.model_file
        with path.open("rb") as file:
            data = file.read(self.files[path.name].size + 1)
        found, expected = hashlib.sha256(data).hexdigest(), self.files[path.name].sha256
        if found != expected:
            raise ArtifactError(f"{path}: has changed or is damaged: sha256 should be {expected}, received {found}")
        return data

    def _check_names(self, path: Path) -> None:
        """Refuse names of other files, such as paths out of the folder, and a list that is not complete."""
        known = {*_ALWAYS, "calibration.json", self.model_file}
        for name in self.files:
            if name not in known:
                raise ArtifactError(f"{path}: should name files of a bundle alone, received '{name}'; {choices(known)}")
        _check_complete(path, self.files, (*_ALWAYS, self.model_file))


def _check_complete(path: Path, files: Collection[str], wanted: Sequence[str]) -> None:
    missing = [name for name in wanted if name not in files]
    if missing:
        raise ArtifactError(f"{path}: should list '{missing[0]}', received {', '.join(sorted(files)) or 'no file'}")


def _check_plain(path: Path, kind: str) -> None:
    """Refuse links, which may lead anywhere, and whatever else is no file."""
    if path.is_symlink():
        raise ArtifactError(f"{path}: should be {kind}, received a symbolic link")
    if not path.exists():
        raise ArtifactError(f"{path}: should be {kind}, but does not exist")
    if not path.is_file():
        raise ArtifactError(f"{path}: should be {kind}, received no regular file")


def _check_size(path: Path, largest: int) -> None:
    found = path.stat().st_size
    if found > largest:
        raise ArtifactError(f"{path}: should have at most {largest:,} bytes, received {found:,}")


def _check_length(path: Path, expected: int) -> None:
    found = path.stat().st_size
    if found != expected:
        raise ArtifactError(f"{path}: should have {expected:,} bytes, received {found:,}")
    _check_size(path, _LARGEST_FILE)
