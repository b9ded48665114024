"""The most that an attempt can cost, and what it is expected to cost: amounts to hold in budgets."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from llm_gateway.domain.budget import Unit
from llm_gateway.domain.request import Request
from llm_gateway.domain.usage import AttemptRecord, Usage, cost
from llm_gateway.worker.pipeline.output_samples import OutputSamples


class Cost(NamedTuple):
    """Nano-dollars and tokens of an attempt."""

    nanos: int
    tokens: int

    def of(self, unit: Unit) -> int:
        """Return the amount in a budget's unit; 1 for requests."""
        return self.nanos if unit == "usd" else self.tokens if unit == "tokens" else 1


def cost_of(attempt: AttemptRecord) -> Cost:
    """Return what an attempt has cost; before its end, the most that its record expects."""
    return Cost(attempt.cost_nanos, attempt.usage.input_tokens + attempt.usage.output_tokens)


def largest_cost(request: Request, attempt: AttemptRecord) -> Cost:
    """Return the most that an attempt can cost.

    A token has at least one byte, and input that a provider puts into its cache can be dearer. `input_length` counts a
    picture as 6,000 characters, which is more tokens than any vendor bills for one.
    """
    inputs = max(request.input_length, attempt.usage.input_tokens)
    tokens = inputs + attempt.usage.output_tokens
    if attempt.price is None:
        return Cost(0, tokens)
    plain = Usage(input_tokens=inputs, output_tokens=attempt.usage.output_tokens)
    written = msgspec.structs.replace(plain, cache_write_tokens=inputs)
    longer = msgspec.structs.replace(written, cache_write_1h_tokens=inputs)
    nanos = max(attempt.cost_nanos, *(cost(attempt.price, usage) for usage in (plain, written, longer)))
    return Cost(nanos, tokens)


def expected_cost(request: Request, attempt: AttemptRecord, samples: OutputSamples) -> Cost:
    """Return what an attempt costs with an output that 95 % of the last ones did not exceed, at most its bound."""
    key = request.key_name if request.key is None else request.key.id
    output = samples.expected(key, attempt.model)
    bound, usage = cost_of(attempt), attempt.usage
    if output is None or output >= usage.output_tokens:
        return bound
    usage = Usage(input_tokens=usage.input_tokens, output_tokens=output)
    nanos = 0 if attempt.price is None else min(cost(attempt.price, usage), bound.nanos)
    return Cost(nanos, usage.input_tokens + output)
