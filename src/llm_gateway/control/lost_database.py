"""Refuse to begin with an empty database while the gateway runs: a later control process finds that its file is gone.

A start makes a missing SQLite file. Made by a control process that is started again, beside workers that serve, an
empty one would take all providers and keys from them, while the real one may be on a disk that is away for a moment.
"""

from __future__ import annotations

from llm_gateway.errors import StoreUnavailable
from llm_gateway.host_memory import HAS_DATABASE, HostMemory
from llm_gateway.store.database import sqlite_file


def refuse_lost_database(url: str, memory: HostMemory | None) -> None:
    """Check that the database's file is there if an earlier control process of this gateway has opened it.

    Raises:
        StoreUnavailable: it is not.
    """
    file = sqlite_file(url)
    if memory is not None and memory.words[HAS_DATABASE] and file is not None and not file.exists():
        raise StoreUnavailable(
            f"The database {file.absolute()}, which this gateway uses, is gone: put it back. To begin with an empty "
            "one, restart the gateway."
        )


def note_database(memory: HostMemory | None) -> None:
    """Note for later control processes of this gateway that the database is open."""
    if memory is not None:
        memory.words[HAS_DATABASE] = 1
