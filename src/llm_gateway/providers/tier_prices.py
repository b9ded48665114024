"""Prices that the public lists lack: of service tiers, as factors of the standard price, and of units such as searches.

Every row has the address of the vendor's page and the day on which it was read. What no page of a vendor says has no
row, so that its cost is `estimated`. The public lists are of the standard tier (`providers/prices.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from llm_gateway.domain.public_prices import ANY_VENDOR
from llm_gateway.domain.quote import Quote
from llm_gateway.domain.usage import FREE, AttemptRecord, Price, Tier

READ = "2026-11-27"
"""Day on which the pages of all rows were read."""


class TierFactor(NamedTuple):
    """The price of a tier: the standard price × `factor` (numerator, denominator), for every kind of token.

    `vendor` is the key of a public price list; `models` are globs of model names in lower case. `max_input_tokens`:
    the page gives no price for longer inputs. `is_exact` False: the page gives a range, of which this is the upper end.
    `discounts_cache` False: the page does not say whether tokens read from the cache are discounted as well.
    """

    vendor: str
    models: tuple[str, ...]
    tiers: tuple[str, ...]
    factor: tuple[int, int]
    source: str
    max_input_tokens: int | None = None
    is_exact: bool = True
    discounts_cache: bool = True


class UnitPrice(NamedTuple):
    """The price of a unit in nano-dollars; `is_per_call`: for a call with any number of them.

    `is_exact` False: some are free, or billed higher, which no reply tells.
    """

    vendor: str
    models: tuple[str, ...]
    unit: str
    nanos: int
    source: str
    is_per_call: bool = False
    is_exact: bool = True


_FLEX = "https://developers.openai.com/api/docs/guides/flex-processing"
_PRIORITY = "https://openai.com/api-priority-processing/"
_CLAUDE = "https://platform.claude.com/docs/en/about-claude/pricing"
_CLAUDE_CODE = "https://code.claude.com/docs/en/fast-mode"
_GEMINI = "https://ai.google.dev/gemini-api/docs/optimization"
_FAST = ("priority", "fast")
"""OpenAI's two names of one tier: https://developers.openai.com/api/docs/guides/fast-mode."""
_LONG = 128_000
"""Input tokens from which OpenAI's priority prices do not apply: the page's footnote on "long context"."""


def _named(*models: str) -> tuple[str, ...]:
    """Return globs of these models and of their dated versions (gpt-5.4-2026-03-05), but not of gpt-5.4-mini."""
    return tuple(glob for model in models for glob in (model, f"{model}-20*"))


TIER_FACTORS = (
    # "Tokens are priced at Batch API rates", which are half of the standard ones.
    TierFactor("openai", ("*",), ("flex", "batch"), (1, 2), _FLEX),
    TierFactor("openai", _named("gpt-5.5"), _FAST, (5, 2), _PRIORITY, _LONG),
    TierFactor(
        "openai",
        _named("gpt-5.4", "gpt-5.4-mini", "gpt-5.2", "gpt-5.1", "gpt-5", "gpt-5.1-codex", "gpt-5-codex"),
        _FAST,
        (2, 1),
        _PRIORITY,
        _LONG,
    ),
    TierFactor("openai", _named("gpt-5-mini"), _FAST, (9, 5), _PRIORITY, _LONG),
    TierFactor("openai", _named("gpt-4.1", "gpt-4.1-mini"), _FAST, (7, 4), _PRIORITY, _LONG),
    TierFactor("openai", _named("gpt-4.1-nano"), _FAST, (2, 1), _PRIORITY, _LONG),
    TierFactor("openai", ("gpt-4o-2024-05-13",), _FAST, (7, 4), _PRIORITY),
    TierFactor("openai", _named("gpt-4o"), _FAST, (17, 10), _PRIORITY),
    TierFactor("openai", _named("gpt-4o-mini"), _FAST, (5, 3), _PRIORITY),
    TierFactor("openai", _named("o3"), _FAST, (7, 4), _PRIORITY),
    TierFactor("openai", _named("o4-mini"), _FAST, (20, 11), _PRIORITY),
    TierFactor("anthropic", ("claude-*",), ("batch",), (1, 2), _CLAUDE),
    # Older models than Opus 4.6 and Sonnet 4.6 reject `inference_geo`.
    TierFactor(
        "anthropic",
        ("claude-*",),
        ("geo:us",),
        (11, 10),
        "https://platform.claude.com/docs/en/manage-claude/data-residency",
    ),
    # $10 and $50 instead of $5 and $25, $30 and $150 instead of $5 and $25.
    TierFactor("anthropic", ("claude-opus-4-8*",), ("fast",), (2, 1), _CLAUDE_CODE),
    TierFactor("anthropic", ("claude-opus-4-7*", "claude-opus-4-6*"), ("fast",), (6, 1), _CLAUDE_CODE),
    TierFactor("google", ("gemini-*",), ("flex", "batch"), (1, 2), _GEMINI, discounts_cache=False),
    # "75% to 100% more than standard"
    TierFactor("google", ("gemini-*",), ("priority",), (2, 1), _GEMINI, is_exact=False),
    # "Pricing matches the on-demand tier."
    TierFactor("groq", ("*",), ("flex",), (1, 1), "https://console.groq.com/docs/flex-processing"),
)
"""Prices of tiers; of several rows that match, the first one applies."""

