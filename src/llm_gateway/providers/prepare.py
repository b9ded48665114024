"""Prepare stored providers for calls: resolve their URL, headers, API key, protocol codecs and model prices."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from weakref import WeakValueDictionary

import msgspec

from llm_gateway.domain.catalog import Provider, Target, UpstreamAuthorizer
from llm_gateway.errors import ConfigurationError
from llm_gateway.providers.dialect import Dialect
from llm_gateway.providers.presets import Preset, base_url_of, vendor_of
from llm_gateway.providers.prices import PriceList, own_price
from llm_gateway.providers.registry import choose_codecs, protocols_problem
from llm_gateway.providers.vendor_rules.body_rules import rules_of_model


def target_with_key(dialect: Dialect, base_url: str, api_key: str) -> Target:
    """Return the URLs and headers of an account's calls, including the header with the API key."""
    target = dialect.target(base_url)
    return msgspec.structs.replace(target, headers=dialect.static_key.headers(api_key) | target.headers)


def no_authorizer(provider: Provider, api_key: str) -> UpstreamAuthorizer | None:
    """Return None for every provider: the API key in a header authorises its calls (default of `Preparer`)."""
    return None


class Preparer:
    """Fills in the derived fields of stored providers: `target` and the fields after it.

    Args:
        dialects: the dialects, by kind.
        presets: the vendors' presets, by name.
        prices: the public price lists.
        local_endpoint: returns (base URL, key) of the embedded model's server, None while it does not run.
        learn: receives every API key, so that logs and messages redact it.
        authorize: returns the authorizer of a provider with this key, None if the key in a header is enough. Called
            once for each (provider, base URL, key) while the authorizer is in use, so that a new snapshot keeps the
            tokens of the previous one.
    """

    def __init__(
        self,
        *,
        dialects: Mapping[str, Dialect],
        presets: Mapping[str, Preset],
        prices: PriceList,
        local_endpoint: Callable[[], tuple[str, str] | None],
        learn: Callable[[list[str]], None],
        authorize: Callable[[Provider, str], UpstreamAuthorizer | None] = no_authorizer,
    ) -> None:
        self._dialects = dialects
        self._presets = presets
        self._prices = prices
        self._local_endpoint = local_endpoint
        self._learn = learn
        self._authorize = authorize
        self._authorizers: WeakValueDictionary[tuple[str, str, str], UpstreamAuthorizer] = WeakValueDictionary()

    def prepare(self, provider: Provider, api_key: str) -> Provider:
        """Return the provider with its derived fields, ready for calls.

        Raises:
            ConfigurationError: its kind has no dialect, it has no URL, or its dialect lacks one of its protocols.
        """
        self._learn([api_key])
        dialect = self._dialects.get(provider.kind)
        if dialect is None:
            raise ConfigurationError(
                f"This version does not support providers of kind {provider.kind!r}: choose from "
                f"{', '.join(self._dialects)}, or install the version that added it."
            )
        preset = self._presets.get(provider.name, Preset(provider.kind))
        vendor = vendor_of(provider.name, provider.kind, provider.base_url, self._presets)
        preset_name = vendor or None
        prices = {
            model: own_price(provider, model) or self._prices.find(preset_name, model) for model in provider.models
        }
        protocols = provider.protocols
        if protocols is None and preset.kind == provider.kind:
            protocols = preset.protocols
        problem = protocols_problem(provider.kind, protocols or (), dialect)
        if problem is not None:
            raise ConfigurationError(problem)
        spoken = choose_codecs(dialect, protocols, has_json_mode=preset.has_json_mode)
        rules = {
            model: rules_of_model(
                vendor, tuple(spoken.codecs), spoken.translation_protocol, model, spoken.required_protocol
            )
            for model in provider.models
        }
        return msgspec.structs.replace(
            provider,
            target=self._target(provider, api_key, dialect),
            codecs=spoken.codecs,
            translation_codec=spoken.translation_codec,
            required_codec=spoken.required_codec,
            price_by_model={model: price for model, price in prices.items() if price is not None},
            context_window_by_model=self._context_windows(provider, preset_name),
            price_vendor=None if provider.kind == "local" else self._prices.vendor_of(preset_name),
            rules_by_model={model: found for model, found in rules.items() if found is not None},
        )

    def _context_windows(self, provider: Provider, preset_name: str | None) -> dict[str, int]:
        """Return the context window of each model in tokens: the operator's, else that of the public lists."""
        own = provider.context_window
        if isinstance(own, int):
            return dict.fromkeys(provider.models, own)
        found = {model: (own or {}).get(model) for model in provider.models}
        if provider.kind != "local":
            found = {m: size or self._prices.context_window(preset_name, m) for m, size in found.items()}
        return {model: size for model, size in found.items() if size is not None}

    def _target(self, provider: Provider, api_key: str, dialect: Dialect) -> Target:
        """Resolve the base URL (the provider's, the embedded model's or the vendor's), and add the credentials."""
        base_url = base_url_of(provider.name, provider.kind, provider.base_url, self._presets)
        if base_url is None and provider.kind == "local":
            endpoint = self._local_endpoint()
            if endpoint is None:
                raise ConfigurationError("The embedded local model is not running: set LLM_GATEWAY_LOCAL_MODEL=true.")
            base_url, api_key = endpoint
            self._learn([api_key])
        if base_url is None:
            raise ConfigurationError(
                f"It has no base_url, and the kind {provider.kind!r} has no default: set base_url."
            )
        authorize = self._authorizer(provider, base_url, api_key)
        if authorize is None:
            return target_with_key(dialect, base_url, api_key)
        return msgspec.structs.replace(dialect.target(base_url), authorize=authorize)

    def _authorizer(self, provider: Provider, base_url: str, api_key: str) -> UpstreamAuthorizer | None:
        key = (provider.id, base_url, api_key)
        known = self._authorizers.get(key)
        if known is None:
            known = self._authorize(provider, api_key)
            if known is not None:
                self._authorizers[key] = known
        return known
