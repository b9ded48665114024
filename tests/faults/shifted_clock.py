"""Gateways whose system clock is wrong, by libfaketime (https://github.com/wolfcw/libfaketime)."""

from __future__ import annotations

import os
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

import pytest

from tests.e2e.process import CommandProcess

NAME = "libfaketime.so.1"
PLACES = ("/usr/lib", "/usr/lib64", "/usr/local/lib")
BELOW = (NAME, f"faketime/{NAME}", f"*/faketime/{NAME}")
"""Where packages of distributions put it in one of PLACES; to look into all folders takes 1 s of CPU time."""
SLEEP = """
import select, time
time.sleep = lambda seconds: select.select((), (), (), seconds) and None
"""
"""Each interpreter runs this first: libfaketime breaks `clock_nanosleep` until a moment of the monotonic clock, which
`time.sleep` calls (its `clock_nanosleep` subtracts its own start, also with DONT_FAKE_MONOTONIC; seen in 0.9.10)."""
MISSING = "no libfaketime, which gives a process another clock: run apt-get install libfaketime"


def library() -> Path:
    """Return the path of libfaketime: that of the package `libfaketime`, else the system's. Skips the test without."""
    found = find_spec("libfaketime")
    own = () if found is None or found.origin is None else Path(found.origin).parent.glob(f"**/{NAME}")
    files = (file for place in PLACES for pattern in BELOW for file in sorted(Path(place).glob(pattern)))
    file = next(chain(own, files), None)
    if file is None:
        pytest.skip(MISSING)
    return file


class ShiftedGateway(CommandProcess):
    """A gateway whose clock is ahead by some hours; monotonic clocks and the times of files stay as they are."""

    def __init__(self, directory: Path, hours: int, **settings: object) -> None:
        super().__init__(directory, **settings)
        site = directory / "shifted"
        site.mkdir(exist_ok=True)
        (site / "sitecustomize.py").write_text(SLEEP)
        path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
        self._environment |= {
            "PYTHONPATH": path,
            "LD_PRELOAD": str(library()),
            "FAKETIME": f"{hours:+d}h",
            "DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }
