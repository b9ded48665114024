"""Notice that another directory has taken the place of this worker's journal, which only a new worker can write to.

Calls are refused while the files are not where they are read (`journal/segment_writer.py`). They can come back, as
after a moment without a mount. But if there is a directory for journals again without them, they do not:

    in place ── gone, or replaced ──▶ refusing ── a directory is there for REPLACED_S, no request is served ──▶ lost
        ▲                                │
        └────────── back again ──────────┘

A worker whose journal is lost ends, and the supervisor starts another one, which makes a journal of its own.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from llm_gateway.journal.segments import LockableDir

REPLACED_S = 5.0
"""Seconds for which another directory must be there: who moves a journal away and back, or mounts it, takes less."""
LOOK_S = 1.0
IDLE_LOOK_S = 0.05
"""Seconds between two looks whether a request is served; refused ones come and go."""


async def wait_until_lost(
    journal: LockableDir, in_flight: Callable[[], int], *, replaced_s: float = REPLACED_S
) -> None:
    """Return once the journal is lost, and no request is served; a stream is not cut for it."""
    loop = asyncio.get_running_loop()
    since: float | None = None
    while True:
        if not is_replaced(journal):
            since = None
        elif since is None:
            since = loop.time()
        elif loop.time() - since >= replaced_s and not in_flight():
            return
        await asyncio.sleep(LOOK_S if since is None else IDLE_LOOK_S)


def is_replaced(journal: LockableDir) -> bool:
    """Return whether the journal is not in its place, and another one can be made there.

    That is on the same file system: one that is not mounted any more, or is mounted over, can come back.
    """
    folder = journal.path.parent
    try:
        return (
            not journal.is_in_place() and journal.is_on_file_system_of(folder) and os.access(folder, os.W_OK | os.X_OK)
        )
    except OSError:  # there is no folder
        return False
