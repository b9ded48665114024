"""Sessions of the dashboard in the database."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llm_gateway.domain.key_secret import Pepper, public_id_of
from llm_gateway.domain.person import Identity
from llm_gateway.store.audit import AuditFilter, AuditTrail
from llm_gateway.store.database import Database
from llm_gateway.store.keys import KeyDraft, KeyStore
from llm_gateway.store.people import PeopleStore
from llm_gateway.store.sessions import IDLE_MS, LASTS_MS, MOST_OF_ONE, Owner, OwnerChanged, SessionStore


def test_a_session_lasts_while_it_is_used_for_half_a_day(database: Database) -> None:
    now = 1_800_000_000.0
    store = SessionStore(database, lambda: now)
    secret = store.open(Owner("dev"), "UTC", "a browser", "127.0.0.1")
    assert store.find("another") is None
    began = now
    while now - began <= LASTS_MS / 1000:
        assert store.find(secret) is not None
        now += IDLE_MS / 1000 - 1
    assert store.find(secret) is None
    idle = store.open(Owner("dev"), "UTC", "a browser", "127.0.0.1")
    assert [session.key_name for session in store.living()] == ["dev"]
    now += IDLE_MS / 1000 + 1
    assert store.find(idle) is None
    assert store.living() == []
    store.open(Owner("dev"), "UTC", "x" * 1000, "127.0.0.1")
    assert [len(session.client) for session in store.living()] == [200]


def test_sessions_of_an_owner_are_its_own(database: Database) -> None:
    store = SessionStore(database)
    of_upper, of_lower = (Identity(issuer="https://a", subject=subject, role="own") for subject in ("A", "a"))
    moved = Identity(issuer="https://a", subject="a", role="admin")
    keys = [Owner("ann"), Owner("ann", key_id="k")]
    owners = [*keys, Owner("ann", person_id="p"), Owner("ann", identity=of_upper), Owner("ann", identity=of_lower)]
    for owner in owners:
        store.open(owner, "UTC", "a browser", "127.0.0.1")
    for owner in owners:
        [session] = store.living(owner)
        assert session.owner == owner
    assert [each.owner for each in store.living(Owner("other", identity=moved))] == [owners[-1]]
    kept = store.living(owners[2])[0].id
    assert [store.close_others(owner, kept) for owner in owners] == [1, 1, 0, 1, 1]
    assert [each.id for each in store.living()] == [kept]


def test_an_owner_keeps_its_newest_sessions(database: Database) -> None:
    store = SessionStore(database)
    other = store.open(Owner("bob"), "UTC", "a browser", "127.0.0.1")
    secrets = [store.open(Owner("ann", person_id="p"), "UTC", str(n), "127.0.0.1") for n in range(MOST_OF_ONE + 2)]
    assert [store.find(secret) is None for secret in secrets] == [True] * 2 + [False] * MOST_OF_ONE
    assert store.find(other) is not None


@pytest.mark.parametrize("change", [{"password": "another password"}, {"disabled": True}, {"role": "admin"}, None])
def test_a_change_of_a_person_outruns_no_sign_in(database: Database, change: dict[str, Any] | None) -> None:
    """The password was checked before the change, and the session is opened after it."""
    people, store = PeopleStore(database), SessionStore(database)
    people.create({"name": "ann", "role": "viewer", "password": "the first password"})
    person = people.check("ann", "the first password")
    assert person is not None
    owner = Owner(person.name, person_id=person.id, as_of_ms=person.updated_at_ms)
    assert store.find(store.open(owner, "UTC", "a browser", "127.0.0.1")) is not None
    if change is None:
        people.delete(person.id)
    else:
        people.update(person.id, change)
    before = len(store.living(owner))
    with pytest.raises(OwnerChanged):
        store.open(owner, "UTC", "a browser", "127.0.0.1")
    assert len(store.living(owner)) == before


def test_a_session_ends_with_the_secret_of_the_key_that_it_was_opened_with(database: Database) -> None:
    now = 1_800_000_000_000
    store = SessionStore(database, lambda: now / 1000)
    keys = KeyStore(database, [Pepper(1, b"p" * 32)], clock_ms=lambda: now)
    made = keys.create(KeyDraft(name="ops", scopes=("admin",)))

    def owner(secret: str) -> Owner:
        return Owner("ops", made.key.id, public_id=public_id_of(secret.encode()).decode())

    def opened(secret: str) -> str:
        return store.open(owner(secret), "UTC", "a browser", "127.0.0.1")

    first, other = opened(made.secret), store.open(Owner("ops"), "UTC", "a browser", "127.0.0.1")
    second_secret = keys.rotate(made.key.id, 60).secret
    late, second = opened(made.secret), opened(second_secret)
    assert [store.find(each) is not None for each in (first, late, second, other)] == [True] * 4
    now += 60_000
    assert [store.find(each) is not None for each in (first, late, second, other)] == [False, False, True, True]
    third = keys.rotate(made.key.id, 0).secret
    assert store.find(second) is None
    for ended in (made.secret, second_secret):  # it was presented before the rotation
        with pytest.raises(OwnerChanged):
            opened(ended)
    last = opened(third)
    keys.replace_secret(made.key.id, keys.hashed("x" * 60))
    assert store.find(last) is None
    keys.delete(made.key.id)
    with pytest.raises(OwnerChanged):
        opened(third)


def test_the_end_of_a_session_names_the_subject_of_its_owner(database: Database, tmp_path: Path) -> None:
    audit = AuditTrail(database, tmp_path, fsync=False)
    store = SessionStore(database, audit=audit)
    for owner in (Owner("ann", identity=Identity(issuer="https://a", subject="7", role="own")), Owner("ann")):
        store.open(owner, "UTC", "a browser", "127.0.0.1")
        store.close(store.living(owner)[0].id)
    before = [json.loads(each.before or "") for each in audit.page(AuditFilter(), 2)]
    plain = {"client": "a browser", "address": "127.0.0.1"}
    assert before == [plain, plain | {"issuer": "https://a", "subject": "7"}]
