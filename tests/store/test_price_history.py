"""Since when an operator's price is in force, by the audit trail."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from llm_gateway import wall_clock
from llm_gateway.domain.catalog import Provider
from llm_gateway.errors import StoreUnavailable
from llm_gateway.store.audit import AuditTrail
from llm_gateway.store.database import Database
from llm_gateway.store.price_history import PriceHistory
from llm_gateway.store.providers import ProviderStore
from llm_gateway.store.secrets import SecretBox
from llm_gateway.store.tables import audit_entries
from tests.store.test_providers import draft

CHEAP, DEAR = {"input": 1.0, "output": 2.0}, {"input": 3.0, "output": 4.0}
DAY_MS = 86_400_000


class Days:
    """A store whose audit trail has one day after the other."""

    def __init__(self, database: Database, box: SecretBox, directory: Path) -> None:
        self.start_ms = wall_clock.now_ms() + DAY_MS
        self.day = 0
        trail = AuditTrail(database, directory, clock_ms=lambda: self.start_ms + self.day * DAY_MS, fsync=False)
        self.store = ProviderStore(database, box, trail)
        self.history = PriceHistory(database)

    def update(self, provider: Provider, **changes: Any) -> Provider:
        """Change a provider on the next day."""
        self.day += 1
        return self.store.update(provider.id, changes)

    def since(self, provider: Provider) -> dict[str, int]:
        """Return the day since which each price is in force."""
        found = self.history.since([provider])[provider.id]
        return {model: (at_ms - self.start_ms) // DAY_MS for model, at_ms in found.items()}


@pytest.fixture
def days(database: Database, box: SecretBox, tmp_path: Path) -> Days:
    return Days(database, box, tmp_path)


def test_a_price_is_in_force_since_it_was_changed_last(days: Days) -> None:
    provider = days.store.create(draft(prices={"a": CHEAP, "b": CHEAP}))
    other = days.store.create(draft("other"))
    assert days.since(provider) == {"a": 0, "b": 0}
    provider = days.update(provider, priority=3)
    provider = days.update(provider, prices={"a": CHEAP, "b": DEAR, "c": CHEAP})
    provider = days.update(provider, name="renamed", models=("a",))
    assert days.since(provider) == {"a": 0, "b": 2, "c": 2}
    provider = days.update(provider, prices={"a": DEAR, "b": DEAR})
    provider = days.update(provider, prices={"a": CHEAP, "b": DEAR, "c": CHEAP})
    assert days.since(provider) == {"a": 5, "b": 2, "c": 5}
    assert days.history.since([other]) == {}
    assert days.since(provider) == {"a": 5, "b": 2, "c": 5}
    provider = days.update(provider, prices=None)
    assert days.history.since([provider]) == {}


def test_a_price_older_than_the_trail_or_set_with_sql_has_no_date(days: Days, database: Database) -> None:
    provider = days.store.create(draft(prices={"a": CHEAP, "b": CHEAP}))
    with database.write() as connection:
        connection.execute(sa.delete(audit_entries))
        connection.exec_driver_sql("""UPDATE providers SET prices = '{"a": {"input": 5.0, "output": 5.0}}'""")
    assert days.since(provider) == {}
    provider = days.update(provider, prices={"a": CHEAP, "b": CHEAP})
    assert days.since(provider) == {"a": 1, "b": 1}
    with database.write() as connection:
        connection.exec_driver_sql("""UPDATE providers SET prices = '{"a": {"input": 5.0, "output": 5.0}}'""")
    provider = days.update(days.store.get(provider.id), priority=2)
    assert days.since(provider) == {}


def test_entries_are_found_by_an_index(sqlite_database: Database, box: SecretBox) -> None:
    provider = ProviderStore(sqlite_database, box).create(draft(prices={"a": CHEAP}))
    plans: list[str] = []

    def explain(connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        if "audit_entries" in statement and not statement.startswith("EXPLAIN"):
            raw = connection.connection.driver_connection
            plans.extend(row[3] for row in raw.execute(f"EXPLAIN QUERY PLAN {statement}", parameters))

    with sqlite_database.read() as connection:
        sa.event.listen(connection.engine, "before_cursor_execute", explain)
    PriceHistory(sqlite_database).since([provider])
    assert "audit_entries_resource (resource_id=? AND at_ms>?)" in plans[0]


def test_entries_that_take_too_long_to_read_are_left_out_for_a_minute(days: Days, database: Database) -> None:
    """A page neither fails nor waits for each provider, and the next ones do not wait again."""
    providers = [days.store.create(draft(name, prices={"a": CHEAP})) for name in ("one", "two")]
    now_s, reads = 0.0, 0

    class Slow:
        """A database whose reads fail while `is_slow`, as those do that take too long."""

        is_slow = True
        write = database.write

        @contextmanager
        def read(self, limit_s: float | None = None) -> Iterator[Connection]:
            nonlocal reads
            reads += 1
            with database.read(limit_s) as connection:
                if self.is_slow:
                    raise StoreUnavailable("The read took longer than 0.5 seconds.")
                yield connection

    slow = Slow()
    history = PriceHistory(slow, lambda: now_s)
    one, two = (each.id for each in providers)
    found = {each.id: {"a": days.start_ms} for each in providers}
    assert history.since(providers) == {one: {}}
    assert reads == 1
    slow.is_slow = False
    assert history.since(providers) == {one: {}, two: found[two]}
    assert reads == 2
    now_s = 61.0
    assert history.since(providers) == found
    assert history.since(providers) == found
    assert reads == 3
