"""Notices between hosts: heard after the commit, again after a lost connection, and never behind a pooler."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing, suppress
from pathlib import Path

import sqlalchemy as sa

from llm_gateway.store.audit import AuditTrail
from llm_gateway.store.database import Database
from llm_gateway.store.notices import listen_forever
from llm_gateway.store.teams import TeamStore
from tests.application.driver import ignore

CUT = """
SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
WHERE query LIKE 'LISTEN%%' AND datname = current_database()
"""
KEY_DATA = b"K\x00\x00\x00\x0c"
"""Start of the message with the process id and the secret key of a session (postgresql.org, "Message Formats")."""


async def test_a_change_is_heard_once_it_is_committed_also_on_a_new_connection(
    postgres_url: str, tmp_path: Path
) -> None:
    heard = asyncio.Event()

    async def hears() -> None:
        async with asyncio.timeout(10):
            await heard.wait()
        heard.clear()

    with closing(Database.open(postgres_url, fsync=False)) as database:
        teams = TeamStore(database, AuditTrail(database, tmp_path, fsync=False))
        listening = asyncio.create_task(listen_forever(postgres_url, heard.set, ignore, retry_s=0.01))
        await hears()  # it listens
        await asyncio.to_thread(teams.create, "one")
        await hears()
        with database.write() as connection:
            assert connection.execute(sa.text(CUT)).all()
        await hears()
        await asyncio.to_thread(teams.create, "two")
        await hears()
        listening.cancel()
        with suppress(asyncio.CancelledError):
            await listening


@asynccontextmanager
async def pooler(server: str, directory: Path) -> AsyncIterator[None]:
    """Pass bytes on to a server, but make up the process id at the start of a connection, as poolers do."""
    ended: list[asyncio.Task[None] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        from_server, to_server = await asyncio.open_unix_connection(f"{server}/.s.PGSQL.5432")

        async def pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                before, key_data, after = data.partition(KEY_DATA)
                target.write(before + key_data + (b"\x00\x00\x00\x07" + after[4:] if key_data else after))
            target.close()
            with suppress(ConnectionError):
                await target.wait_closed()

        ended.append(asyncio.current_task())
        await asyncio.gather(pass_on(reader, to_server), pass_on(from_server, writer))

    async with await asyncio.start_unix_server(serve, directory / ".s.PGSQL.5432"):
        yield
        await asyncio.gather(*filter(None, ended))


async def test_behind_a_pooler_nothing_is_listened_to(postgres_url: str, tmp_path: Path) -> None:
    url = sa.make_url(postgres_url)
    told: list[str] = []
    through = url.set(query={**url.query, "host": str(tmp_path)}).render_as_string()
    async with pooler(str(url.query["host"]), tmp_path), asyncio.timeout(10):
        await listen_forever(through, lambda: told.append("heard"), told.append)
    assert told == ["changes of other hosts are looked for each second: the database is behind a pooler"]
