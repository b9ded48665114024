"""Plan a request's candidates: the customer's override, then providers by priority. Pure: no I/O, no state."""

from __future__ import annotations

from llm_gateway.domain.catalog import Candidate, Override, Provider, Snapshot, Tiers
from llm_gateway.domain.plan import Plan, Reason
from llm_gateway.domain.request import Request
from llm_gateway.errors import NoProvider, UnknownModel
from llm_gateway.suggestions import if_meant

AUTO = "auto"
"""The model name that leaves the choice of provider and model to the gateway."""
MOST_NAMED, MOST_CHARACTERS = 20, 100
"""Model names listed in an error message, and characters of the client's model name quoted there."""


def route(request: Request, snapshot: Snapshot) -> Plan:
    """Return the plan: the customer's override first, then every enabled provider, in tiers of descending priority.

    An override for the request's service goes before one for all services. A request that names a model gets the
    enabled providers that list it, then those with an alias for it. `provider/model` gets exactly that one; overrides
    do not apply.

    Raises:
        NoProvider: no provider is enabled, or the override allows no fallback and its provider or model is disabled or
            deleted.
        UnknownModel: no enabled provider lists the model or has an alias for it.
    """
    tiers = snapshot.tiers
    reason: Reason | None = None
    if request.requested_model is not None and request.requested_model != AUTO:
        named = None if snapshot.aliases is None else snapshot.aliases[request.requested_model]
        if named is None:
            raise UnknownModel(_unknown(request.requested_model, snapshot))
        if named.is_pinned:
            return Plan(named.tiers, reason="model")
        tiers, reason = named.tiers, "model"
    if snapshot.overrides:
        for service in (request.service, None):  # None is the key of an override for all services
            override = snapshot.overrides.get((request.user_id, service))
            if override is None:
                continue
            provider = _usable_provider(override, snapshot)
            if provider is not None:
                return _overridden(override, provider, tiers)
            if not override.allow_fallback:
                raise NoProvider(
                    f"This customer is pinned to {override.provider_name}/{override.model_name}, which is disabled or "
                    "no longer configured: enable it, or delete the override."
                )
    if not tiers:
        raise NoProvider(
            "No provider is enabled that can be used: create one with POST /api/v1/providers or enable one; if one is "
            "enabled, the gateway's log says what is wrong with it."
        )
    return Plan(tiers, reason=reason or _reason_of(tiers))


def _reason_of(tiers: Tiers) -> Reason:
    return "only" if len(tiers) == 1 and len(tiers[0]) == 1 else "priority"


def check_model(model: str, snapshot: Snapshot) -> None:
    """Check that a request may name `model`.

    Raises:
        UnknownModel: no enabled provider lists it or has an alias for it.
    """
    if model != AUTO and snapshot.resolve(model) is None:
        raise UnknownModel(_unknown(model, snapshot))


def _usable_provider(override: Override, snapshot: Snapshot) -> Provider | None:
    provider = snapshot.providers.get(override.provider_name)
    if provider is None or not provider.is_enabled or override.model_name not in provider.models:
        return None
    return provider


def _overridden(override: Override, provider: Provider, tiers: Tiers) -> Plan:
    first = (Candidate.of(provider, override.model_name),)
    if not override.allow_fallback:
        return Plan((first,), override.id, "override")
    others = (tuple(c for c in tier if c.provider is not provider) for tier in tiers)
    return Plan((first, *(tier for tier in others if tier)), override.id, "override")


def _unknown(model: str, snapshot: Snapshot) -> str:
    aliases = snapshot.aliases.names() if snapshot.aliases is not None else []
    names = sorted({*aliases, *snapshot.tiers_by_model} - snapshot.pinned_models - {AUTO})
    rest = " and more (see the list of models)" if len(names) > MOST_NAMED else ""
    listed = ", ".join([AUTO, *names[:MOST_NAMED]]) + rest
    near = if_meant(model, (AUTO, *snapshot.tiers_by_model, *aliases))
    return (
        f"No enabled provider has the model {model[:MOST_CHARACTERS]!r}.{near} Available models: {listed}; or name one "
        "as provider/model."
    )
