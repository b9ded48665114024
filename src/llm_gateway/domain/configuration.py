"""Configuration as data: what the control plane sends to workers, which build their snapshot of it.

It holds no functions and no open connections, so that it can be encoded (msgspec) and sent to another process:

    control: stores ── AccountResolver ──▶ Configuration ──▶ worker: AccountAssembler ──▶ Snapshot
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from llm_gateway.domain.budget import Budget
from llm_gateway.domain.catalog import Override, Provider
from llm_gateway.domain.key_secret import Pepper
from llm_gateway.domain.public_prices import PublicPrices
from llm_gateway.domain.service_key import ServiceKeys

OverrideKey: TypeAlias = tuple[str, str | None]
"""(user_id, service_name): there is one override at most for each."""
FORMAT = 1
"""Version of the encoded `Configuration`. Readers skip unknown fields and have defaults for missing ones."""


class Account(msgspec.Struct, frozen=True, kw_only=True):
    """A provider with everything that calls to it need: its opened key, its address, its prices and context windows.

    `provider` has its stored fields, `price_by_model`, `price_vendor` and `context_window_by_model`; its other derived
    fields are those of the worker that calls it. `base_url` is the address with the default of its preset or kind; None
    if the provider cannot be used (then `provider.is_enabled` is False). `vendor` is the name of the vendor's preset,
    "" if unknown. `protocols` None selects the kind's defaults. `has_json_mode` is as in `providers.presets.Preset`.
    `repr()` does not show the key.
    """

    provider: Provider
    base_url: str | None = None
    api_key: str = ""
    vendor: str = ""
    protocols: tuple[str, ...] | None = None
    has_json_mode: bool = True

    def __repr__(self) -> str:
        return f"Account({self.provider.name!r}, {self.base_url!r})"


class Configuration(msgspec.Struct, frozen=True, kw_only=True):
    """The whole configuration at one moment, as data. `overrides` is as in `Snapshot`, which uses the same object.

    `has_vendor`: a provider other than the embedded one is enabled, whether it can be used or not. `public_prices`
    contains the price lists that the providers' `price_vendor` refers to. `service_keys` and `peppers` are as in
    `Snapshot`, too. `budgets` are all that requests are compared with.
    """

    accounts: tuple[Account, ...] = ()
    overrides: dict[OverrideKey, Override] = {}
    public_prices: PublicPrices = PublicPrices()
    has_vendor: bool = False
    service_keys: ServiceKeys = {}
    peppers: tuple[Pepper, ...] = ()
    budgets: tuple[Budget, ...] = ()
    format: int = FORMAT


def override_key(override: Override) -> OverrideKey:
    """Return the user and the service that an override is for."""
    return override.user_id, override.service_name
