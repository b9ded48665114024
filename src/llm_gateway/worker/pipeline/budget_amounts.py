"""The most that an attempt can cost, and what it is expected to cost: amounts to hold in budgets."""

from __future__ import annotations

from typing import TypeAlias

from llm_gateway.domain.request import Request
from llm_gateway.domain.usage import AttemptRecord, Usage, cost
from llm_gateway.worker.pipeline.output_samples import OutputSamples

Cost: TypeAlias = tuple[int, int]
"""Nano-dollars and tokens."""


def largest_cost(request: Request, attempt: AttemptRecord) -> Cost:
    """Return the most that an attempt can cost.

    A token has at least one byte, and input that a provider puts into its cache can be dearer. `input_length` counts a
    picture as 6,000 characters, which is more tokens than any vendor bills for one.
    """
    output, price = attempt.usage.output_tokens, attempt.price
    inputs = max(request.input_length, attempt.usage.input_tokens)
    if price is None:
        return 0, inputs + output
    nanos = max(attempt.cost_nanos, cost(price, Usage(input_tokens=inputs, output_tokens=output)))
    for hours in (0, inputs) if price.cache_write or price.cache_write_1h else ():
        written = Usage(
            input_tokens=inputs, output_tokens=output, cache_write_tokens=inputs, cache_write_1h_tokens=hours
        )
        nanos = max(nanos, cost(price, written))
    return nanos, inputs + output


def expected_cost(request: Request, attempt: AttemptRecord, samples: OutputSamples) -> Cost | None:
    """Return what an attempt costs with an output that 95 % of the last ones did not exceed; None if that is no less.

    It is never more than the bound in the attempt.
    """
    key = request.key_name if request.key is None else request.key.id
    output, usage = samples.expected(key, attempt.model), attempt.usage
    if output is None or output >= usage.output_tokens:
        return None
    inputs, price = usage.input_tokens, attempt.price
    nanos = 0 if price is None else cost(price, Usage(input_tokens=inputs, output_tokens=output))
    return min(nanos, attempt.cost_nanos), inputs + output
