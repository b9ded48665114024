"""Encode the spans of a request from its usage record (opentelemetry/proto/trace/v1).

There is one of the request, and one for each attempt. Never prompts or answers, nor providers' messages, which quote
them.

    SERVER  chat MODEL      of the request: who called, how it was routed, how it ended, its total cost
      CLIENT  chat MODEL    of each attempt: provider, model, tokens, cost

Tokens and cost by their usual names are on attempts only, so that a backend that adds up spans counts them once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TypeAlias

from llm_gateway.control.otlp import conventions as names
from llm_gateway.control.otlp.attributes import joined
from llm_gateway.control.otlp.protobuf import field_of_bytes, fixed64, varint
from llm_gateway.domain.trace_context import span_id
from llm_gateway.domain.usage import NANOS_PER_USD, AttemptRecord, Usage, UsageRecord

Address: TypeAlias = Callable[[str], tuple[str, int] | None]
"""Host and port of a provider, by its name; None for one that is not configured any more."""

NANOS_PER_MS = 1_000_000
SERVER, CLIENT = 2, 3
"""Values of `SpanKind`."""
_ATTRIBUTE, _EVENT, _EVENT_ATTRIBUTE = b"\x4a", b"\x5a", b"\x1a"
"""Tags of the fields `attributes` and `events` of a span, and `attributes` of an event."""
_START, _END, _TIME = b"\x39", b"\x41", b"\x09"
_KINDS = {kind: b"\x30%c" % kind for kind in (SERVER, CLIENT)}
_STATUS_ERROR = b"\x7a\x02\x18\x02"
"""Field `status` with the code ERROR. It has no message: providers quote prompts."""
_FLAGS = {flags: b"\x85\x01" + flags.to_bytes(4, "little") for flags in (0x101, *range(0x300, 0x400))}
"""Field `flags` (fixed32): the flags of W3C in the low byte, then whether it is known that the parent is remote
(0x100), and whether it is (0x200)."""


def trace_id_of(record: UsageRecord) -> str:
    """Return the id of a request's trace, 32 hexadecimal digits: that of the client, else the id of the request."""
    parent = record.traceparent
    return parent[3:35] if parent is not None else record.id.replace("-", "")


class Spans:
    """Encoder of spans. `address` returns where a provider is."""

    def __init__(self, address: Address) -> None:
        self._address = address

    def encode(self, record: UsageRecord, trace_id: str, sampled_by: str, shared: list[bytes]) -> list[bytes]:
        """Return the spans of a request, each as the message `Span`. `shared` are its `request_attributes`."""
        trace = bytes.fromhex(trace_id)
        operation = names.operation_of(record)
        return [
            self._of_request(record, trace, operation, [names.SAMPLED_BY.name_of(sampled_by), *shared]),
            *[self._of_attempt(record, number, trace, operation) for number in range(len(record.attempts))],
        ]

    def _of_request(self, record: UsageRecord, trace: bytes, operation: str, attributes: list[bytes]) -> bytes:
        start, end = record.at_ms * NANOS_PER_MS, (record.at_ms + record.latency_ms) * NANOS_PER_MS
        attributes.append(names.OPERATION.name_of(operation))
        if record.provider is not None:
            address = self._address(record.provider)
            host = None if address is None else address[0]
            attributes.append(names.PROVIDER.name_of(names.provider_name(record.provider, host)))
        parent, flags = b"", 0x101
        if record.traceparent is not None:
            parent = bytes.fromhex(record.traceparent[36:52])
            flags = 0x300 | int(record.traceparent[53:], 16)
        model = record.requested_model or record.model
        return _span(
            (trace, bytes.fromhex(span_id(record.id)), parent),
            f"{operation} {model}" if model else operation,
            SERVER,
            (start, end),
            attributes,
            _events(record),
            (_STATUS_ERROR if record.status >= 500 or record.status == 0 else b"") + _FLAGS[flags],
        )

    def _of_attempt(self, record: UsageRecord, number: int, trace: bytes, operation: str) -> bytes:
        attempt = record.attempts[number]
        address = self._address(attempt.provider)
        attributes = [
            *_target(operation, attempt.provider, attempt.model, address),
            names.ATTEMPT_ID.text(attempt.id),
            names.COST.number(attempt.cost_nanos / NANOS_PER_USD),
            names.COST_STATUS.name_of(attempt.cost_status),
            *_tokens(attempt.usage),
        ]
        if record.stream:
            attributes.append(names.REQUEST_STREAM.flag(value=True))
        error = names.error_type_of_attempt(record, number)
        if error is not None:
            attributes.append(names.ERROR_TYPE.name_of(error))
        attributes += _answer_attributes(record, attempt, is_last=number == len(record.attempts) - 1)
        start = attempt.started_ms * NANOS_PER_MS
        return _span(
            (trace, bytes.fromhex(span_id(attempt.id)), bytes.fromhex(span_id(record.id))),
            f"{operation} {attempt.model}",
            CLIENT,
            (start, start + attempt.latency_ms * NANOS_PER_MS),
            attributes,
            b"",
            (_STATUS_ERROR if error is not None else b"") + _FLAGS[0x101],
        )


