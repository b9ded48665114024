"""What models cost: the operator's own prices, and the public list of genai-prices (this file is its only home).

Both become `domain.usage.Price`: integer nano-dollars per million tokens. The package is imported at the first lookup,
as it takes a third of a second and 20 MB.
"""

from __future__ import annotations

import re
import time
from collections import OrderedDict
from collections.abc import Callable, Container, Mapping
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import TYPE_CHECKING

import msgspec

from llm_gateway.domain.catalog import Provider
from llm_gateway.domain.usage import FREE, NANOS_PER_USD, AttemptRecord, Price, Tier

if TYPE_CHECKING:
    from genai_prices.types import ModelInfo, ModelPrice, TieredPrices

KINDS = Price.__struct_fields__
MAX_USD_PER_MILLION = 1_000_000
"""A dollar a token: more is a slip of the pen."""

CONDITIONAL_TTL_S = 60.0
MAX_NAMES = 4096
MAX_MODEL_NAME = 256

GENAI_PROVIDERS = {
    "openai": "openai",
    "anthropic": "anthropic",
    "gemini": "google",
    "groq": "groq",
    "mistral": "mistral",
    "deepseek": "deepseek",
    "together": "together",
    "fireworks": "fireworks",
    "openrouter": "openrouter",
    "xai": "x-ai",
    "cerebras": "cerebras",
    "perplexity": "perplexity",
    "cohere": "cohere",
}
SELF_HOSTED = frozenset({"ollama", "vllm", "lmstudio", "local"})
"""Their models have the names of models that others sell; nobody bills by the token."""

GENAI_KEYS = {
    "input": "input_mtok",
    "output": "output_mtok",
    "cache_read": "cache_read_mtok",
    "cache_write": "cache_write_mtok",
    "cache_write_1h": "cache_write_1h_mtok",
    "reasoning": "output_reasoning_mtok",
    "audio_input": "input_audio_mtok",
    "audio_output": "output_audio_mtok",
}
UNCOUNTED_CHARGES = ("requests_kcount", "output_citation_mtok")
"""What every call of such a model is billed beside the tokens a `Usage` counts: its price would be too low."""

SEARCHING = re.compile(r"search-preview|search-api|deep-research|\bsonar\b", re.IGNORECASE)
"""Models that search the web on every call and are billed for it by the search or request, though the list has often
only their price per token (OpenAI: "Web search" at openai.com/api/pricing; docs.perplexity.ai, "Pricing")."""


def own_price(provider: Provider, model: str) -> Price | None:
    """The price of a provider's model that no public list has a say in: the operator's, or that of our own machine."""
    if provider.prices and model in provider.prices:
        return from_operator(provider.prices[model])
    return FREE if provider.kind == "local" else None


def attempt_price(
    prices: PriceList, vendors: Container[str], provider: Provider, attempt: AttemptRecord
) -> Price | None:
    """The price in force now for an attempt made at that provider, list prices of the time when it was made.

    As when it is recorded: by the configured model, else by the name the provider reported. `vendors` are the names
    of the presets.
    """
    vendor = provider.name if provider.name in vendors else None
    price = own_price(provider, attempt.model) or prices.find_at(vendor, attempt.model, attempt.started_ms)
    if price is None and attempt.upstream_model is not None:
        price = prices.find_at(vendor, attempt.upstream_model, attempt.started_ms)
    return price


def from_operator(prices: Mapping[str, float]) -> Price:
    """The price of one model from its JSON form, kind → USD per million tokens, rounded half up to the nano-dollar.

    Raises:
        ValueError: a kind is unknown or missing, or a price is no number from 0 to 1,000,000.
    """
    unknown = [kind for kind in prices if kind not in KINDS]
    if unknown or "input" not in prices or "output" not in prices:
        raise ValueError(
            f"A price has the kinds {', '.join(KINDS)} (input and output are required), in USD per million tokens"
            + (f"; unknown: {', '.join(map(repr, unknown))}" if unknown else "")
        )
    return Price(**{kind: ((0, _operator_nanos(kind, usd)),) for kind, usd in prices.items()})


