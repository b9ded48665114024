"""Endpoints that create, list, get, patch, delete and test providers. API keys are stored and never returned."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

import msgspec
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import Response

from llm_gateway.control.docs.openapi import problems
from llm_gateway.control.live_configuration import LiveConfiguration
from llm_gateway.control.management.fields import iso
from llm_gateway.control.management.probe import Probe
from llm_gateway.control.management.provider_rules import KEY_NEEDED, ProviderRules
from llm_gateway.control.management.provider_schemas import ProviderCreate, ProviderOut, ProviderPatch, ProviderTest
from llm_gateway.control.management.router import Router
from llm_gateway.domain.catalog import Provider
from llm_gateway.errors import Invalid
from llm_gateway.store.identifiers import missing
from llm_gateway.store.providers import ProviderDraft, ProviderStore
from llm_gateway.store.unchanged import tried_again

Fields: TypeAlias = dict[str, Any]


def _shown(provider: Provider, rules: ProviderRules, others: Mapping[str, Provider]) -> ProviderOut:
    return ProviderOut(
        id=provider.id,
        name=provider.name,
        display_name=provider.display_name,
        base_url=provider.base_url,
        models=list(provider.models),
        is_enabled=provider.is_enabled,
        rate_limit_rpm=provider.rate_limit_rpm,
        rate_limit_tpm=provider.rate_limit_tpm,
        priority=provider.priority,
        created_at=iso(provider.created_at_ms),
        updated_at=iso(provider.updated_at_ms),
        kind=provider.kind,
        prices=provider.prices,
        timeout_s=provider.timeout_s,
        protocols=None if provider.protocols is None else list(provider.protocols),
        effective_base_url=rules.effective_base_url(provider.name, provider.kind, provider.base_url),
        model_aliases=provider.model_aliases,
        context_window=provider.context_window,
        max_output_tokens=provider.max_output_tokens,
        trace=provider.trace,
        warnings=rules.warnings(provider, others),
    )


def providers_router(store: ProviderStore, config: LiveConfiguration, rules: ProviderRules, probe: Probe) -> Router:
    """Build the endpoints of providers. A change is in force before its response is sent."""
    router = Router("/api/v1/providers", "providers")

    @router.get("")
    def list_providers() -> list[ProviderOut]:
        found = store.list()
        by_name = {provider.name: provider for provider in found}
        return [_shown(provider, rules, by_name) for provider in found]

    @router.post("", status_code=201, responses=problems(409, 422))
    def create_provider(body: ProviderCreate) -> ProviderOut:
        fields = _plain(body.model_dump())
        fields["kind"] = rules.kind_of(body.name, body.kind)
        draft = ProviderDraft(**fields)
        rules.check(draft.unsaved(), fields.keys())
        created = store.create(draft)
        return _shown(created, rules, config.reload().providers)

    @router.get("/{provider_id}", responses=problems(404))
    def get_provider(provider_id: str) -> ProviderOut:
        return _shown(store.get(provider_id), rules, config.snapshot.providers)

    @router.patch("/{provider_id}", responses=problems(404, 409, 422))
    def patch_provider(provider_id: str, body: ProviderPatch) -> ProviderOut:
        given = _plain(body.model_dump(exclude_unset=True))

        def change() -> Provider:
            before = store.get(provider_id)
            changes = _checked(rules, before, given)  # it looks the host up, which no transaction should wait for
            if not changes:
                return before
            return store.update(provider_id, changes, unchanged_since_ms=before.updated_at_ms)

        stored = tried_again(change)
        return _shown(stored, rules, config.reload().providers)

    @router.delete("/{provider_id}", status_code=204, response_class=Response, responses=problems(404))
    def delete_provider(provider_id: str) -> None:
        store.delete(provider_id)
        config.reload()

    @router.post("/{provider_id}/test", responses=problems(404, 422))
    async def test_provider(provider_id: str) -> ProviderTest:
        provider = await run_in_threadpool(_in_force, store, config, provider_id)
        error = await probe(provider)
        await run_in_threadpool(store.note_test, provider, error)
        return ProviderTest(success=error is None, error=error)

    return router


def _checked(rules: ProviderRules, before: Provider, given: Fields) -> Fields:
    """Return the fields to change in a provider.

    Raises:
        Invalid: the provider would not be valid, or its key would be sent to another origin.
    """
    changes = dict(given)
    if "kind" in changes or "name" in changes:
        changes["kind"] = rules.changed_kind(before, changes)
    after = msgspec.structs.replace(before, **{name: changes[name] for name in changes if name != "api_key"})
    rules.check(after, changes.keys())
    if rules.needs_key_again(before, after) and "api_key" not in changes:
        raise Invalid(KEY_NEEDED, loc=("body", "api_key"))
    return changes


def _in_force(store: ProviderStore, config: LiveConfiguration, provider_id: str) -> Provider:
    """Return the provider with its target. Reloads the configuration if another process changed the provider.

    Raises:
        NotFound: no provider has this id.
    """
    stored = store.get(provider_id)
    known = config.snapshot.providers.get(stored.name)
    if known is None or known.updated_at_ms != stored.updated_at_ms:
        known = config.reload().providers.get(stored.name)
    if known is None:
        raise missing("provider")
    return known


def _plain(fields: Fields) -> Fields:
    """Convert a schema's fields to those of the store: the key as text, lists as tuples."""
    if "api_key" in fields:
        fields["api_key"] = fields["api_key"].get_secret_value()
    for name in ("models", "protocols"):
        if fields.get(name) is not None:
            fields[name] = tuple(fields[name])
    return fields
