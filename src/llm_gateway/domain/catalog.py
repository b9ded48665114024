"""The configuration: providers, overrides, and the immutable snapshot the data plane reads."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from llm_gateway.domain.public_prices import PublicPrices
from llm_gateway.domain.usage import Price


class Target(msgspec.Struct, frozen=True, gc=False):
    """Where a provider's calls go, worked out once per configuration: URLs and ready headers (with the key).

    `root` is an absolute URL without a slash at its end, to which the path of a `Call` is appended. Its representation
    never shows the headers.
    """

    root: str
    models_url: str
    headers: dict[str, str]

    def __repr__(self) -> str:
        return f"Target({self.root!r})"


class Provider(msgspec.Struct, frozen=True, kw_only=True):
    """A configured upstream account.

    Times are milliseconds UTC, `timeout_s` seconds for one attempt, `prices` the operator's own (model → kind → USD
    per million tokens). `target`, `has_json_mode`, `has_responses`, `price_by_model` and `price_vendor` are derived
    when the snapshot is built; a model that is missing from `price_by_model` has no known price. `price_vendor` names
    the list in the snapshot's `public_prices` that has the names which the provider may report, None if there is none.
    The key itself is only inside `target.headers`.
    """

    id: str
    name: str
    display_name: str
    kind: str
    base_url: str | None
    models: tuple[str, ...]
    is_enabled: bool
    rate_limit_rpm: int
    rate_limit_tpm: int
    priority: int
    timeout_s: float
    created_at_ms: int
    updated_at_ms: int
    prices: dict[str, dict[str, float]] | None = None
    target: Target | None = None
    has_json_mode: bool = True
    has_responses: bool = False
    price_by_model: dict[str, Price] = {}
    price_vendor: str | None = None


class Override(msgspec.Struct, frozen=True, kw_only=True):
    """A customer's routing change; `service_name` None means all services."""

    id: str
    user_id: str
    service_name: str | None
    provider_name: str
    model_name: str
    allow_fallback: bool
    created_at_ms: int
    updated_at_ms: int


class Candidate(msgspec.Struct, frozen=True, gc=False):
    """One (provider, model) a request may be sent to; `price` None when nobody knows one."""

    provider: Provider
    model: str
    price: Price | None
    cache_part: bytes

    @classmethod
    def of(cls, provider: Provider, model: str) -> Candidate:
        """The candidate with what is derived from its provider."""
        cache_part = f"{provider.id}\0{provider.kind}\0{provider.base_url}\0{model}".encode()
        return cls(provider=provider, model=model, price=provider.price_by_model.get(model), cache_part=cache_part)


Tiers: TypeAlias = tuple[tuple[Candidate, ...], ...]


class Snapshot(msgspec.Struct, frozen=True):
    """The whole configuration at one moment, swapped as one object.

    `tiers` are the enabled providers with their default models, by priority, highest first, by name within a tier;
    `providers` is keyed by name, `overrides` by (user_id, service_name or None). `tiers_by_model` are the enabled
    providers that list a model, by its name, and each alone by `provider/model`; those names are `pinned_models`.
    `public_prices` are the price lists that the providers' `price_vendor` name.
    """

    providers: dict[str, Provider]
    tiers: Tiers
    overrides: dict[tuple[str, str | None], Override]
    tiers_by_model: dict[str, Tiers] = {}
    pinned_models: frozenset[str] = frozenset()
    public_prices: PublicPrices = PublicPrices()
