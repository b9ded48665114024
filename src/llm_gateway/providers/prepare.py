"""From a stored provider and its key to one that can be called: where calls go, and what its models cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

from llm_gateway.domain.catalog import Provider, Target
from llm_gateway.errors import ConfigurationError
from llm_gateway.providers.base import Adapter, Vendor
from llm_gateway.providers.prices import PriceList, own_price


class Preparer:
    """Adds `target`, `has_json_mode`, `has_responses`, `price_by_model` and `price_vendor` to a provider.

    `local_endpoint` gives (base URL, key) of the embedded model's server, None when it does not run. `learn` hears
    every key, so that none is ever shown.
    """

    def __init__(
        self,
        *,
        adapters: Mapping[str, Adapter],
        vendors: Mapping[str, Vendor],
        prices: PriceList,
        local_endpoint: Callable[[], tuple[str, str] | None],
        learn: Callable[[list[str]], None],
    ) -> None:
        self._adapters = adapters
        self._vendors = vendors
        self._prices = prices
        self._local_endpoint = local_endpoint
        self._learn = learn

    def __call__(self, provider: Provider, api_key: str) -> Provider:
        """The provider, ready to be called.

        Raises:
            ConfigurationError: there is no adapter for its kind, or no URL to call.
        """
        self._learn([api_key])
        vendor = self._vendors.get(provider.name, Vendor(provider.kind))
        preset = provider.name if provider.name in self._vendors else None
        prices = {model: own_price(provider, model) or self._prices.find(preset, model) for model in provider.models}
        return msgspec.structs.replace(
            provider,
            target=self._target(provider, api_key),
            has_json_mode=vendor.has_json_mode,
            has_responses=vendor.has_responses,
            price_by_model={model: price for model, price in prices.items() if price is not None},
            price_vendor=None if provider.kind == "local" else self._prices.vendor_of(preset),
        )

    def _target(self, provider: Provider, api_key: str) -> Target:
        adapter = self._adapters.get(provider.kind)
        if adapter is None:
            raise ConfigurationError(f"This version does not speak {provider.kind!r}.")
        base_url = provider.base_url
        if base_url is None and provider.kind == "local":
            endpoint = self._local_endpoint()
            if endpoint is None:
                raise ConfigurationError("The embedded local model is not running: set LLM_GATEWAY_LOCAL_MODEL=true.")
            base_url, api_key = endpoint
            self._learn([api_key])
        vendor = self._vendors.get(provider.name)
        base_url = base_url or (vendor.base_url if vendor else None)
        if base_url is None:
            raise ConfigurationError("It has no base_url, and its name is no vendor's.")
        return adapter.target(provider, api_key, base_url)
