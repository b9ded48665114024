"""Overrides in the database: one per user and service, one per user for all services."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from llm_gateway.domain.catalog import Override
from llm_gateway.errors import Conflict, Invalid, NotFound
from llm_gateway.store.database import Database
from llm_gateway.store.overrides import OverrideDraft, OverrideStore
from llm_gateway.store.providers import ProviderDraft, ProviderStore
from llm_gateway.store.secrets import SecretBox


@pytest.fixture
def store(database: Database, box: SecretBox) -> OverrideStore:
    for name in ("openai", "groq"):
        ProviderStore(database, box).create(
            ProviderDraft(name=name, display_name=name, api_key="k", kind="openai", models=("gpt-4o", "gpt-4o-mini"))
        )
    return OverrideStore(database)


def draft(user_id: str = "u", service_name: str | None = None, **fields: Any) -> OverrideDraft:
    given = {"provider_name": "openai", "model_name": "gpt-4o"}
    return OverrideDraft(user_id=user_id, service_name=service_name, **{**given, **fields})


def test_a_new_override_is_stored_with_all_fields(store: OverrideStore) -> None:
    made = store.create(draft(service_name="chat", allow_fallback=False))
    assert made == Override(
        id=made.id,
        user_id="u",
        service_name="chat",
        provider_name="openai",
        model_name="gpt-4o",
        allow_fallback=False,
        created_at_ms=made.created_at_ms,
        updated_at_ms=made.created_at_ms,
    )
    assert str(uuid.UUID(made.id)) == made.id
    assert store.list() == [made]


def test_the_list_is_sorted_by_user_and_service_and_can_be_filtered_by_user(store: OverrideStore) -> None:
    for user, service in (("b", None), ("a", "z"), ("a", None), ("a", "c")):
        store.create(draft(user, service))
    assert [(o.user_id, o.service_name) for o in store.list()] == [("a", None), ("a", "c"), ("a", "z"), ("b", None)]
    assert [(o.user_id, o.service_name) for o in store.list("b")] == [("b", None)]
    assert store.list("nobody") == []


def test_a_second_override_for_a_user_and_service_is_a_conflict(store: OverrideStore) -> None:
    store.create(draft(service_name="chat"))
    with pytest.raises(Conflict, match="an override for the service 'chat' already"):
        store.create(draft(service_name="chat", model_name="gpt-4o-mini"))
    store.create(draft("v", "chat"))


@pytest.mark.parametrize("service", [None, ""])
def test_a_second_override_for_a_user_and_all_services_is_a_conflict(store: OverrideStore, service: str | None) -> None:
    made = store.create(draft())
    assert made.service_name is None
    with pytest.raises(Conflict, match="an override for all services already"):
        store.create(draft(service_name=service))
    assert store.list() == [made]


@pytest.mark.parametrize(
    ("fields", "loc", "meant"),
    [
        ({"provider_name": "mistral"}, "provider_name", ""),
        ({"provider_name": "grok"}, "provider_name", " Did you mean groq?"),
        ({"model_name": "gpt-4o-mni"}, "model_name", " Did you mean gpt-4o-mini?"),
    ],
)
def test_an_override_must_name_a_provider_and_one_of_its_models(
    store: OverrideStore, fields: dict[str, str], loc: str, meant: str
) -> None:
    with pytest.raises(Invalid) as raised:
        store.create(draft(**fields))
    assert raised.value.errors[0]["loc"] == ["body", loc]
    assert ("Did you mean" in raised.value.detail, raised.value.detail.endswith(meant)) == (bool(meant), True)
    assert store.list() == []
    store.create(draft(provider_name="groq", model_name="gpt-4o-mini"))


def test_a_deleted_override_is_gone_and_others_stay(store: OverrideStore) -> None:
    made, kept = store.create(draft()), store.create(draft("v"))
    store.delete(made.id)
    assert store.list() == [kept]
    for wrong in (made.id, "no-uuid"):
        with pytest.raises(NotFound, match="There is no override with this id"):
            store.delete(wrong)
