"""The most that an attempt can cost, and what it is expected to cost: amounts to hold in budgets."""

from __future__ import annotations

from typing import TypeAlias

from llm_gateway.domain.request import Request
from llm_gateway.domain.usage import AttemptRecord, Price, dearest_cost, plain_cost
from llm_gateway.protocols.input_size import input_size

Cost: TypeAlias = tuple[int, int]
"""Nano-dollars and tokens."""

PICTURE_TOKENS = 25_000
"""More tokens than a picture takes: 10,000 patches times 2.46, the largest factor of a model that counts patches.
https://developers.openai.com/api/docs/guides/images-vision (2026-11-29); other vendors' pictures take less."""
LARGE_PICTURES, LARGE_PICTURE_TOKENS = "gpt-4o-mini", 48_169
"""A model that counts a picture as 2,833 tokens and 5,667 for each of up to eight tiles (the same page)."""


def largest_cost(request: Request, attempt: AttemptRecord, context_window: int | None = None) -> Cost:
    """Return the most that an attempt can cost.

    A token has at least one byte. Pictures count with the most that a vendor bills for one. What files take is not
    known before, but no input is larger than the model's `context_window` (if unknown, a `hard` budget refuses
    them). Input that a provider puts into its cache can be dearer, and so can audio and reasoning.
    """
    usage, price = attempt.usage, attempt.price
    output, known, size = usage.output_tokens, usage.input_tokens, request.client_request.size
    if size is None:
        size = input_size(request.client_request)
    inputs = request.input_length if request.input_length > known else known  # noqa: FURB136 - faster
    if size.bytes > inputs:  # noqa: PLR1730 - as above
        inputs = size.bytes
    if not size.is_plain:
        each = LARGE_PICTURE_TOKENS if LARGE_PICTURES in attempt.model.lower() else PICTURE_TOKENS
        inputs = max(inputs + size.pictures * each, context_window or 0 if size.has_files else 0)
    if price is None:
        return 0, inputs + output
    if price.cache_write or price.cache_write_1h or price.reasoning or size.has_audio:
        nanos = dearest_cost(price, inputs, output, has_audio=size.has_audio)
    else:
        nanos = plain_cost(price, inputs, output)
    least = attempt.cost_nanos
    return least if least > nanos else nanos, inputs + output  # noqa: FURB136 - max() takes five times as long


class LargestCost:
    """`largest_cost` for attempts of which nearly all have the same price: it looks at each price only once."""

    __slots__ = ("_input", "_price")

    def __init__(self) -> None:
        self._price: Price | None = None
        self._input = 0
        """Nano-dollars per token of input at this price, which is the same for all calls."""

    def of(self, request: Request, attempt: AttemptRecord, context_window: int | None = None) -> Cost:
        """Return the most that an attempt can cost."""
        price, usage, size = attempt.price, attempt.usage, request.client_request.size
        if size is None:
            size = input_size(request.client_request)
        if price is None or price is not self._price:
            self._remember(price)
            return largest_cost(request, attempt, context_window)
        if not size.is_plain:
            return largest_cost(request, attempt, context_window)
        tokens, known = usage.input_tokens + usage.output_tokens, usage.input_tokens
        more = (request.input_length if request.input_length > size.bytes else size.bytes) - known  # noqa: FURB136 - faster
        if more <= 0:
            return attempt.cost_nanos, tokens
        return attempt.cost_nanos + more * self._input, tokens + more

    def _remember(self, price: Price | None) -> None:
        self._price = None
        if price is not None and not (price.cache_write or price.cache_write_1h or price.reasoning):
            per_million = price.input[0][1]
            if len(price.input) == len(price.output) == 1 and not per_million % 1_000_000:
                self._price, self._input = price, per_million // 1_000_000


def intended_cost(_request: Request, attempt: AttemptRecord, _context_window: int | None = None) -> Cost:
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
