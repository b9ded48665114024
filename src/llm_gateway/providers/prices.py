"""Price of a model, for new and for recorded attempts: the operator's, else that of the genai-prices lists.

Both are converted to `domain.usage.Price`: integer nano-dollars per million tokens. Only this file imports
genai-prices, and only at the first lookup, since the import takes a third of a second and 20 MB. Its lists are
converted to `domain/public_prices.py`; the snapshot carries those to the data plane.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from datetime import time as time_of_day
from decimal import ROUND_HALF_UP, Decimal
from functools import cache
from typing import TYPE_CHECKING

from llm_gateway import wall_clock
from llm_gateway.domain.catalog import Provider
from llm_gateway.domain.public_prices import ANY_VENDOR, PricedModel, PublicPrices, Rule, TimedPrice, VendorPrices
from llm_gateway.domain.quote import Quote
from llm_gateway.domain.usage import FREE, NANOS_PER_USD, AttemptRecord, Price, Tier
from llm_gateway.providers.presets import Preset, vendor_of
from llm_gateway.providers.price_lookup import MAX_NAMES, PriceLookup
from llm_gateway.providers.tier_prices import quote

if TYPE_CHECKING:
    from genai_prices.types import ConditionalPrice, ModelInfo, ModelPrice, TieredPrices
    from genai_prices.types import Provider as GenaiProvider

KINDS = Price.__struct_fields__
MAX_USD_PER_MILLION = 1_000_000
"""Highest price that an operator can configure, a dollar per token: more is taken for a typing mistake."""

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
"""Preset → provider id in genai-prices."""
SELF_HOSTED = frozenset({"ollama", "vllm", "lmstudio", "local"})
"""Presets without list prices: nobody bills their tokens, though their models have the names of models for sale."""

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
"""Kind of token → field of `genai_prices.types.ModelPrice`."""
UNCOUNTED_CHARGES = ("requests_kcount", "output_citation_mtok")
"""Charges per call that a `Usage` does not count. A model with one of them has no price, since it would be too low."""


def own_price(provider: Provider, model: str) -> Price | None:
    """Return the operator's price of a model, FREE for the embedded model, or None to look in the public lists."""
    if provider.prices and model in provider.prices:
        return from_operator(provider.prices[model])
    return FREE if provider.kind == "local" else None


def attempt_quote(
    prices: PriceList, presets: Mapping[str, Preset], provider: Provider, attempt: AttemptRecord
) -> Quote | None:
    """Return what a recorded attempt costs: by the operator's price of today, else by the list price then.

    Looks up the configured model first, then the model name that the provider reported, as at recording time.
    None: there is no price.
    """
    preset = vendor_of(provider.name, provider.kind, provider.base_url, presets) or None
    price = own_price(provider, attempt.model) or prices.find_at(preset, attempt.model, attempt.started_ms)
    if price is None and attempt.upstream_model is not None:
        price = prices.find_at(preset, attempt.upstream_model, attempt.started_ms)
    vendor = None if provider.kind == "local" else prices.vendor_of(preset)
    return None if price is None else quote(price, vendor, attempt)


