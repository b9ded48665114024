"""Public list prices as data: which names belong to which model of a vendor, and what it costs at what time.

`providers/prices.py` builds them from genai-prices; a process that has a snapshot finds the same prices without that
package.
"""

from __future__ import annotations

import re
from datetime import date
from typing import Literal, TypeAlias

import msgspec

from llm_gateway.domain.usage import Price

ANY_VENDOR = "*"
"""Stands for a vendor that is not known: the first vendor that claims a model's name is taken."""

SEARCHING = re.compile(r"search-preview|search-api|deep-research|\bsonar\b", re.IGNORECASE)
"""Models that search the web on every call and are billed for it by the search or request, though the list has often
only their price per token (OpenAI: "Web search" at openai.com/api/pricing; docs.perplexity.ai, "Pricing")."""

_COMPACT_DATE = re.compile(r"-(20\d{2})(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=-|:|$)")
_DAY_S = 86_400

How: TypeAlias = Literal["equals", "starts_with", "ends_with", "contains", "regex", "any", "all"]


class Rule(msgspec.Struct, frozen=True, gc=False, array_like=True, omit_defaults=True):
    """A condition on a model's name: it compares the name with `text` (lower case or a regex), or combines `parts`.

    Rule("any", parts=(Rule("equals", "gpt-4o"), Rule("starts_with", "gpt-4o-2024")))
    """

    how: How
    text: str = ""
    parts: tuple[Rule, ...] = ()

    def matches(self, name: str) -> bool:
        """Return whether a name (in lower case) meets the condition."""
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
    """A price and when it is in force: always, from `since_s` on (Unix time), or `daily` between two seconds of a day.

    Days are UTC's. `price` None: the model cannot be priced per token.
    """

    price: Price | None
    since_s: int | None = None
    daily: tuple[float, float] | None = None

    def is_active(self, at_s: float) -> bool:
        """Return whether the price is in force at that time (Unix time)."""
        if self.since_s is not None:
            return at_s >= self.since_s
        if self.daily is None:
            return True
        (start, end), second = self.daily, at_s % _DAY_S
        return start <= second < end if start <= end else second >= start or second < end


class PricedModel(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """One model of a vendor: its names and its prices. Of several prices in force the last one counts."""

    names: Rule
    prices: tuple[TimedPrice, ...]

    def price_at(self, at_s: float) -> Price | None:
        """Return the price in force at that time (Unix time), or the first price if none is."""
        for timed in reversed(self.prices):
            if timed.is_active(at_s):
                return timed.price
        return self.prices[0].price


class VendorPrices(msgspec.Struct, frozen=True, gc=False):
    """One vendor's models; a name means the first one that it matches.

    `fallbacks` are vendors whose models this one sells, too. `claims` matches names that belong to this vendor when the
    vendor is not known; None: no names do.
    """

    models: tuple[PricedModel, ...]
    fallbacks: tuple[str, ...] = ()
    claims: Rule | None = None

    def find(self, name: str) -> PricedModel | None:
        """Return the model that a name (in lower case) means."""
        return next((model for model in self.models if model.names.matches(name)), None)


class PublicPrices(msgspec.Struct, frozen=True, gc=False):
    """Price lists by vendor, in the order in which vendors claim names."""

    vendors: dict[str, VendorPrices] = {}

    def find(self, vendor: str, model: str) -> PricedModel | None:
        """Return the model that a name of a vendor (or of ANY_VENDOR) means; None if no list has it.

        None as well for models that search, see SEARCHING. A compact date in the name (`-20251211`) is tried in its
        long form, too (`-2025-12-11`), as genai-prices does.
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


def _long_date(found: re.Match[str]) -> str:
    year, month, day = found.groups()
    try:
        date(int(year), int(month), int(day))
    except ValueError:  # there is no such day
        return found[0]
    return f"-{year}-{month}-{day}"
