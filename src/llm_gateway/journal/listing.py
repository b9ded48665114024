"""List a folder of the journal so that an error is never taken for an empty folder."""

from __future__ import annotations

import os
from pathlib import Path

SUFFIX = ".seg"
"""End of the name of a segment, which begins with its number."""


def names_in(folder: Path) -> list[str]:
    """Return the names in a folder, sorted; none if it does not exist.

    `Path.glob` hides all errors from Python 3.13 on: with no descriptor free, a journal would seem to be at its end.

    Raises:
        OSError: the folder cannot be listed.
    """
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries)
    except FileNotFoundError:
        return []


def segments_in(folder: Path) -> list[tuple[int, str]]:
    """Return the numbers and the names of the segments in a folder, ascending; none if it does not exist.

    Raises:
        OSError: the folder cannot be listed.
    """
    names = (name.removesuffix(SUFFIX) for name in names_in(folder) if name.endswith(SUFFIX))
    return sorted((int(name), name + SUFFIX) for name in names if name.isdecimal())
