"""Verify the chains of the audit trail: changed, removed and missing entries.

It needs no running gateway. With write access to both the database and `audit.head`, a person can put another chain in
the place of one: compare its head with one that was written down elsewhere (`verify` returns them).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import msgspec
import sqlalchemy as sa

from llm_gateway.domain.audit import GAP, START, AuditEntry
from llm_gateway.store.audit_head import Head
from llm_gateway.store.database import Database
from llm_gateway.store.tables import audit_chains, audit_entries

STEP = 1000
"""Entries read by one query."""
MOST_PROBLEMS = 100
"""Problems of a chain that are returned; the others are only counted."""


class ChainReport(NamedTuple):
    """Result for one chain: its last entry, the number of its entries, and what is wrong, a sentence each.

    `gaps` are those that the gateway found itself and wrote down, such as after the restore of a backup.
    """

    head: Head
    entries: int
    problems: list[str]
    gaps: list[str]


def verify(database: Database, head: Head | None = None) -> list[ChainReport]:
    """Read all chains of the database. `head` is that of the data directory's file, None if there is none.

    Raises:
        StoreUnavailable: the database does not answer.
    """
    with database.read() as connection:
        stored = [Head(**row._mapping) for row in connection.execute(sa.select(audit_chains))]
        named = set(connection.execute(sa.select(audit_entries.c.chain).distinct()).scalars())
    heads = {each.chain: each for each in stored}
    if head is not None and head.number:
        named.add(head.chain)
    return [
        _Chain(
            heads.get(chain, Head(chain, 0, START)), head if head is not None and head.chain == chain else None
        ).read(database)
        for chain in sorted(named | heads.keys())
    ]


class _Chain:
    """One chain while it is read."""

    def __init__(self, stored: Head, outside: Head | None) -> None:
        self._stored, self._outside = stored, outside
        self._last = Head(stored.chain, 0, START)
        self._at_outside: str | None = START
        self._entries = self._count = 0
        self._problems: list[str] = []
        self._gaps: list[str] = []

    def read(self, database: Database) -> ChainReport:
        for entry in _entries(database, self._stored.chain):
            self._check(entry)
        self._check_end()
        if self._count > MOST_PROBLEMS:
            self._problems.append(f"{self._count - MOST_PROBLEMS} more entries are wrong.")
        return ChainReport(self._last, self._entries, self._problems, self._gaps)

    def _check(self, entry: AuditEntry) -> None:
        expected = self._last.number + 1
        if entry.number != expected:
            self._wrong(f"{_entries_named(expected, entry.number - 1)} missing.")
        elif _hash(entry, self._last.hash) != entry.hash:
            self._wrong(f"Entry {entry.number} ({entry.action}) was changed, or the hash of the one before it.")
        if entry.action == GAP:
            self._gaps.append(_gap(entry))
        if self._outside is not None and entry.number == self._outside.number:
            self._at_outside = entry.hash
        self._last = Head(entry.chain, entry.number, entry.hash)
        self._entries += 1

    def _check_end(self) -> None:
        last = self._last
        if self._stored.number > last.number:
            self._wrong(f"{_entries_named(last.number + 1, self._stored.number)} missing at the end.")
        elif self._stored != last:
            self._wrong("The table audit_chains does not have the last entry: it or entries were changed.")
        if (outside := self._outside) is None:
            return
        if outside.number > last.number:
            self._wrong(f"{_entries_named(last.number + 1, outside.number)} missing at the end, by audit.head.")
        elif outside.number and self._at_outside != outside.hash:
            self._wrong(f"Entry {outside.number} is not the one whose hash audit.head has: entries were replaced.")

    def _wrong(self, sentence: str) -> None:
        self._count += 1
        if self._count <= MOST_PROBLEMS:
            self._problems.append(sentence)


def _entries(database: Database, chain: str) -> Iterator[AuditEntry]:
    entries = audit_entries.c
    query = sa.select(audit_entries).where(entries.chain == chain).order_by(entries.number).limit(STEP)
    number = -1
    while True:
        with database.read() as connection:
            rows = connection.execute(query.where(entries.number > number)).all()
        yield from (AuditEntry(**row._mapping) for row in rows)
        if len(rows) < STEP:
            return
        number = rows[-1].number


def _hash(entry: AuditEntry, previous: str) -> str | None:
    """Return the hash that an entry must have; None if that cannot be computed, since a value was changed."""
    try:
        return entry.hash_after(previous)
    except (ValueError, TypeError, msgspec.MsgspecError):
        return None


def _entries_named(first: int, last: int) -> str:
    return f"Entry {first} is" if first == last else f"Entries {first} to {last} are"


def _gap(entry: AuditEntry) -> str:
    try:
        before = msgspec.json.decode(entry.before or "{}", type=dict[str, object]).get("number")
    except (msgspec.MsgspecError, UnicodeError):
        before = None
    return (
        f"Entry {entry.number}: the gateway found its own entries up to {before} replaced or missing behind "
        f"{entry.number - 1}, as after the restore of a backup."
    )
