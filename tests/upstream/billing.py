"""Bills of the mock vendor: one line per call in its journal, written before the call is answered.

Tests that kill the gateway compare the gateway's records with these lines.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec


class Bill(msgspec.Struct, gc=False):
    """A call that was received. `marker` is the test's name for the call: the text after `marker:` in the prompt."""

    id: str
    n: int
    model: str
    marker: str | None
    behaviour: str
    prompt_tokens: int
    completion_tokens: int
    time: float


class BillingJournal:
    """A file of bills. With `fsync`, a bill survives power loss; without it, a kill of this process."""

    def __init__(self, path: Path, *, fsync: bool = False) -> None:
        self._fsync = fsync
        self._encoder = msgspec.json.Encoder()
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def append(self, bill: Bill) -> None:
        os.write(self._file, self._encoder.encode(bill) + b"\n")
        if self._fsync:
            os.fdatasync(self._file)

    def close(self) -> None:
        os.close(self._file)


def read_bills(path: Path) -> list[Bill]:
    """Return the bills in a journal, oldest first; an empty list if there is no file yet."""
    if not path.exists():
        return []
    decoder = msgspec.json.Decoder(Bill)
    return [decoder.decode(line) for line in path.read_bytes().splitlines()]
