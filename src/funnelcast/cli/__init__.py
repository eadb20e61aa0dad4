"""The command `funnelcast`: one file a command, each of which parses, calls one function and prints."""

from __future__ import annotations

import sys

from rich.console import Console

from funnelcast.cli.shell import app
from funnelcast.errors import FunnelcastError
from funnelcast.process import prepare_process
from funnelcast.registry import import_siblings

__all__ = ["app", "main"]

import_siblings(__name__, __path__)


def main() -> None:
    """Run the command line; our own errors become one line and exit code 2, Ctrl-C exit code 130."""
    prepare_process()
    try:
        app(standalone_mode=True)
    except FunnelcastError as error:
        _say(str(error))
        sys.exit(2)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "funnelcast":
            raise
        _say(f"this command needs '{error.name}', which is not installed; install all by: pip install funnelcast")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


def _say(message: str) -> None:
    Console(stderr=True).print(f"error: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