def request_attributes(record: UsageRecord) -> list[bytes]:
    """Return what the span of a request and its log record both tell: who sent it, how it was routed and ended."""
    return _caller(record) + _course(record)


@lru_cache(maxsize=512)
def _target(operation: str, provider: str, model: str, address: tuple[str, int] | None) -> tuple[bytes, ...]:
    """Return what an attempt was sent to."""
    attributes = (
        names.OPERATION.name_of(operation),
        names.PROVIDER.name_of(names.provider_name(provider, None if address is None else address[0])),
        names.OWN_PROVIDER.name_of(provider),
        names.REQUEST_MODEL.name_of(model),
    )
    if address is None:
        return attributes
    return (*attributes, names.SERVER_ADDRESS.name_of(address[0]), names.SERVER_PORT.integer(address[1]))


def _caller(record: UsageRecord) -> list[bytes]:
    attributes = [
        names.REQUEST_ID.text(record.id),
        names.CUSTOMER.name_of(record.user_id),
        *_source(record.key_name, record.key_id, record.team_id, record.service, record.task_type, record.surface),
    ]
    if record.agent is not None:
        attributes.append(names.AGENT.name_of(record.agent))
    if record.session is not None:
        attributes.append(names.CONVERSATION.text(record.session))
    if record.client_request_id is not None:
        attributes.append(names.CLIENT_REQUEST_ID.text(record.client_request_id))
    return attributes


@lru_cache(maxsize=512)
def _source(
    key: str, key_id: str | None, team: str | None, service: str, task_type: str, surface: str
) -> tuple[bytes, ...]:
    """Return the names that requests of the same client share."""
    attributes = [
        names.KEY.name_of(key),
        names.SERVICE.name_of(service),
        names.TASK_TYPE.name_of(task_type),
        names.SURFACE.name_of(surface),
    ]
    if key_id is not None:
        attributes.append(names.KEY_ID.text(key_id))
    if team is not None:
        attributes.append(names.TEAM.name_of(team))
    return tuple(attributes)


def _course(record: UsageRecord) -> list[bytes]:
    attempts = record.attempts
    overhead_ms = record.latency_ms - record.queued_ms - sum([attempt.latency_ms for attempt in attempts])
    attributes = [
        names.OUTCOME.name_of(record.outcome),
        names.CACHE.name_of(record.cache),
        names.ATTEMPTS.integer(len(attempts)),
        names.TOTAL_COST.number(record.cost_nanos / NANOS_PER_USD),
        names.COST_STATUS.name_of(record.cost_status),
        names.TOTAL_INPUT_TOKENS.integer(record.usage.input_tokens),
        names.TOTAL_OUTPUT_TOKENS.integer(record.usage.output_tokens),
        names.OVERHEAD.integer(max(0, overhead_ms)),
        names.QUEUED.integer(record.queued_ms),
    ]
    if record.status:  # not of a request in which the gateway crashed
        attributes.append(names.STATUS_CODE.integer(record.status))
    if record.requested_model is not None:
        attributes.append(names.REQUEST_MODEL.name_of(record.requested_model))
    if record.model is not None:
        attributes.append(names.RESPONSE_MODEL.name_of(record.model))
    if record.stream:
        attributes.append(names.REQUEST_STREAM.flag(value=True))
    if record.route is not None:
        attributes.append(names.ROUTE.name_of(record.route))
    error = names.error_type(record)
    if error is not None:
        attributes.append(names.ERROR_TYPE.name_of(error))
    if record.saved_cost_nanos:
        attributes.append(names.SAVED_COST.number(record.saved_cost_nanos / NANOS_PER_USD))
    budgets = {account.budget_id for attempt in attempts for account in attempt.accounts}
    if record.refused_by is not None:
        budgets.add(record.refused_by)
    if budgets:
        attributes.append(names.BUDGETS.texts(sorted(budgets)))
    return attributes


