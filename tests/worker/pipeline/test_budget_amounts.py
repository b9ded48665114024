"""Amounts that budgets hold for an attempt."""

from __future__ import annotations

from itertools import product

from llm_gateway.domain.token_estimate import InputSize
from llm_gateway.domain.usage import AttemptRecord, Price, Usage, cost
from llm_gateway.worker.pipeline.budget_amounts import LargestCost, largest_cost
from tests.worker.pipeline.fakes import request

SIZES = (None, InputSize(), InputSize(bytes=3_000), InputSize(bytes=30, pictures=2, is_plain=False))


def test_the_largest_cost_is_the_same_for_prices_that_were_seen_before() -> None:
    prices = [
        Price(input=((0, 2_000_000),), output=((0, 9_000_000),)),
        Price(input=((0, 37_500),), output=((0, 150_000),)),
        Price(input=((0, 2_000_000), (100, 4_000_000)), output=((0, 9_000_000),)),
        Price(input=((0, 2_000_000),), output=((0, 9_000_000), (100, 12_000_000))),
        Price(input=((0, 2_000_000),), output=((0, 9_000_000),), cache_write=((0, 2_500_000),)),
        None,
    ]
    largest = LargestCost()
    for price in prices:
        for characters, size in product((0, 8, 400, 4_000), SIZES):
            asked = request(input_length=characters)
            asked.client_request.size = size
            usage = Usage(input_tokens=asked.estimated_input_tokens(), output_tokens=50)
            nanos = 0 if price is None else cost(price, usage)
            attempt = AttemptRecord(
                id="", provider_id="", provider="", kind="", model="", started_ms=0,
                usage=usage, price=price, cost_nanos=nanos,
            )  # fmt: skip
            assert largest.of(asked, attempt) == largest.of(asked, attempt) == largest_cost(asked, attempt)
