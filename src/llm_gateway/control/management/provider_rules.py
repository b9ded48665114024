"""Rules of providers beyond the types of their fields: addresses, prices, protocols, aliases, reuse of a key."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any
from urllib.parse import urlsplit

from llm_gateway.control.management import base_url as base_urls
from llm_gateway.domain.catalog import Provider
from llm_gateway.domain.model_aliases import matches
from llm_gateway.errors import Invalid
from llm_gateway.providers.presets import Preset, base_url_of
from llm_gateway.providers.prices import from_operator
from llm_gateway.providers.registry import DIALECTS, kind_of, protocols_problem
from llm_gateway.routing.route import AUTO
from llm_gateway.suggestions import closest, if_meant
from llm_gateway.upstream.egress import AddressRefused, Egress

MOST_NAMED = 20
"""Models that an error message names."""
KEY_NEEDED = "api_key is required when the origin of the base URL (scheme, host or port) changes."


class ProviderRules:
    """Validation of a provider as a whole. `local_url` returns the address of the embedded model while it runs."""

    def __init__(self, presets: dict[str, Preset], egress: Egress, local_url: Callable[[], str | None]) -> None:
        self._presets = presets
        self._egress = egress
        self._local_url = local_url

    def kind_of(self, name: str, kind: str | None) -> str:
        """Return the provider's dialect: `kind` if it is given, else that of the preset `name`, else the default."""
        return kind_of(name, kind, self._presets)

    def changed_kind(self, before: Provider, changes: Mapping[str, Any]) -> str:
        """Return the dialect of a provider after `changes` of its kind or name.

        A preset's name brings the address of a vendor, so it brings that vendor's kind, too, unless the provider's kind
        was set, or its address stays.
        """
        name = changes.get("name", before.name)
        if "kind" in changes:
            return self.kind_of(name, changes["kind"])
        was_set = before.kind != self.kind_of(before.name, None)
        keeps_address = before.base_url is not None and "base_url" not in changes
        return before.kind if was_set or keeps_address or name not in self._presets else self.kind_of(name, None)

    def effective_base_url(self, name: str, kind: str, base_url: str | None) -> str | None:
        """Return the address that requests are sent to, None for the embedded model."""
        return base_url_of(name, kind, base_url, self._presets)

    def warnings(self, provider: Provider, others: Mapping[str, Provider]) -> list[str]:
        """Return sentences about likely mistakes; `others` are all providers by name, this one may be among them."""
        return [*self._warnings_of_address(provider), *_warnings_of_models(provider, others)]

    def _warnings_of_address(self, provider: Provider) -> list[str]:
        """Return a sentence if the provider's kind and address do not belong together, as its name shows."""
        if provider.base_url is not None or provider.kind == "local":
            return []
        preset = self._presets.get(provider.name)
        if preset is not None:
            is_foreign = preset.kind != provider.kind and preset.base_url is not None
            return [_foreign_kind(provider, preset)] if is_foreign else []
        words = [word for word in re.split("[-_]", provider.name) if word in self._presets]
        meant = words[0] if words else closest(provider.name, self._presets)
        url = self.effective_base_url(provider.name, provider.kind, None)
        if meant is None or (words and self._presets[meant].base_url == url):
            return []
        warning = (
            f"{provider.name!r} is not the name of a known vendor, so its requests and its key go to {url}, the "
            f"address of kind {provider.kind!r}. Did you mean {meant}? Rename it, or set base_url."
        )
        return [warning]

    def check(self, provider: Provider, changed: AbstractSet[str]) -> None:
        """Check the provider as far as the `changed` fields can make it invalid.

        Other changes must not fail because of fields that became invalid later: such a provider can be disabled.

        Raises:
            Invalid: a field is not valid; the message says what to change.
        """
        if changed & {"name", "kind", "base_url", "prices", "protocols"}:
            self._check_protocols(provider.kind, provider.protocols or ())
            for model, price in (provider.prices or {}).items():
                try:
                    from_operator(price)
                except ValueError as error:
                    raise Invalid(f"prices of {model!r}: {error}.", loc=("body", "prices", model)) from None
            self._check_address(provider)
        if changed & {"models", "model_aliases"}:
            _check_aliases(provider, is_model_removed="model_aliases" not in changed)
        for field in ("context_window", "max_output_tokens"):
            if field in changed:
                _check_limit(provider, field)

    def _check_address(self, provider: Provider) -> None:
        if provider.base_url is not None:
            self._check_url(provider.base_url)
            return
        if provider.kind == "local":
            if self._local_url() is None:
                raise Invalid(
                    "The embedded local model is not running: set LLM_GATEWAY_LOCAL_MODEL=true and restart.",
                    loc=("body", "kind"),
                )
            return
        url = self.effective_base_url(provider.name, provider.kind, None)
        if url is None:
            raise Invalid(
                f"base_url is required: there is no default for the kind {provider.kind!r}.", loc=("body", "base_url")
            )
        if url.startswith("http:"):  # a server of the operator; the others are public
            self._check_url(url)

    def _check_protocols(self, kind: str, protocols: Sequence[str]) -> None:
        dialect = DIALECTS.get(kind)  # None: stored by another version; such a provider can still be renamed
        problem = protocols_problem(kind, protocols, dialect) if dialect is not None else None
        if problem is not None:
            raise Invalid(f"protocols: {problem}", loc=("body", "protocols"))

    def _check_url(self, base_url: str) -> None:
        problem = base_urls.problem_of(base_url)
        if problem is None:
            try:
                self._egress.check(base_url)
            except AddressRefused as error:
                problem = str(error)
        if problem is not None:
            raise Invalid(f"base_url: {problem}", loc=("body", "base_url"))

    def needs_key_again(self, before: Provider, after: Provider) -> bool:
        """Return True if the change of origin requires the API key to be sent again.

        In production a stored key is never sent to an origin other than the one it was entered for.
        """
        return self._egress.strict and self._origin(before) != self._origin(after)

    def _origin(self, provider: Provider) -> tuple[str, str | None, int | None] | None:
        url = self.effective_base_url(provider.name, provider.kind, provider.base_url)
        if url is None:
            return None
        parts = urlsplit(url)
        return parts.scheme, parts.hostname, parts.port


