"""Bounded cache of public list prices by vendor and model name, for now or for a given time.

Does not import genai-prices, so that the data plane can use it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import msgspec

from llm_gateway import wall_clock
from llm_gateway.domain.public_prices import PricedModel, PublicPrices
from llm_gateway.domain.usage import Price

MAX_NAMES = 4096
"""Default number of cached (vendor, model name) entries; the oldest one is evicted first."""
MAX_MODEL_NAME = 256
"""Characters of a model's name; a longer name has no price and is not cached."""
TIMED_TTL_S = 60.0
"""Seconds for which a price that changes with the time is reused."""


class _Entry(msgspec.Struct):
    """A cached lookup. `resolved_at` is the Unix time at which `price` was determined, None if it never changes."""

    model: PricedModel | None
    price: Price | None
    resolved_at: float | None


class PriceLookup:
    """A bounded cache of prices found in the lists that `lists` returns. `clock` returns Unix time.

    Providers report model names in their replies, so the names are untrusted: at most `max_names` entries are cached,
    including names without a price. New lists clear the cache.
    """

    def __init__(
        self,
        lists: Callable[[], PublicPrices],
        clock: Callable[[], float] = wall_clock.now_s,
        max_names: int = MAX_NAMES,
    ) -> None:
        self._lists = lists
        self._clock = clock
        self._max_names = max_names
        self._known: PublicPrices | None = None
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()

    def find(self, vendor: str | None, model: str) -> Price | None:
        """Return the current price of a model; None if `vendor` is None, the name is unknown, or it has no token price.

        A price that depends on the time of day can be up to a minute old.
        """
        if vendor is None or len(model) > MAX_MODEL_NAME:
            return None
        entry = self._entry(vendor, model)
        if entry.resolved_at is not None and entry.model is not None:
            now = self._clock()
            if not 0 <= now - entry.resolved_at < TIMED_TTL_S:
                entry.price, entry.resolved_at = entry.model.price_at(now), now
        return entry.price

    def find_at(self, vendor: str | None, model: str, at_s: float) -> Price | None:
        """Return the price of a model that was valid at `at_s` (Unix time); None as for `find`."""
        if vendor is None or len(model) > MAX_MODEL_NAME:
            return None
        found = self._entry(vendor, model).model
        return None if found is None else found.price_at(at_s)

    def since_s(self, vendor: str | None, model: str) -> int | None:
        """Return the Unix time from which the list has the current price of a model.

        None if the list does not say that, the price changes with the time of day, or as for `find`.
        """
        if vendor is None or len(model) > MAX_MODEL_NAME:
            return None
        found = self._entry(vendor, model).model
        return None if found is None else found.timed_at(self._clock()).since_s

    def context_window(self, vendor: str | None, model: str) -> int | None:
        """Return the context window of a model in tokens; None if the list does not have it, or as for `find`."""
        if vendor is None or len(model) > MAX_MODEL_NAME:
            return None
        found = self._entry(vendor, model).model
        return None if found is None else found.context_window

    def _entry(self, vendor: str, model: str) -> _Entry:
        lists = self._lists()
        if lists is not self._known:
            self._known = lists
            self._entries.clear()
        entry = self._entries.get((vendor, model))
        if entry is None:
            entry = self._entries[vendor, model] = self._look_up(lists, vendor, model)
            if len(self._entries) > self._max_names:
                self._entries.popitem(last=False)
        return entry

    def _look_up(self, lists: PublicPrices, vendor: str, model: str) -> _Entry:
        found = lists.find(vendor, model)
        if found is None:
            return _Entry(None, None, None)
        now = self._clock()
        return _Entry(found, found.price_at(now), now if len(found.prices) > 1 else None)
