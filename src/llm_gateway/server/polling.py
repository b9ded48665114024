"""Poll a connection's socket for data, or its end, that the event loop has not reported yet."""

from __future__ import annotations

import asyncio
import select

HAS_ENDED: int = getattr(select, "POLLRDHUP", 0)
"""Linux's poll event for a client that has closed its side; elsewhere the next write notices it."""


def has_ended(transport: asyncio.Transport) -> bool:
    """Return whether the client has closed its side, which asyncio reports only when it reads."""
    return HAS_ENDED != 0 and _polls(transport, HAS_ENDED)


def has_data(transport: asyncio.Transport) -> bool:
    """Return whether data of the client, or its end, waits to be read."""
    return _polls(transport, select.POLLIN)


def _polls(transport: asyncio.Transport, event: int) -> bool:
    poll = select.poll()
    poll.register(transport.get_extra_info("socket"), event)
    return bool(poll.poll(0))
