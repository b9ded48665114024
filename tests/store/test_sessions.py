"""Sessions of the dashboard in the database."""

from __future__ import annotations

from llm_gateway.store.database import Database
from llm_gateway.store.sessions import IDLE_MS, LASTS_MS, SessionStore


def test_a_session_lasts_while_it_is_used_for_half_a_day(database: Database) -> None:
    now = 1_800_000_000.0
    store = SessionStore(database, lambda: now)
    secret = store.open("dev", None, "UTC", "a browser")
    assert store.find("another") is None
    began = now
    while now - began <= LASTS_MS / 1000:
        assert store.find(secret) is not None
        now += IDLE_MS / 1000 - 1
    assert store.find(secret) is None
    idle = store.open("dev", None, "UTC", "a browser")
    assert [session.key_name for session in store.living()] == ["dev"]
    now += IDLE_MS / 1000 + 1
    assert store.find(idle) is None
    assert store.living() == []
    store.open("dev", None, "UTC", "x" * 1000)
    assert [len(session.client) for session in store.living()] == [200]