def _warnings_of_models(provider: Provider, others: Mapping[str, Provider]) -> list[str]:
    """Return a sentence if names of the provider's models lead to other providers, which they begin with."""
    hidden = [model for model in provider.models if model == AUTO or _names_another(model, provider.name, others)]
    if not hidden or not provider.is_enabled:
        return []
    first, more = hidden[0], len(hidden) - 1
    rest = f" So do {more} other names of its models." if more > 1 else " So does another name." if more else ""
    goes = "where the gateway chooses" if first == AUTO else f"to the provider {first.partition('/')[0]}"
    return [f"A request that names {first!r} goes {goes}: name {f'{provider.name}/{first}'!r} for this one.{rest}"]


def _names_another(model: str, own_name: str, others: Mapping[str, Provider]) -> bool:
    """Return whether a model's name is that of a model or an alias of another provider behind that provider's name."""
    name, has_slash, rest = model.partition("/")
    other = others.get(name) if has_slash and name != own_name else None
    if other is None or not other.is_enabled:
        return False
    return rest in other.models or any(matches(alias, rest) for alias in other.model_aliases or ())


def _foreign_kind(provider: Provider, preset: Preset) -> str:
    return (
        f"Requests go to {preset.base_url} as kind {provider.kind!r}, but the API of {provider.name} is of kind "
        f"{preset.kind!r}: set kind to null, or set base_url."
    )


def _check_aliases(provider: Provider, *, is_model_removed: bool) -> None:
    for alias, model in (provider.model_aliases or {}).items():
        if model in provider.models:
            continue
        if is_model_removed:
            raise Invalid(
                f"models: the alias {alias!r} needs {model!r}: keep it, or change model_aliases in the same request.",
                loc=("body", "models"),
            )
        raise Invalid(
            f"model_aliases: {alias!r} leads to {model!r}, which is not in models: choose from "
            f"{_choices(model, provider.models)}",
            loc=("body", "model_aliases", alias),
        )


def _choices(model: str, models: Sequence[str]) -> str:
    """Return the names of the first models, and a question if one of all models is probably meant."""
    rest = " and more" if len(models) > MOST_NAMED else ""
    return f"{', '.join(models[:MOST_NAMED])}{rest}.{if_meant(model, models)}"


def _check_limit(provider: Provider, field: str) -> None:
    limit = getattr(provider, field)
    for model in limit if isinstance(limit, dict) else ():
        if model not in provider.models:
            raise Invalid(
                f"{field}: {model!r} is not in models: choose from {_choices(model, provider.models)}",
                loc=("body", field, model),
            )
