"""The tree of exceptions that funnelcast raises on purpose.

```
FunnelcastError
├── ConfigError      a dataset file, an experiment file, an option or a command line is wrong
├── UnknownNameError a name that no registry knows (models, losses, datasets)
├── DataError        raw or prepared data do not fit their description
└── ArtifactError    a file of ours (run, checkpoint, prepared folder) is missing, changed or damaged
```

Every message says what should be, what was received, and the valid choices where there are any.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["ArtifactError", "ConfigError", "DataError", "FunnelcastError", "UnknownNameError", "choices"]


class FunnelcastError(Exception):
    """Base of all errors raised on purpose; the command line prints it in one line and exits with 2."""


class ConfigError(FunnelcastError):
    """A dataset file, an experiment file, an option or a command line is wrong."""


class UnknownNameError(FunnelcastError):
    """A name that no registry knows."""


class DataError(FunnelcastError):
    """Raw or prepared data do not fit their description."""


class ArtifactError(FunnelcastError):
    """A run, checkpoint or prepared folder is missing, changed or damaged."""


def choices(known: Iterable[str], received: str | None = None) -> str:
    """Name the valid choices, the nearest one first when the received word looks like a slip.

    Args:
        known: the valid words.
        received: what the user wrote.

    Returns:
        A clause for the end of an error message.

    Example:
        >>> choices(["ple", "mmoe"], "plee")
        "did you mean 'ple'? known: mmoe, ple"
    """
    words = sorted(known)
    listing = f"known: {', '.join(words) if words else 'none'}"
    near = difflib.get_close_matches(received, words, n=1) if received else []
    return f"did you mean '{near[0]}'? {listing}" if near else listing
