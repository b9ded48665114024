"""Notices of management writes between the hosts of one Postgres database, by LISTEN and NOTIFY.

A notice leaves with the transaction of its write, and says only that there is something to look for. It can get lost:
each host looks once a second without one, too (`hosts.py`).

Behind a pooler in transaction mode LISTEN would go to a session that is another client's a moment later. There the
process id that the pooler makes up for the connection is not that of the server's session, so nothing is listened to.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from llm_gateway.store.postgres import connect_arguments, parsed_url

if TYPE_CHECKING:
    from psycopg import AsyncConnection

CHANNEL = "llmg_changes"
RETRY_S = 5.0
"""Seconds between two attempts to connect."""

_notify = sa.select(sa.func.pg_notify(CHANNEL, ""))


def notify(connection: Connection) -> None:
    """Tell all hosts that this transaction changes something, once it is committed. Does nothing on SQLite."""
    if connection.dialect.name == "postgresql":
        connection.execute(_notify)


async def listen_forever(
    url: str, heard: Callable[[], object], log: Callable[..., None], *, retry_s: float = RETRY_S
) -> None:
    """Call `heard` for each notice, on a connection of its own. Runs until cancelled, or until it finds a pooler."""
    from psycopg import AsyncConnection, Error  # noqa: PLC0415 - not installed where the database is SQLite

    arguments = connect_arguments(parsed_url(url))
    while True:
        try:
            async with await AsyncConnection.connect(autocommit=True, **arguments) as connection:
                if await _is_pooled(connection):
                    log("changes of other hosts are looked for each second: the database is behind a pooler")
                    return
                await connection.execute(f"LISTEN {CHANNEL}")
                heard()  # what was changed before
                async for _ in connection.notifies():
                    heard()
        except Error:  # the health check tells that the database is away, or its session was ended
            pass
        await asyncio.sleep(retry_s)


async def _is_pooled(connection: AsyncConnection) -> bool:
    """Return whether the session is that of a pooler: it makes up the process id of the connection's start."""
    row = await (await connection.execute("SELECT pg_backend_pid()")).fetchone()
    return row is None or row[0] != connection.info.backend_pid
