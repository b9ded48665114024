"""Hosts: the gateways on one database, each with a data directory of its own. All times are by the database's clock.

    absent ──(claim)──▶ living ──(no beat for LIVING_S)──▶ silent ──(remove)──▶ absent
                          ▲                                   │
                          └───────────────(beat)──────────────┘

A host claims its row when it starts, and beats while it runs. Nothing says that a host has stopped, so that a restart
is no change of the number of hosts. Its id is in the data directory. A copy of the directory has the same id: who
claims the row of a host that beats is refused, unless it runs in the very place of the one before.
"""

from __future__ import annotations

from typing import NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from llm_gateway.errors import ConfigurationError, Conflict
from llm_gateway.store import migrations
from llm_gateway.store.audit import AuditTrail
from llm_gateway.store.database import Database
from llm_gateway.store.identifiers import missing, stored_id
from llm_gateway.store.postgres import MIGRATION_LOCK
from llm_gateway.store.tables import LIVING_S, NOW_MS, audit_chains, hosts
from llm_gateway.wall_clock import CLOCK, WallClock

BEAT_S = 1.0
"""Seconds between two beats of a host."""

_of = hosts.c


class SecretNames(msgspec.Struct, frozen=True):
    """Names of a host's encryption keys and peppers, which tell nothing of them. Those used for new secrets are first.

    Hosts on one database need the same, so that each can use what another one has stored.
    """

    encryption_keys: tuple[str, ...] = ()
    peppers: tuple[str, ...] = ()


class HostClaim(msgspec.Struct, frozen=True, kw_only=True):
    """Description that a host gives of itself when it starts.

    `run` is another one at each start, `place` another one for each copy of the data directory.
    """

    id: str
    name: str
    version: str
    tables: str
    run: str
    place: str
    secrets: SecretNames = SecretNames()


class Host(NamedTuple):
    """A host: when it started and beat last (milliseconds UTC), and how long ago the beat was (milliseconds)."""

    id: str
    name: str
    version: str
    tables: str
    run: str
    place: str
    secrets: SecretNames
    started_at_ms: int
    beat_at_ms: int
    silent_ms: int

    @property
    def is_living(self) -> bool:
        """True if the last beat was within `LIVING_S` seconds."""
        return self.silent_ms < LIVING_S * 1000


class Beat(NamedTuple):
    """Answer to a beat: the hosts, and the changes.

    `is_own` is False if another one has claimed the row. `changes` is another number after each management write.
    `now_ms` is the time of the database's server.
    """

    is_own: bool
    hosts: tuple[Host, ...]
    changes: int
    now_ms: int