def from_operator(prices: Mapping[str, float]) -> Price:
    """Convert an operator's price of one model (kind → USD per million tokens), rounded half up to the nano-dollar.

    Raises:
        ValueError: a kind is unknown or missing, or a price is not a number from 0 to 1,000,000.
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


class PriceList:
    """The public price lists of genai-prices, converted vendor by vendor when first needed. `clock` returns Unix time.

    `public` contains the lists of the vendors that were looked up so far; the snapshot carries it to the data plane.
    """

    def __init__(self, clock: Callable[[], float] = wall_clock.now_s, max_names: int = MAX_NAMES) -> None:
        self.public = PublicPrices()
        self._has_all_claims = False
        self._lookup = PriceLookup(lambda: self.public, clock, max_names)

    def vendor_of(self, preset: str | None) -> str | None:
        """Return the vendor whose list has the prices of a preset's models; add that list to `public`.

        Returns ANY_VENDOR if `preset` is None (the provider has no vendor's name), and None for self-hosted models,
        which nobody bills by the token.
        """
        if preset in SELF_HOSTED:
            return None
        vendor = GENAI_PROVIDERS.get(preset or "", ANY_VENDOR)
        is_there = self._has_all_claims if vendor == ANY_VENDOR else vendor in self.public.vendors
        if not is_there:
            self.public = convert_lists(self.public, vendor)
            self._has_all_claims |= vendor == ANY_VENDOR
        return vendor

    def find(self, preset: str | None, model: str) -> Price | None:
        """Return the current price of a preset's model, None if it is unknown or not per token.

        Searches the list of the preset's vendor only; if `preset` is None, the list of the first vendor that claims
        the model's name. A price that depends on the time of day can be up to a minute old.
        """
        return self._lookup.find(self.vendor_of(preset), model)

    def context_window(self, preset: str | None, model: str) -> int | None:
        """Return the context window of a preset's model in tokens, None if it is unknown. Searches as `find` does."""
        return self._lookup.context_window(self.vendor_of(preset), model)

    def find_at(self, preset: str | None, model: str, at_ms: int) -> Price | None:
        """Return the price at `at_ms` (milliseconds UTC) according to today's lists; otherwise like `find`."""
        return self._lookup.find_at(self.vendor_of(preset), model, at_ms / 1000)


def convert_lists(known: PublicPrices, vendor: str) -> PublicPrices:
    """Return `known` plus the lists for lookups of `vendor` and its fallbacks; for ANY_VENDOR all lists with claims."""
    listed = _listed()
    wanted = set(known.vendors)
    waiting = [name for name, provider in listed.items() if provider.model_match] if vendor == ANY_VENDOR else [vendor]
    while waiting:
        provider = listed.get(waiting.pop())
        if provider is not None and provider.id not in wanted:
            wanted.add(provider.id)
            waiting += provider.fallback_model_providers or ()
    return PublicPrices({name: known.vendors.get(name) or _convert_vendor(name) for name in listed if name in wanted})


@cache
def _listed() -> dict[str, GenaiProvider]:
    """Return the vendors of genai-prices by id."""
    from genai_prices.data_snapshot import get_snapshot  # noqa: PLC0415 -- 20 MB, used only here

    return {provider.id: provider for provider in get_snapshot().providers}


@cache
def _convert_vendor(name: str) -> VendorPrices:
    """Return a vendor's list; a process converts it once."""
    provider = _listed()[name]
    return VendorPrices(
        models=tuple(PricedModel(_rule(model.match), _timed(model), model.context_window) for model in provider.models),
        fallbacks=tuple(provider.fallback_model_providers or ()),
        claims=None if provider.model_match is None else _rule(provider.model_match),
    )


def _rule(clause: object) -> Rule:
    """Convert a clause of genai-prices. A clause of an unknown type becomes a rule that matches nothing."""
    from genai_prices import types  # noqa: PLC0415 -- as above

    match clause:
        case types.ClauseEquals(equals=text):
            return Rule("equals", text.lower())
        case types.ClauseStartsWith(starts_with=text):
            return Rule("starts_with", text.lower())
        case types.ClauseEndsWith(ends_with=text):
            return Rule("ends_with", text.lower())
        case types.ClauseContains(contains=text):
            return Rule("contains", text.lower())
        case types.ClauseRegex(regex=text):
            return Rule("regex", text)
        case types.ClauseOr(or_=clauses):
            return Rule("any", parts=tuple(map(_rule, clauses)))
        case types.ClauseAnd(and_=clauses):
            return Rule("all", parts=tuple(map(_rule, clauses)))
    return Rule("any")


def _timed(model: ModelInfo) -> tuple[TimedPrice, ...]:
    if not isinstance(model.prices, list):
        return (TimedPrice(_from_genai(model.prices)),)
    return tuple(_timed_price(conditional) for conditional in model.prices) or (TimedPrice(None),)


def _timed_price(conditional: ConditionalPrice) -> TimedPrice:
    from genai_prices import types  # noqa: PLC0415 -- as above

    price, when = _from_genai(conditional.prices), conditional.constraint
    match when:
        case types.StartDateConstraint(start_date=day):
            return TimedPrice(price, since_s=int(datetime.combine(day, time_of_day(), UTC).timestamp()))
        case types.TimeOfDateConstraint(start_time=start, end_time=end):
            return TimedPrice(price, daily=(_second_of_day(start), _second_of_day(end)))
    return TimedPrice(price)


def _second_of_day(moment: time_of_day) -> float:
    """Return the second of the UTC day at `moment`; a time without a time zone is UTC."""
    there = datetime.combine(date(1970, 1, 1), moment, moment.tzinfo or UTC)
    return there.timestamp() % 86_400


def _from_genai(prices: ModelPrice) -> Price | None:
    """Convert a price; None if it has no price per input token, or charges that a `Usage` does not count.

    As in genai-prices, an output without a price (embeddings) is free. Prices per image, page, second or search are
    ignored: the gateway makes no such calls.
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
