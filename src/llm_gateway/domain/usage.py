"""Counts, prices, money, and the record of one request.

Money is integer nano-dollars (1 USD = 1_000_000_000). A price is integer nano-dollars per million tokens, so every
price of the public lists is exact and a cost is rounded once, at the end.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, TypeAlias

import msgspec

NANOS_PER_USD = 1_000_000_000
RECORD_VERSION = 1

CostStatus: TypeAlias = Literal["exact", "estimated", "unpriced"]
Outcome: TypeAlias = Literal["ok", "cached", "rate_limited", "failed", "cancelled", "no_provider"]
CacheStatus: TypeAlias = Literal["hit", "miss", "bypass"]

Tier: TypeAlias = tuple[int, int]
"""(from_input_tokens, nano-dollars per million tokens): the price once the input is larger than the first figure."""


class Usage(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """Tokens of one call, by kind.

    `input_tokens` and `output_tokens` are totals; the others say how many of those were of a kind that may have a
    price of its own (cache_* and audio_input within input, cache_write_1h within cache_write, reasoning and
    audio_output within output).
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cache_read_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    reasoning_tokens: int = 0
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0


class Price(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What a model costs: tiers per kind, ascending. A kind without tiers costs what its parent kind costs."""

    input: tuple[Tier, ...]
    output: tuple[Tier, ...]
    cache_read: tuple[Tier, ...] = ()
    cache_write: tuple[Tier, ...] = ()
    cache_write_1h: tuple[Tier, ...] = ()
    reasoning: tuple[Tier, ...] = ()
    audio_input: tuple[Tier, ...] = ()
    audio_output: tuple[Tier, ...] = ()


FREE = Price(input=((0, 0),), output=((0, 0),))


def cost(price: Price, usage: Usage) -> int:
    """Nano-dollars for `usage` at `price`, rounded half up once.

    A tier holds for all tokens of a call whose input is larger than its first figure (the rule of vendors' price
    lists and of genai-prices); the first tier holds from nothing. A kind with a price of its own is taken out of its
    parent: cache_read, cache_write, then audio_input out of input (cache_write_1h out of cache_write), reasoning, then
    audio_output out of output. Where counts contradict each other a kind is cut to what its parent has left, and below
    zero is zero: no more than the totals is ever charged, and nothing is charged twice.
    """
    size = usage.input_tokens
    rest = max(size, 0)
    total = 0
    if usage.cache_read_tokens > 0 and price.cache_read:
        count = min(usage.cache_read_tokens, rest)
        rest -= count
        total += count * _price_at(price.cache_read, size)
    if usage.cache_write_tokens > 0 and (price.cache_write or price.cache_write_1h):
        count = min(usage.cache_write_tokens, rest)
        if usage.cache_write_1h_tokens > 0 and price.cache_write_1h:
            count_1h = min(usage.cache_write_1h_tokens, count)
            count -= count_1h
            rest -= count_1h
            total += count_1h * _price_at(price.cache_write_1h, size)
        if price.cache_write:
            rest -= count
            total += count * _price_at(price.cache_write, size)
    if usage.audio_input_tokens > 0 and price.audio_input:
        count = min(usage.audio_input_tokens, rest)
        rest -= count
        total += count * _price_at(price.audio_input, size)
    total += rest * _price_at(price.input, size)
    if usage.output_tokens > 0:
        total += _output_cost(price, usage, size)
    return (total + 500_000) // 1_000_000


def _output_cost(price: Price, usage: Usage, size: int) -> int:
    """Nano-dollars times a million for the output of a call with `size` input tokens."""
    rest = usage.output_tokens
    total = 0
    if usage.reasoning_tokens > 0 and price.reasoning:
        count = min(usage.reasoning_tokens, rest)
        rest -= count
        total += count * _price_at(price.reasoning, size)
    if usage.audio_output_tokens > 0 and price.audio_output:
        count = min(usage.audio_output_tokens, rest)
        rest -= count
        total += count * _price_at(price.audio_output, size)
    return total + rest * _price_at(price.output, size)


def _price_at(tiers: tuple[Tier, ...], size: int) -> int:
    """The price of the last tier that `size` input tokens are above; of the first when above none."""
    price = tiers[0][1]
    if len(tiers) > 1:
        for from_input_tokens, tier_price in tiers:
            if size > from_input_tokens:
                price = tier_price
    return price


def add_usage(a: Usage, b: Usage) -> Usage:
    """Both calls' tokens together, kind by kind."""
    return Usage(
        input_tokens=a.input_tokens + b.input_tokens,
        output_tokens=a.output_tokens + b.output_tokens,
        cache_read_tokens=a.cache_read_tokens + b.cache_read_tokens,
        cache_write_tokens=a.cache_write_tokens + b.cache_write_tokens,
        cache_write_1h_tokens=a.cache_write_1h_tokens + b.cache_write_1h_tokens,
        reasoning_tokens=a.reasoning_tokens + b.reasoning_tokens,
        audio_input_tokens=a.audio_input_tokens + b.audio_input_tokens,
        audio_output_tokens=a.audio_output_tokens + b.audio_output_tokens,
    )


class AttemptRecord(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """One upstream call, as it is recorded. Times in milliseconds, money in nano-dollars.

    `sent` is False only when the call was provably never sent. `limit_tokens` is what the call counts against its
    provider's token limit once settled. `price` is the price the cost was computed with. `usage_estimated` says that
    `usage` is our own count or the most it can have been, whether or not there was a price for it.
    """

    id: str
    provider_id: str
    provider: str
    kind: str
    model: str
    started_ms: int
    reserved_tokens: int = 0
    limit_tokens: int = 0
    upstream_model: str | None = None
    upstream_request_id: str | None = None
    sent: bool = True
    status: int | None = None
    error: str | None = None
    finish_reason: str | None = None
    usage: Usage = Usage()
    usage_estimated: bool = False
    price: Price | None = None
    cost_nanos: int = 0
    cost_status: CostStatus = "exact"
    latency_ms: int = 0


class UsageRecord(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """One request that passed the gate and validation, whatever its end.

    `at_ms` is when it came (milliseconds UTC). `usage` and `cost_nanos` are what was bought for it, summed over its
    attempts; a cache hit bought nothing, and what it spared is in `saved_*`.
    """

    id: str
    at_ms: int
    instance: str
    key_name: str
    user_id: str
    service: str
    task_type: str
    surface: str
    version: int = RECORD_VERSION
    client_request_id: str | None = None
    organization: str | None = None
    project: str | None = None
    tags: dict[str, str] = {}
    stream: bool = False
    requested_model: str | None = None
    override_id: str | None = None
    outcome: Outcome = "cancelled"
    error_code: str | None = None
    status: int = 0
    cache: CacheStatus = "miss"
    saved_input_tokens: int = 0
    saved_output_tokens: int = 0
    saved_cost_nanos: int = 0
    provider: str | None = None
    model: str | None = None
    usage: Usage = Usage()
    cost_nanos: int = 0
    cost_status: CostStatus = "exact"
    latency_ms: int = 0
    first_token_ms: int | None = None
    attempts: list[AttemptRecord] = []


def worst_status(statuses: Iterable[CostStatus]) -> CostStatus:
    """What a sum of costs is: unpriced if a part of it is, else estimated if a part of it is; exact when empty."""
    return max(statuses, key=_SURENESS.index, default="exact")


_SURENESS: tuple[CostStatus, ...] = ("exact", "estimated", "unpriced")


def encode_record(record: Any) -> bytes:
    """The JSON text of a record or an attempt, as it stands in the journal."""
    return _encoder.encode(record)


def decode_record(payload: bytes) -> UsageRecord:
    """The record of a journal payload.

    Raises:
        msgspec.DecodeError: the payload is no record.
    """
    return _record_decoder.decode(payload)


def decode_attempt(payload: bytes) -> AttemptRecord:
    """The attempt of a journal payload.

    Raises:
        msgspec.DecodeError: the payload is no attempt.
    """
    return _attempt_decoder.decode(payload)


_encoder = msgspec.json.Encoder()
_record_decoder = msgspec.json.Decoder(UsageRecord)
_attempt_decoder = msgspec.json.Decoder(AttemptRecord)


class SentAttempt(msgspec.Struct, frozen=True):
    """An attempt that counts against its provider's rate limits."""

    provider_id: str
    started_ms: int
    limit_tokens: int
