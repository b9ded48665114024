"""Token counts, prices, the cost of a call, and the usage record of a request with its attempts.

Money is integer nano-dollars (1 USD = 1_000_000_000). A price is integer nano-dollars per million tokens, so every
price of the public lists is exact and a cost is rounded once, at the end.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple, TypeAlias

import msgspec

from llm_gateway.domain.budget import AccountRef

NANOS_PER_USD = 1_000_000_000
FIRST_VERSION, RECORD_VERSION = 1, 5
"""Version of records that do not say theirs, and of those made now. A later field is a later version."""

CostStatus: TypeAlias = Literal["exact", "estimated", "unpriced"]
Outcome: TypeAlias = Literal["ok", "cached", "rate_limited", "failed", "cancelled", "no_provider", "refused_budget"]
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
    rest = size if size > 0 else 0  # noqa: FURB136 - max() takes five times as long
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


def plain_cost(price: Price, input_tokens: int, output_tokens: int) -> int:
    """Return the cost of tokens of no special kind; the same as `cost`, but faster."""
    inputs, outputs = price.input, price.output
    total = input_tokens * (inputs[0][1] if len(inputs) == 1 else _price_at(inputs, input_tokens))
    total += output_tokens * (outputs[0][1] if len(outputs) == 1 else _price_at(outputs, input_tokens))
    return (total + 500_000) // 1_000_000


def dearest_cost(price: Price, input_tokens: int, output_tokens: int, *, has_audio: bool = False) -> int:
    """Return the most that these tokens can cost, whatever their kinds are: of audio only if the call can have any."""
    inputs = filter(None, (price.input, price.cache_write, price.cache_write_1h, price.audio_input * has_audio))
    outputs = filter(None, (price.output, price.reasoning, price.audio_output * has_audio))
    total = input_tokens * max(_price_at(kind, input_tokens) for kind in inputs)
    total += output_tokens * max(_price_at(kind, input_tokens) for kind in outputs)
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

    Since version 2:
        why: why it was made, `kind:cause` of at most 32 characters. The kind is `failover` (another candidate than the
            one before) or `retry` (the same one); the cause is what happened before: an HTTP status (`failover:503`),
            the fault of a call without an answer (`retry:timeout`), or why the candidate before was not called
            (`failover:limit`). None: the plan's first candidate was called first.
        service_tier: the tier that the provider reported (`flex`, `priority`, …), at most 32 characters. Of an attempt
            without an answer, the requested one if it is dearer than the standard one: its cost is a bound.
        units: counts of what the provider bills apart from tokens, such as {"web_search": 2}. At most 8 of them, their
            names at most 32 characters.

    Since version 3:
        accounts: the budgets' accounts that its cost and tokens are charged to.
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
    why: str | None = None
    service_tier: str | None = None
    units: dict[str, int] | None = None
    accounts: list[AccountRef] = []


class UsageRecord(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """The record of one request that passed authentication and validation, written whatever its outcome.

    `at_ms` is its time of arrival in milliseconds UTC. `usage` and `cost_nanos` are sums over its attempts. They are
    zero for a cache hit; `saved_*` then has what the cached answer cost when it was bought. `id` is the gateway's own,
    `client_request_id` the client's.

    Since version 2:
        session: the client's session, from its headers or its agent's fields.
        agent: the program that called, a label of a closed set or `other`.
        queued_ms: milliseconds that the request waited for a place under a limit.
        route: how the first candidate was chosen (`domain/plan.py`). If another one answered, the attempts say why.
        key_id, team_id: of a key made over the API; None for keys of the environment, which have a name only.

    Since version 4:
        traceparent: the client's trace context in version 00 (`domain/trace_context.py`), None without a valid one.

    Since version 5:
        refused_by: the budget without room, of a request that one refused, by the id that accounts have.
    """

    id: str
    at_ms: int
    instance: str
    key_name: str
    user_id: str
    service: str
    task_type: str
    surface: str
    version: int = FIRST_VERSION
    client_request_id: str | None = None
    session: str | None = None
    agent: str | None = None
    queued_ms: int = 0
    route: str | None = None
    key_id: str | None = None
    team_id: str | None = None
    traceparent: str | None = None
    refused_by: str | None = None
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

    @property
    def key(self) -> str:
        """What reports tell keys apart by: the key's id, or the name of a key of the environment."""
        return self.key_id or self.key_name


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


class KeyCall(msgspec.Struct, frozen=True):
    """A request, as it counts against the limits of a service key: its time (milliseconds UTC), and tokens.

    The tokens are those that a provider served.
    """

    key_id: str
    at_ms: int
    tokens: int


class SentAttempt(msgspec.Struct, frozen=True):
    """An attempt, as it counts against its provider's rate limits: time of its start, and tokens."""

    provider_id: str
    started_ms: int
    limit_tokens: int


class RecentCalls(NamedTuple):
    """The calls of the last minute: attempts of providers, and requests of each key in whose limits they count."""

    attempts: list[SentAttempt]
    key_calls: list[KeyCall]
