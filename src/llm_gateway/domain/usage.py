"""Token counts, prices, the cost of a call, and the usage record of a request with its attempts.

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
"""(from_input_tokens, nano-dollars per million tokens): the price of calls with more than `from_input_tokens`."""


class Usage(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """Token counts of one call, by kind.

    `input_tokens` and `output_tokens` are totals. The others are subsets that can have a price of their own: cache_*
    and audio_input of the input, cache_write_1h of cache_write, reasoning and audio_output of the output.
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
    """The price of a model: ascending tiers for each kind of token. A kind without tiers costs what its parent does."""

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
    """Return the cost of `usage` at `price` in nano-dollars, rounded half up once.

    A tier applies to all tokens of a call whose input exceeds the tier's threshold (the rule of vendors' price lists
    and of genai-prices); below every threshold the first tier applies. Tokens of a kind with a price of its own are
    subtracted from its parent, in this order: cache_read, cache_write, audio_input from input; cache_write_1h from
    cache_write; reasoning, audio_output from output. If counts contradict each other, a kind is capped at what
    remains of its parent, and negative counts are 0: no token is charged twice, and never more than the totals.
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
    """Return the cost of the output of a call with `size` input tokens, in nano-dollars × 1,000,000."""
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
    """Return the price of the last tier that `size` input tokens exceed, of the first tier if they exceed none."""
    price = tiers[0][1]
    if len(tiers) > 1:
        for from_input_tokens, tier_price in tiers:
            if size > from_input_tokens:
                price = tier_price
    return price


def add_usage(a: Usage, b: Usage) -> Usage:
    """Return the sums of two calls' token counts, kind by kind."""
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
    """The record of one upstream call. `*_ms` are milliseconds, `*_nanos` nano-dollars.

    `sent` is False only if the call was certainly never sent. `reserved_tokens` counted against the provider's token
    limit while the call was pending, `limit_tokens` counts since it ended. `price` is the price that `cost_nanos` was
    computed with. `usage_estimated`: `usage` is the gateway's estimate or upper bound, not the provider's count.
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
    """The record of one request that passed authentication and validation, written whatever its outcome.

    `at_ms` is its time of arrival in milliseconds UTC. `usage` and `cost_nanos` are sums over its attempts. They are
    zero for a cache hit; `saved_*` then has what the cached answer cost when it was bought.
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
    """Return the status of a sum of costs: the least certain one of its parts, `exact` if there are no parts."""
    return max(statuses, key=_SURENESS.index, default="exact")


_SURENESS: tuple[CostStatus, ...] = ("exact", "estimated", "unpriced")


def encode_record(record: Any) -> bytes:
    """Encode a record or an attempt as the JSON text that is written to the journal."""
    return _encoder.encode(record)


def decode_record(payload: bytes) -> UsageRecord:
    """Decode the usage record in a journal payload.

    Raises:
        msgspec.DecodeError: the payload is not a usage record.
    """
    return _record_decoder.decode(payload)


def decode_attempt(payload: bytes) -> AttemptRecord:
    """Decode the attempt record in a journal payload.

    Raises:
        msgspec.DecodeError: the payload is not an attempt record.
    """
    return _attempt_decoder.decode(payload)


_encoder = msgspec.json.Encoder()
_record_decoder = msgspec.json.Decoder(UsageRecord)
_attempt_decoder = msgspec.json.Decoder(AttemptRecord)


class SentAttempt(msgspec.Struct, frozen=True):
    """An attempt, as it counts against its provider's rate limits: time of its start, and tokens."""

    provider_id: str
    started_ms: int
    limit_tokens: int