def _tokens(usage: Usage) -> list[bytes]:
    """Return token counts; the parts of input and output only where there are any."""
    attributes = [names.INPUT_TOKENS.integer(usage.input_tokens), names.OUTPUT_TOKENS.integer(usage.output_tokens)]
    if usage.cache_read_tokens:
        attributes.append(names.CACHE_READ_TOKENS.integer(usage.cache_read_tokens))
    if usage.cache_write_tokens:
        attributes.append(names.CACHE_WRITE_TOKENS.integer(usage.cache_write_tokens))
    if usage.reasoning_tokens:
        attributes.append(names.REASONING_TOKENS.integer(usage.reasoning_tokens))
    return attributes


def _answer_attributes(record: UsageRecord, attempt: AttemptRecord, *, is_last: bool) -> list[bytes]:
    attributes = []
    if attempt.status is not None:
        attributes.append(names.STATUS_CODE.integer(attempt.status))
    if attempt.why is not None:
        attributes.append(names.WHY.name_of(attempt.why))
    if attempt.upstream_model is not None:
        attributes.append(names.RESPONSE_MODEL.name_of(attempt.upstream_model))
    if attempt.upstream_request_id is not None:
        attributes.append(names.RESPONSE_ID.text(attempt.upstream_request_id))
    if attempt.finish_reason is not None:
        attributes.append(_finish_reasons(attempt.finish_reason))
    if attempt.service_tier is not None:
        attributes.append(names.SERVICE_TIER.name_of(attempt.service_tier))
    first_chunk_s = names.first_chunk_s(record) if is_last else None
    if first_chunk_s is not None:
        attributes.append(names.TIME_TO_FIRST_CHUNK.number(first_chunk_s))
    return attributes


@lru_cache(maxsize=64)
def _finish_reasons(reason: str) -> bytes:
    return names.FINISH_REASONS.texts((reason,))


def _events(record: UsageRecord) -> bytes:
    """Return the events of a request, each as the field `events`."""
    found = b""
    if record.cache == "hit":
        found += _event("llm_gateway.cache_hit", (record.at_ms + record.latency_ms) * NANOS_PER_MS)
    if record.first_token_ms is not None:
        found += _event("llm_gateway.first_token", (record.at_ms + record.first_token_ms) * NANOS_PER_MS)
    return found


def _event(name: str, at_ns: int) -> bytes:
    return field_of_bytes(11, _TIME + fixed64(at_ns) + field_of_bytes(2, name.encode()))


def _span(
    ids: tuple[bytes, bytes, bytes],
    name: str,
    kind: int,
    times: tuple[int, int],
    attributes: list[bytes],
    events: bytes,
    end: bytes,
) -> bytes:
    """Return a span. `ids` are those of the trace, the span and its parent, which may be empty."""
    trace, own, parent = ids
    text = name[:200].encode("utf-8", "replace")
    return b"".join(
        (
            b"\x0a\x10",
            trace,
            b"\x12\x08",
            own,
            b"\x22\x08" + parent if parent else b"",
            b"\x2a",
            varint(len(text)),
            text,
            _KINDS[kind],
            _START,
            fixed64(times[0]),
            _END,
            fixed64(times[1]),
            joined(_ATTRIBUTE, attributes),
            events,
            end,
        )
    )
