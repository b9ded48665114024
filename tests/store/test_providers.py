"""Providers in the database: storing, changing, and keys that stay encrypted."""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa

from llm_gateway.domain.catalog import Provider
from llm_gateway.errors import ConfigurationError, Conflict, NotFound
from llm_gateway.store.database import Database
from llm_gateway.store.overrides import OverrideDraft, OverrideStore
from llm_gateway.store.providers import ProviderDraft, ProviderStore
from llm_gateway.store.secrets import SecretBox
from llm_gateway.store.tables import providers

CANARY = "sk-canary-0123456789"


def draft(name: str = "openai", **fields: Any) -> ProviderDraft:
    given = {"display_name": name.title(), "api_key": CANARY, "kind": "openai", "models": ("gpt-4o", "gpt-4o-mini")}
    return ProviderDraft(name=name, **{**given, **fields})


@pytest.fixture
def store(database: Database, box: SecretBox) -> ProviderStore:
    return ProviderStore(database, box)


def keys(store: ProviderStore) -> dict[str, str]:
    return {provider.name: store.unseal(provider.id, sealed) for provider, sealed in store.load()}


def test_a_new_provider_is_stored_with_all_fields(store: ProviderStore) -> None:
    before = time.time_ns() // 1_000_000
    prices = {"gpt-4o": {"input": 2.5, "output": 10.0}}
    made = store.create(
        draft(
            base_url="https://api.example.com/v1",
            is_enabled=False,
            rate_limit_rpm=7,
            rate_limit_tpm=9,
            priority=-3,
            timeout_s=1.5,
            prices=prices,
        )
    )
    after = time.time_ns() // 1_000_000
    assert made == Provider(
        id=made.id,
        name="openai",
        display_name="Openai",
        kind="openai",
        base_url="https://api.example.com/v1",
        models=("gpt-4o", "gpt-4o-mini"),
        is_enabled=False,
        rate_limit_rpm=7,
        rate_limit_tpm=9,
        priority=-3,
        timeout_s=1.5,
        created_at_ms=made.created_at_ms,
        updated_at_ms=made.created_at_ms,
        prices=prices,
    )
    assert str(uuid.UUID(made.id)) == made.id
    assert before <= made.created_at_ms <= after
    assert store.get(made.id) == made
    assert store.get(made.id.upper()) == made
    assert store.list() == [made]


def test_defaults_are_those_of_the_api_reference(store: ProviderStore) -> None:
    made = store.create(draft())
    assert (made.is_enabled, made.rate_limit_rpm, made.rate_limit_tpm, made.priority) == (True, 60, 100_000, 10)
    assert (made.base_url, made.timeout_s, made.prices) == (None, 60.0, None)


def test_the_list_is_sorted_by_priority_then_name(store: ProviderStore) -> None:
    for name, priority in (("b", 1), ("a", 1), ("c", 5), ("z", 0)):
        store.create(draft(name, priority=priority))
    assert [provider.name for provider in store.list()] == ["c", "a", "b", "z"]


def test_a_second_provider_of_the_same_name_is_a_conflict(store: ProviderStore) -> None:
    first = store.create(draft())
    other = store.create(draft("groq"))
    with pytest.raises(Conflict, match="A provider named 'openai' exists already"):
        store.create(draft())
    with pytest.raises(Conflict, match="A provider named 'openai' exists already"):
        store.update(other.id, {"name": "openai"})
    assert store.list() == [other, first]


@pytest.mark.parametrize(
    "wrong", ["", "1", "x" * 36, str(uuid.UUID(int=5)), f"{{{uuid.UUID(int=5)}}}", uuid.UUID(int=5).hex, "\udc80", "\0"]
)
def test_an_unknown_id_is_not_found(store: ProviderStore, wrong: str) -> None:
    for act in (store.get, store.delete, lambda text: store.update(text, {})):
        with pytest.raises(NotFound, match="There is no provider with this id"):
            act(wrong)