def _operator_nanos(kind: str, usd: object) -> int:
    if isinstance(usd, bool) or not isinstance(usd, int | float) or not 0 <= usd <= MAX_USD_PER_MILLION:
        raise ValueError(
            f"The price of {kind} must be a number from 0 to {MAX_USD_PER_MILLION}, in USD per million tokens"
        )
    return _nanos(Decimal(str(usd)))


def _nanos(usd: Decimal) -> int:
    return int((usd * NANOS_PER_USD).to_integral_value(ROUND_HALF_UP))


class _Entry(msgspec.Struct):
    """What is known of one name; a price that depends on the time has its model, and a time to look again."""

    price: Price | None
    model: ModelInfo | None = None
    resolved_at: float = 0.0


class PriceList:
    """The public price list. `clock` gives wall-clock seconds (Unix time), for prices that depend on the time.

    Names come from outside (a provider reports its model's), so no more than `max_names` are remembered, misses too.
    """

    def __init__(self, clock: Callable[[], float] = time.time, max_names: int = MAX_NAMES) -> None:
        self._clock = clock
        self._max_names = max_names
        self._entries: OrderedDict[tuple[str | None, str], _Entry] = OrderedDict()

    def find(self, vendor: str | None, model: str) -> Price | None:
        """The price of a vendor's model, None when it is not known or cannot be told per token.

        A vendor of the presets is looked up by its own list alone; of another one only the model's name is known. A
        price that depends on the time is the one of now, at most a minute old.
        """
        entry = self._entry(vendor, model)
        if entry.model is not None and not 0 <= self._clock() - entry.resolved_at < CONDITIONAL_TTL_S:
            self._resolve(entry, entry.model)
        return entry.price

    def find_at(self, vendor: str | None, model: str, at_ms: int) -> Price | None:
        """The same for a call at that time (milliseconds UTC), by the list as it is known now."""
        entry = self._entry(vendor, model)
        if entry.model is None:
            return entry.price
        return _from_genai(entry.model.get_prices(datetime.fromtimestamp(at_ms / 1000, UTC)))

    def _entry(self, vendor: str | None, model: str) -> _Entry:
        if vendor in SELF_HOSTED or len(model) > MAX_MODEL_NAME or SEARCHING.search(model):
            return _Entry(None)
        provider_id = GENAI_PROVIDERS.get(vendor or "")
        key = (provider_id, model)
        entry = self._entries.get(key)
        if entry is None:
            entry = self._entries[key] = self._look_up(provider_id, model)
            if len(self._entries) > self._max_names:
                self._entries.popitem(last=False)
        return entry

    def _look_up(self, provider_id: str | None, model: str) -> _Entry:
        from genai_prices.data_snapshot import DataSnapshot, get_snapshot  # noqa: PLC0415 -- 20 MB, and only here

        # A snapshot of its own for each lookup: genai-prices remembers every name it was asked for, without bound.
        snapshot = DataSnapshot(providers=get_snapshot().providers, from_auto_update=False)
        try:
            _, found = snapshot.find_provider_model(model, None, provider_id, None)
        except LookupError:
            return _Entry(None)
        entry = _Entry(None, found if isinstance(found.prices, list) else None)
        self._resolve(entry, found)
        return entry

    def _resolve(self, entry: _Entry, model: ModelInfo) -> None:
        entry.resolved_at = self._clock()
        entry.price = _from_genai(model.get_prices(datetime.fromtimestamp(entry.resolved_at, UTC)))


def _from_genai(prices: ModelPrice) -> Price | None:
    """The canonical price, None when there is none per input token or a call is billed more than a `Usage` counts.

    As in genai-prices an output without a price (embeddings) costs nothing. Prices per image, page, second or search
    do not matter here: no call of ours has such a thing.
    """
    if prices.input_mtok is None or any(getattr(prices, key) is not None for key in UNCOUNTED_CHARGES):
        return None
    tiers = {kind: _tiers(getattr(prices, key)) for kind, key in GENAI_KEYS.items()}
    return Price(**{**tiers, "output": tiers["output"] or ((0, 0),)})


def _tiers(price: Decimal | TieredPrices | None) -> tuple[Tier, ...]:
    if price is None:
        return ()
    if isinstance(price, Decimal):
        return ((0, _nanos(price)),)
    return ((0, _nanos(price.base)), *((tier.start, _nanos(tier.price)) for tier in price.tiers))
