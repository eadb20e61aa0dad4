"""Each library in a virtual environment of its own, with versions pinned beside this file."""

from __future__ import annotations

import subprocess
import venv
from pathlib import Path

HERE = Path(__file__).parent


def python_of(library: str, work: Path) -> Path:
    """Return the interpreter of a library's environment, made now unless it is there with the same versions."""
    requirements = HERE / f"{library}.txt"
    folder = work / library
    python, installed = folder / "bin" / "python", folder / "installed.txt"
    if not installed.is_file() or installed.read_text() != requirements.read_text():
        print(f"== install {library} into {folder}", flush=True)
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", "--requirement", requirements], check=True)
        installed.write_text(requirements.read_text())
    return python