class HostTable:
    """The table of hosts. A database of SQLite has one host, which needs no row."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._now_ms = sa.literal_column(NOW_MS[database.dialect.name], sa.BigInteger)

    def list(self) -> tuple[Host, ...]:
        """Return all hosts, in the order of their starts.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        with self._database.read() as connection:
            return self._all(connection)

    def claim(self, claim: HostClaim, seen_ms: int | None = None) -> Host | None:
        """Store that a host starts. Returns the host that holds its row, None if that is the caller now.

        The row is free if there is none, if its host is silent, or if it is that of the same place. `seen_ms` is the
        time of a beat that had none after it for longer than a host that runs is silent: then the row is free, too.

        Raises:
            ConfigurationError: another host has just upgraded the database, for which this one is too old.
            StoreUnavailable: the database does not answer.
        """
        try:
            return self._claimed(claim, seen_ms)
        except IntegrityError:  # another process has just inserted the row
            return self._claimed(claim, seen_ms)

    def _claimed(self, claim: HostClaim, seen_ms: int | None) -> Host | None:
        values = msgspec.structs.asdict(claim) | {"secrets": msgspec.json.encode(claim.secrets).decode()}
        with self._database.write() as connection:
            if not self._database.is_sqlite:  # an upgrade that did not see this host yet ends first
                # Hosts that start at once take turns at that lock, longer than a write waits for one.
                connection.exec_driver_sql("SET LOCAL lock_timeout = 0")
                connection.execute(sa.select(sa.func.pg_advisory_xact_lock_shared(MIGRATION_LOCK)))
            if not migrations.is_usable(connection):
                raise ConfigurationError(migrations.OTHER_VERSION)
            now_ms = connection.execute(sa.select(self._now_ms)).scalar_one()
            values |= {"started_at_ms": now_ms, "beat_at_ms": now_ms}
            row = connection.execute(sa.select(_of.id).where(_of.id == claim.id).with_for_update()).first()
            if row is None:
                connection.execute(sa.insert(hosts).values(values))
                return None
            [holder] = self._all(connection, _of.id == claim.id)
            is_free = holder.place == claim.place or not holder.is_living or holder.beat_at_ms == seen_ms
            if not is_free:
                return holder
            connection.execute(sa.update(hosts).where(_of.id == claim.id).values(values))
        return None

    def beat(self, claim: HostClaim) -> Beat:
        """Store that a host lives, and return what there is to know of the others.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        own = sa.update(hosts).where(_of.id == claim.id, _of.run == claim.run).values(beat_at_ms=self._now_ms)
        with self._database.write() as connection:
            is_own = connection.execute(own).rowcount > 0
            now_ms = int(connection.execute(sa.select(self._now_ms)).scalar_one())
            return Beat(is_own, self._all(connection), changes_in(connection), now_ms)

    def changes(self) -> int:
        """Return a number that is another one after each management write, whichever host made it.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        with self._database.read() as connection:
            return changes_in(connection)

    def remove(self, host_id: str, audit: AuditTrail) -> None:
        """Remove a host that is gone for good.

        Raises:
            NotFound: there is none with this id.
            Conflict: it is living.
        """
        found = stored_id(host_id, "host")
        with audit.change("host.delete") as change:
            connection = change.connection
            known = self._all(connection, _of.id == found)
            if not known:
                raise missing("host")
            if known[0].is_living:
                raise living(known[0].name)
            connection.execute(sa.delete(hosts).where(_of.id == found, _of.beat_at_ms == known[0].beat_at_ms))
            change.about(found, known[0].name, before={"version": known[0].version})

    def _all(self, connection: Connection, *only: sa.ColumnElement[bool]) -> tuple[Host, ...]:
        columns = [_of[name] for name in Host._fields if name in _of]
        query = sa.select(*columns, (self._now_ms - _of.beat_at_ms).label("silent_ms")).where(*only)
        rows = connection.execute(query.order_by(_of.started_at_ms, _of.id))
        return tuple(
            Host(**{**row._mapping, "secrets": msgspec.json.decode(row.secrets, type=SecretNames)}) for row in rows
        )


def follow_clock(database: Database, clock: WallClock = CLOCK) -> None:
    """Take the time of day from the database's server, as the gateways do that share it. Does nothing on SQLite.

    Raises:
        StoreUnavailable: the database does not answer.
    """
    if database.is_sqlite:
        return
    now = sa.select(sa.literal_column(NOW_MS[database.dialect.name], sa.BigInteger))
    with database.read() as connection:
        before_ms = clock.now_ms()
        clock.compare(connection.execute(now).scalar_one(), before_ms, clock.now_ms())


def living(name: str) -> Conflict:
    """Return the error for removing a host that lives."""
    return Conflict(f"The host {name} was there a moment ago: stop it, and wait {LIVING_S:.0f} seconds.")


def changes_in(connection: Connection) -> int:
    """Return a number that is another one after each management write: each adds an entry to an audit chain."""
    total = sa.select(sa.cast(sa.func.coalesce(sa.func.sum(audit_chains.c.number), 0), sa.BigInteger))
    return int(connection.execute(total).scalar_one())
