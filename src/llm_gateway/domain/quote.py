"""Compute the cost of one call: tokens at the price of the tier that served it, plus units such as searches."""

from __future__ import annotations

from typing import NamedTuple

from llm_gateway.domain.usage import AttemptRecord, CostStatus, Price, cost


class Quote(NamedTuple):
    """Price of one call: the price of its tokens, and `units_nanos` for its units (searches, …).

    `is_known` is False if the price of its tier, or of a unit, is not known: then the cost is an estimate.
    """

    price: Price
    units_nanos: int = 0
    is_known: bool = True

    def cost_of(self, attempt: AttemptRecord) -> tuple[int, CostStatus]:
        """Return the cost of a call in nano-dollars, and whether it is exact."""
        is_exact = self.is_known and not attempt.usage_estimated
        return cost(self.price, attempt.usage) + self.units_nanos, "exact" if is_exact else "estimated"