_OPENAI = "https://developers.openai.com/api/docs/pricing"
_GROUNDING = "https://ai.google.dev/gemini-api/docs/pricing"

UNIT_PRICES = (
    UnitPrice("openai", ("gpt-[5-9]*", "o[1-9]*"), "web_search", 10_000_000, _OPENAI),
    # $10 or $25 a thousand by the version of the tool; small models are billed 8,000 input tokens a search as well.
    UnitPrice("openai", ("*",), "web_search", 25_000_000, _OPENAI, is_exact=False),
    UnitPrice("openai", ("*",), "file_search", 2_500_000, _OPENAI),
    UnitPrice("anthropic", ("*",), "web_search", 10_000_000, _CLAUDE),
    # Gemini's first searches of a day or a month are free. Up to 2.5, a call is billed once, however often it searches.
    UnitPrice("google", ("gemini-[12].*",), "web_search", 35_000_000, _GROUNDING, is_per_call=True, is_exact=False),
    UnitPrice("google", ("gemini-*",), "web_search", 14_000_000, _GROUNDING, is_exact=False),
    # Replies list all searches, of which only those that succeeded are billed.
    UnitPrice("x-ai", ("*",), "web_search", 5_000_000, "https://docs.x.ai/developers/pricing", is_exact=False),
)
"""Prices of units; of several rows that match, the first one applies."""


def quote(price: Price, vendor: str | None, attempt: AttemptRecord) -> Quote:
    """Return what a call costs, whose tokens have this standard `price`.

    `vendor` is the `price_vendor` of its provider. If that is `ANY_VENDOR`, rows for a vendor's model names apply to
    these names, as the public lists do.
    """
    if (attempt.service_tier is None and attempt.units is None) or price == FREE:
        return Quote(price)
    names = [name.lower() for name in (attempt.model, attempt.upstream_model) if name]
    is_known, units_nanos = True, 0
    numerator = denominator = 1
    for tier in attempt.service_tier.split("+") if attempt.service_tier is not None else ():
        rate = next((row for row in TIER_FACTORS if tier in row.tiers and _matches(row, vendor, names)), None)
        if rate is None:
            is_known = False
            continue
        numerator, denominator = numerator * rate.factor[0], denominator * rate.factor[1]
        is_known = is_known and _is_exact(rate, attempt)
    for unit, count in (attempt.units or {}).items():
        priced = next((row for row in UNIT_PRICES if unit == row.unit and _matches(row, vendor, names)), None)
        is_known = is_known and priced is not None and priced.is_exact
        if priced is not None:
            units_nanos += priced.nanos * (1 if priced.is_per_call else count)
    return Quote(_scaled(price, numerator, denominator), units_nanos, is_known)


def _matches(row: TierFactor | UnitPrice, vendor: str | None, names: Sequence[str]) -> bool:
    if vendor == ANY_VENDOR:
        return row.models != ("*",) and any(fnmatchcase(name, glob) for glob in row.models for name in names)
    return row.vendor == vendor and any(fnmatchcase(name, glob) for glob in row.models for name in names)


def _is_exact(rate: TierFactor, attempt: AttemptRecord) -> bool:
    is_short = rate.max_input_tokens is None or attempt.usage.input_tokens <= rate.max_input_tokens
    return rate.is_exact and is_short and (rate.discounts_cache or not attempt.usage.cache_read_tokens)


def _scaled(price: Price, numerator: int, denominator: int) -> Price:
    """Return the price × numerator / denominator, each kind rounded half up to the nano-dollar per million tokens."""
    if numerator == denominator:
        return price

    def scaled(tiers: tuple[Tier, ...]) -> tuple[Tier, ...]:
        return tuple((start, (nanos * numerator + denominator // 2) // denominator) for start, nanos in tiers)

    return Price(**{kind: scaled(getattr(price, kind)) for kind in Price.__struct_fields__})
