"""The most that an attempt can cost, and what it is expected to cost: amounts to hold in budgets."""

from __future__ import annotations

from typing import TypeAlias

from llm_gateway.domain.request import Request
from llm_gateway.domain.usage import AttemptRecord, Price, dearest_cost, plain_cost

Cost: TypeAlias = tuple[int, int]
"""Nano-dollars and tokens."""


def largest_cost(request: Request, attempt: AttemptRecord) -> Cost:
    """Return the most that an attempt can cost.

    A token has at least one byte, and input that a provider puts into its cache can be dearer. `input_length` counts a
    picture as 6,000 characters, which is more tokens than any vendor bills for one.
    """
    usage, price = attempt.usage, attempt.price
    output, known = usage.output_tokens, usage.input_tokens
    inputs = request.input_length if request.input_length > known else known  # noqa: FURB136 - faster
    if price is None:
        return 0, inputs + output
    has_cache_price = price.cache_write or price.cache_write_1h
    nanos = dearest_cost(price, inputs, output) if has_cache_price else plain_cost(price, inputs, output)
    least = attempt.cost_nanos
    return least if least > nanos else nanos, inputs + output  # noqa: FURB136 - as above


class LargestCost:
    """`largest_cost` for attempts of which nearly all have the same price: it looks at each price only once."""

    __slots__ = ("_input", "_price")

    def __init__(self) -> None:
        self._price: Price | None = None
        self._input = 0
        """Nano-dollars per token of input at this price, which is the same for all calls."""

    def of(self, request: Request, attempt: AttemptRecord) -> Cost:
        """Return the most that an attempt can cost."""
        price, usage = attempt.price, attempt.usage
        if price is None or price is not self._price:
            self._remember(price)
            return largest_cost(request, attempt)
        tokens = usage.input_tokens + usage.output_tokens
        more = request.input_length - usage.input_tokens
        if more <= 0:
            return attempt.cost_nanos, tokens
        return attempt.cost_nanos + more * self._input, tokens + more

    def _remember(self, price: Price | None) -> None:
        self._price = None
        if price is not None and not price.cache_write and not price.cache_write_1h:
            per_million = price.input[0][1]
            if len(price.input) == len(price.output) == 1 and not per_million % 1_000_000:
                self._price, self._input = price, per_million // 1_000_000


def intended_cost(_request: Request, attempt: AttemptRecord) -> Cost:
    """Return what an attempt costs with the output that it is limited to, by the estimate of its input."""
    usage = attempt.usage
    return attempt.cost_nanos, usage.input_tokens + usage.output_tokens


def expected_cost(attempt: AttemptRecord, output: int) -> Cost:
    """Return what an attempt costs with this output, which is less than that of its bound.

    It is never more than the bound in the attempt.
    """
    inputs, price = attempt.usage.input_tokens, attempt.price
    nanos, most = 0 if price is None else plain_cost(price, inputs, output), attempt.cost_nanos
    return most if most < nanos else nanos, inputs + output  # noqa: FURB136 - min() takes five times as long
