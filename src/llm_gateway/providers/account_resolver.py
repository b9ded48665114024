"""Resolve stored providers to accounts: open questions of address, vendor, protocols and prices are answered here.

Only the control plane does this: it needs the public price lists (genai-prices) and the stored keys.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from llm_gateway.domain.catalog import Provider
from llm_gateway.domain.configuration import Account
from llm_gateway.errors import ConfigurationError
from llm_gateway.providers.dialect import Dialect
from llm_gateway.providers.presets import Preset, base_url_of, vendor_of
from llm_gateway.providers.prices import PriceList, own_price
from llm_gateway.providers.registry import find_dialect, protocols_problem


class AccountResolver:
    """Makes the account of a stored provider and its opened key.

    Args:
        dialects: the dialects, by kind.
        presets: the vendors' presets, by name.
        prices: the public price lists.
        local_endpoint: returns (base URL, key) of the embedded model's server, None while it does not run.
        learn: receives every API key, so that logs and messages redact it.
    """

    def __init__(
        self,
        *,
        dialects: Mapping[str, Dialect],
        presets: Mapping[str, Preset],
        prices: PriceList,
        local_endpoint: Callable[[], tuple[str, str] | None],
        learn: Callable[[list[str]], None],
    ) -> None:
        self._dialects = dialects
        self._presets = presets
        self._prices = prices
        self._local_endpoint = local_endpoint
        self._learn = learn

    def resolve(self, provider: Provider, api_key: str) -> Account:
        """Return the account of a provider.

        Raises:
            ConfigurationError: its kind has no dialect, it has no URL, or its dialect lacks one of its protocols.
        """
        self._learn([api_key])
        dialect = find_dialect(self._dialects, provider.kind)
        preset = self._presets.get(provider.name, Preset(provider.kind))
        protocols = provider.protocols
        if protocols is None and preset.kind == provider.kind:
            protocols = preset.protocols
        problem = protocols_problem(provider.kind, protocols or (), dialect)
        if problem is not None:
            raise ConfigurationError(problem)
        base_url, key = self._endpoint(provider, api_key)
        vendor = vendor_of(provider.name, provider.kind, provider.base_url, self._presets)
        return Account(
            provider=self._with_lists(provider, vendor or None),
            base_url=base_url,
            api_key=key,
            vendor=vendor,
            protocols=protocols,
            has_json_mode=preset.has_json_mode,
        )

    def _endpoint(self, provider: Provider, api_key: str) -> tuple[str, str]:
        """Return the base URL (the provider's, the embedded model's or the vendor's), and the key of its calls."""
        base_url = base_url_of(provider.name, provider.kind, provider.base_url, self._presets)
        if base_url is None and provider.kind == "local":
            endpoint = self._local_endpoint()
            if endpoint is None:
                raise ConfigurationError("The embedded local model is not running: set LLM_GATEWAY_LOCAL_MODEL=true.")
            self._learn([endpoint[1]])
            return endpoint
        if base_url is None:
            raise ConfigurationError(
                f"It has no base_url, and the kind {provider.kind!r} has no default: set base_url."
            )
        return base_url, api_key

    def _with_lists(self, provider: Provider, preset_name: str | None) -> Provider:
        """Return the provider with what the public lists and the operator say about its models."""
        prices = {
            model: own_price(provider, model) or self._prices.find(preset_name, model) for model in provider.models
        }
        return msgspec.structs.replace(
            provider,
            price_by_model={model: price for model, price in prices.items() if price is not None},
            context_window_by_model=self._context_windows(provider, preset_name),
            price_vendor=None if provider.kind == "local" else self._prices.vendor_of(preset_name),
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
