"""Types of vendors' public price lists: rules that match model names, prices by date and time of day, lookup.

`providers/prices.py` builds these lists from the genai-prices package. Workers receive them in the snapshot, so they
find the same prices without importing that package (20 MB).
"""

from __future__ import annotations

import re
from datetime import date
from typing import Literal, TypeAlias

import msgspec

from llm_gateway.domain.usage import Price

ANY_VENDOR = "*"
"""Placeholder for an unknown vendor: `PublicPrices.find` uses the first vendor whose `claims` match the name."""

SEARCHING = re.compile(r"search-preview|search-api|deep-research|\bsonar\b", re.IGNORECASE)
"""Models that search the web on every call and are billed per search or request. The public list often has only
their price per token, which is too low ("Web search" at openai.com/api/pricing; docs.perplexity.ai, "Pricing")."""

_COMPACT_DATE = re.compile(r"-(20\d{2})(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=-|:|$)")
_DAY_S = 86_400

How: TypeAlias = Literal["equals", "starts_with", "ends_with", "contains", "regex", "any", "all"]


class Rule(msgspec.Struct, frozen=True, gc=False, array_like=True, omit_defaults=True):
    """A condition on a model's name: compares it with `text` (lower case or a regex), or combines the rules in `parts`.

    Rule("any", parts=(Rule("equals", "gpt-4o"), Rule("starts_with", "gpt-4o-2024")))
    """

    how: How
    text: str = ""
    parts: tuple[Rule, ...] = ()

    def matches(self, name: str) -> bool:
        """Return whether `name`, in lower case, meets the condition."""
        match self.how:
            case "equals":
                return name == self.text
            case "any":
                return any(part.matches(name) for part in self.parts)
            case "contains":
                return self.text in name
            case "starts_with":
                return name.startswith(self.text)
            case "ends_with":
                return name.endswith(self.text)
            case "regex":
                return re.search(self.text, name) is not None
            case "all":
                return all(part.matches(name) for part in self.parts)


class TimedPrice(msgspec.Struct, frozen=True, gc=False, array_like=True, omit_defaults=True):
    """A price and its validity: always, from `since_s` on (Unix time), or `daily` between two seconds of the UTC day.

    `price` is None if the model cannot be priced per token.
    """

    price: Price | None
    since_s: int | None = None
    daily: tuple[float, float] | None = None

    def is_active(self, at_s: float) -> bool:
        """Return whether the price is valid at `at_s` (Unix time)."""
        if self.since_s is not None:
            return at_s >= self.since_s
        if self.daily is None:
            return True
        (start, end), second = self.daily, at_s % _DAY_S
        return start <= second < end if start <= end else second >= start or second < end


class PricedModel(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One model of a vendor: the rule for its names, its prices, and its context window in tokens if it is known.

    Of several valid prices the last one applies.
    """

    names: Rule
    prices: tuple[TimedPrice, ...]
    context_window: int | None = None

    def price_at(self, at_s: float) -> Price | None:
        """Return the price valid at `at_s` (Unix time), or the first price if none is valid."""
        return self.timed_at(at_s).price

    def timed_at(self, at_s: float) -> TimedPrice:
        """Return the price with its validity, as `price_at` returns the price."""
        return next((timed for timed in reversed(self.prices) if timed.is_active(at_s)), self.prices[0])


class VendorPrices(msgspec.Struct, frozen=True, gc=False):
    """One vendor's price list. A name belongs to the first model whose rule matches it.

    `fallbacks` are other vendors whose models this vendor sells, too. `claims` matches the names that are attributed
    to this vendor if the vendor is unknown (ANY_VENDOR); None attributes no names to it.
    """

    models: tuple[PricedModel, ...]
    fallbacks: tuple[str, ...] = ()
    claims: Rule | None = None

    def find(self, name: str) -> PricedModel | None:
        """Return the first model that matches `name` (in lower case), None if none does."""
        return next((model for model in self.models if model.names.matches(name)), None)


class PublicPrices(msgspec.Struct, frozen=True, gc=False):
    """Price lists by vendor, in the order in which vendors claim names."""

    vendors: dict[str, VendorPrices] = {}

    def find(self, vendor: str, model: str) -> PricedModel | None:
        """Return the model called `model` at `vendor` (or ANY_VENDOR), None if no list has it.

        Returns None for models that search the web, too: see SEARCHING. A name with a compact date (`-20251211`) is
        also looked up with the long form of the date (`-2025-12-11`), as genai-prices does.
        """
        if SEARCHING.search(model):
            return None
        name = model.lower()
        prices = self._claiming(name) if vendor == ANY_VENDOR else self.vendors.get(vendor)
        if prices is None:
            return None
        found = self._find(prices, name)
        if found is None and (dated := _COMPACT_DATE.sub(_long_date, name)) != name:
            found = self._find(prices, dated)
        return found

    def _claiming(self, name: str) -> VendorPrices | None:
        if not name:
            return None
        for prices in self.vendors.values():
            if prices.claims is not None and prices.claims.matches(name):
                return prices
        return None

    def _find(self, prices: VendorPrices, name: str) -> PricedModel | None:
        found = prices.find(name)
        for fallback in prices.fallbacks if found is None else ():
            found = self.vendors[fallback].find(name) if fallback in self.vendors else None
            if found is not None:
                break
        return found


def _long_date(match: re.Match[str]) -> str:
    year, month, day = match.groups()
    try:
        date(int(year), int(month), int(day))
    except ValueError:  # eight digits that are no date, such as -20250231
        return match[0]
    return f"-{year}-{month}-{day}"
