"""Store forms of the dashboard, encrypted, during a sign-in at an identity provider; any host can go on with them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from llm_gateway import wall_clock
from llm_gateway.errors import ConfigurationError
from llm_gateway.store.database import Database
from llm_gateway.store.secrets import SecretBox
from llm_gateway.store.tables import kept_forms

LASTS_MS = 600_000
"""Milliseconds for which a form is kept."""
MOST_KEPT = 64
"""Forms that are kept at most; the oldest are dropped first."""
MOST_BYTES = 4 * 1024 * 1024
"""Bytes of all of them at most: who sends one has not signed in yet."""

_of = kept_forms.c
_Form = tuple[str, str]


class KeptForms:
    """The table of kept forms. `box` encrypts them, since a secret may be typed. `clock` returns seconds since 1970."""

    def __init__(self, database: Database, box: SecretBox, clock: Callable[[], float] = wall_clock.now_s) -> None:
        self._database = database
        self._box = box
        self._clock = clock

    def put(self, state: str, path: str, content: str) -> None:
        """Keep a form, its path and its fields, for the sign-in with this state.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        name, now_ms = _digest(state), int(self._clock() * 1000)
        sealed = self._box.seal(msgspec.json.encode((path, content)).decode(), name)
        with self._database.write() as connection:
            connection.execute(sa.delete(kept_forms).where(_of.at_ms < now_ms - LASTS_MS))
            connection.execute(sa.insert(kept_forms).values(state=name, at_ms=now_ms, sealed=sealed))
            _drop_oldest(connection)

    def take(self, state: str) -> _Form | None:
        """Return the path and the fields that were kept, and forget them; None if there are none.

        Raises:
            StoreUnavailable: the database does not answer.
        """
        name = _digest(state)
        query = sa.delete(kept_forms).where(_of.state == name).returning(_of.at_ms, _of.sealed)
        with self._database.write() as connection:
            row = connection.execute(query).one_or_none()
        if row is None or row.at_ms < int(self._clock() * 1000) - LASTS_MS:
            return None
        try:
            path, content = msgspec.json.decode(self._box.open(row.sealed, name), type=_Form)
        except ConfigurationError:  # the encryption key is another one now
            return None
        return path, content


def _drop_oldest(connection: Connection) -> None:
    """Delete the oldest forms beyond MOST_KEPT and MOST_BYTES, in the caller's transaction."""
    sizes = sa.select(_of.state, sa.func.length(_of.sealed)).order_by(_of.at_ms.desc(), _of.state)
    total, dropped = 0, []
    for place, (state, size) in enumerate(connection.execute(sizes)):
        total += size
        if place >= MOST_KEPT or total > MOST_BYTES:
            dropped.append(state)
    if dropped:
        connection.execute(sa.delete(kept_forms).where(_of.state.in_(dropped)))


def _digest(state: str) -> str:
    return hashlib.sha256(state.encode("utf-8", "surrogateescape")).hexdigest()
