"""The section `providers` of the configuration document. API keys are write-only."""

from __future__ import annotations

import hmac
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from llm_gateway.control.declared_configuration.entries import ProviderEntry
from llm_gateway.control.declared_configuration.section import Change, Fields, Section, Stored, Wanted
from llm_gateway.control.management.provider_rules import KEY_NEEDED, ProviderRules
from llm_gateway.domain.catalog import Provider
from llm_gateway.errors import ConfigurationError, Invalid
from llm_gateway.store.providers import ProviderDraft, ProviderStore

NO_KEY = "unused"
"""The key of a server that asks for none, which is no secret."""
_SEQUENCES = ("models", "protocols")
_FIELDS = tuple(name for name in ProviderEntry.model_fields if name != "api_key")


class ProviderSection(Section):
    """The stored providers, in the transaction of `store`."""

    name, noun, schema, secrets = "providers", "provider", ProviderEntry, ("api_key",)

    def __init__(self, store: ProviderStore, rules: ProviderRules) -> None:
        self._store = store
        self._rules = rules
        self._providers: dict[str, tuple[Provider, bytes]] = {}

    def read(self) -> dict[str, Stored]:
        """Return the stored providers, by name."""
        self._providers = {provider.name: (provider, sealed) for provider, sealed in self._store.load()}
        return {name: Stored(name, provider.id, _shown(provider)) for name, (provider, _) in self._providers.items()}

    def wanted(self, entry: ProviderEntry, position: int) -> Wanted:
        """Return the provider that an entry describes."""
        fields = entry.model_dump(exclude={"api_key"})
        fields["display_name"] = entry.display_name or entry.name
        fields["kind"] = self._rules.kind_of(entry.name, entry.kind)
        return Wanted(entry.name, position, {name: fields[name] for name in _FIELDS}, entry)

    def defaults(self, fields: Fields) -> Fields:
        """Return the defaults: some depend on the name."""
        found = {name: field.default for name, field in ProviderEntry.model_fields.items() if not field.is_required()}
        kind = self._rules.kind_of(fields["name"], None)
        return found | {"display_name": fields["name"], "kind": kind}

    def changed_secrets(self, before: Stored, after: Wanted) -> tuple[str, ...]:
        """Compare the API key with the stored one. One that cannot be decrypted counts as different."""
        key = _key_of(after)
        if key is None:
            return ()
        stored = self._key(before)
        return () if stored is not None and hmac.compare_digest(stored.encode(), key.encode()) else ("api_key",)

    def written_secrets(self, stored: Stored) -> Fields:
        """Return the key of a server that asks for none."""
        return {"api_key": NO_KEY} if self._key(stored) == NO_KEY else {}

    def _key(self, stored: Stored) -> str | None:
        provider, sealed = self._providers[stored.label]
        try:
            return self._store.unseal(provider.id, sealed)
        except ConfigurationError:
            return None

    def check(self, changes: Sequence[Change], final: Mapping[str, Mapping[str, Fields]]) -> Iterator[Invalid]:
        """Check each provider that changes as the API does."""
        del final
        for change in changes:
            if change.after is None:
                continue
            try:
                self._check(change, change.after)
            except Invalid as error:
                yield self.mistake(change.label, change.after.position, error.detail, *error.path)

    def _check(self, change: Change, after: Wanted) -> None:
        key = _key_of(after)
        if key is not None and (key.startswith("file:") or (key.startswith("${") and key.endswith("}"))):
            raise Invalid(
                "api_key is a reference, which `llm-gateway apply` replaces before it sends the document: send a key.",
                loc=("body", "api_key"),
            )
        draft = self._draft(after)
        if change.before is None:
            if not draft.api_key:
                raise Invalid(
                    "api_key is required for a new provider: give its vendor's key, or the word unused for a server "
                    "that asks for none.",
                    loc=("body", "api_key"),
                )
            self._rules.check(draft.unsaved(), frozenset(_FIELDS))
            return
        self._rules.check(draft.unsaved(), frozenset(change.fields))
        before, _ = self._providers[change.label]
        if key is None and self._rules.needs_key_again(before, draft.unsaved()):
            raise Invalid(KEY_NEEDED, loc=("body", "api_key"))

    def add(self, wanted: Wanted) -> str:
        """Store a provider."""
        return self._store.create(self._draft(wanted)).id

    def change(self, before: Stored, after: Wanted, fields: Collection[str]) -> None:
        """Change these fields of a provider."""
        draft = self._draft(after)
        self._store.update(before.id, {name: getattr(draft, name) for name in fields})

    def remove(self, stored: Stored) -> None:
        """Delete a provider."""
        self._store.delete(stored.id)

    @staticmethod
    def _draft(wanted: Wanted) -> ProviderDraft:
        values: dict[str, Any] = dict(wanted.fields)
        for name in _SEQUENCES:
            values[name] = None if values[name] is None else tuple(values[name])
        is_embedded = values["kind"] == "local" and values["base_url"] is None
        return ProviderDraft(**values, api_key=_key_of(wanted) or (NO_KEY if is_embedded else ""))


def _key_of(wanted: Wanted) -> str | None:
    key = wanted.entry.api_key
    return None if key is None else str(key.get_secret_value())


def _shown(provider: Provider) -> Fields:
    fields = {name: getattr(provider, name) for name in _FIELDS}
    for name in _SEQUENCES:
        fields[name] = None if fields[name] is None else list(fields[name])
    return fields