def test_an_id_in_another_spelling_is_not_found(store: ProviderStore) -> None:
    made = store.create(draft())
    for spelling in (made.id.replace("-", ""), f"{{{made.id}}}", f"urn:uuid:{made.id}"):
        with pytest.raises(NotFound):
            store.get(spelling)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"display_name": "Other"},
        {"models": ("a", "b")},
        {"prices": {"a": {"input": 1.0}}},
        {"prices": None},
        {"protocols": ("openai_responses",)},
        {"protocols": None},
        {"base_url": None, "is_enabled": False},
        {"rate_limit_rpm": 1, "rate_limit_tpm": 2, "priority": 3, "timeout_s": 4.5, "kind": "gemini"},
    ],
)
def test_an_update_changes_only_the_given_fields(store: ProviderStore, changes: dict[str, Any]) -> None:
    made = store.create(draft(base_url="https://x.example", prices={"m": {"output": 2.0}}))
    changed = store.update(made.id, changes)
    assert changed.updated_at_ms > made.updated_at_ms
    assert changed == msgspec.structs.replace(made, **changes, updated_at_ms=changed.updated_at_ms)
    assert store.get(made.id) == changed
    assert keys(store) == {"openai": CANARY}


def test_updated_at_grows_even_within_a_millisecond(store: ProviderStore) -> None:
    times = [store.create(draft()).updated_at_ms]
    times.extend(store.update(store.list()[0].id, {}).updated_at_ms for _ in range(20))
    assert times == sorted(set(times))


def test_an_update_can_replace_the_key(store: ProviderStore) -> None:
    made = store.create(draft())
    store.update(made.id, {"api_key": "another"})
    assert keys(store) == {"openai": "another"}


def test_renaming_a_provider_renames_it_in_its_overrides(store: ProviderStore, database: Database) -> None:
    made = store.create(draft())
    store.create(draft("groq"))
    overrides = OverrideStore(database)
    for user, provider in (("a", "openai"), ("b", "groq"), ("c", "openai")):
        overrides.create(OverrideDraft(user_id=user, provider_name=provider, model_name="gpt-4o"))
    with pytest.raises(Conflict):
        store.update(made.id, {"name": "groq"})
    store.update(made.id, {"name": "azure"})
    assert [(o.user_id, o.provider_name) for o in overrides.list()] == [("a", "azure"), ("b", "groq"), ("c", "azure")]


def test_a_deleted_provider_is_not_found(store: ProviderStore) -> None:
    made = store.create(draft())
    store.delete(made.id)
    assert store.list() == []
    with pytest.raises(NotFound):
        store.delete(made.id)


def test_the_key_is_never_stored_or_shown_in_plain_text(
    store: ProviderStore, database: Database, tmp_path: Path
) -> None:
    made = store.create(draft())
    assert CANARY not in repr((draft(), made, store, store.load()))
    with pytest.raises(Conflict) as caught:
        store.create(draft())
    assert CANARY not in repr(caught.value)
    database.close()
    assert all(CANARY.encode() not in path.read_bytes() for path in tmp_path.iterdir())


def test_rekey_encrypts_all_keys_with_the_first_encryption_key(store: ProviderStore, database: Database) -> None:
    made = [store.create(draft(name)) for name in ("a", "b")]
    rotated = ProviderStore(database, SecretBox([b"n" * 32, b"k" * 32]))
    rotated.create(draft("c"))
    assert rotated.rekey() == 2
    assert rotated.rekey() == 0
    newest = ProviderStore(database, SecretBox([b"n" * 32]))
    assert keys(newest) == {"a": CANARY, "b": CANARY, "c": CANARY}
    assert newest.get(made[0].id) == made[0]
    with pytest.raises(ConfigurationError, match="LLM_GATEWAY_ENCRYPTION_KEYS"):
        keys(store)


def test_rekey_changes_nothing_if_a_key_cannot_be_decrypted(store: ProviderStore, database: Database) -> None:
    store.create(draft("a"))
    with database.write() as connection:
        connection.execute(sa.insert(providers).from_select(list(providers.c), _copy_with_other_id()))
    rotated = ProviderStore(database, SecretBox([b"n" * 32, b"k" * 32]))
    with pytest.raises(ConfigurationError):
        rotated.rekey()
    first, sealed = store.load()[0]
    assert (first.name, store.unseal(first.id, sealed)) == ("a", CANARY)


def _copy_with_other_id() -> sa.Select[Any]:
    replaced = {"id": sa.literal(str(uuid.UUID(int=2**128 - 1))), "name": sa.literal("zz")}
    return sa.select(*(replaced.get(column.name, column) for column in providers.c))
