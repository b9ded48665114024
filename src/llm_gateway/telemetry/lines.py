"""Format log events as lines of JSON or of text for people, escaped against log injection.

Labels, paths and provider texts come from strangers, and must not make one event look like two. Many programs end a
line not only at LF but also at CR, VT, FF, U+0085, U+2028 and U+2029; terminals obey C0 and C1 controls, and
bidirectional or zero-width characters change what a person reads. So every character that is not `str.isprintable` is
escaped: in JSON by its code, which decodes to the original; for people as `repr` does. In lines for people a traceback
is indented, so that only an event starts at the margin.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import TypeAlias

import msgspec

from llm_gateway.domain.attempt_failures import failures_of
from llm_gateway.domain.usage import NANOS_PER_USD, UsageRecord
from llm_gateway.telemetry.console import Event, event_text, iso, printable

Render: TypeAlias = Callable[[UsageRecord | Event], str]


class RequestLine(msgspec.Struct, gc=False):
    """Fields of the JSON log line of a request, taken from its usage record. docs/RUNBOOK.md describes them."""

    timestamp: str
    level: str
    event: str
    request_id: str
    client_request_id: str | None
    key: str
    surface: str
    service: str
    user_id: str
    task_type: str
    outcome: str
    status: int
    provider: str | None
    model: str | None
    attempts: int
    failures: list[str]
    input_tokens: int
    output_tokens: int
    cost_usd: float
    queued_ms: int
    first_token_ms: int | None
    latency_ms: int
    error_code: str | None
    traceparent: str | None


def renderer(*, console: bool, colors: bool = False) -> Render:
    """Return a function that renders one event or usage record with a final newline; `console` is for people."""
    if not console:
        return _json_line

    def render(item: UsageRecord | Event) -> str:
        if isinstance(item, UsageRecord):
            return f"{printable(_console_text(item))}\n"
        return f"{event_text(item, colors=colors)}\n"

    return render


def escape_json(text: str) -> str:
    """Escape unprintable characters in lines of JSON. Usual lines are ASCII and returned at once."""
    if text.isascii() and "\x7f" not in text:  # JSON encoders escape all other ASCII controls themselves
        return text
    return "\n".join(
        [
            line if line.isprintable() else "".join([c if c.isprintable() else _json_escape(c) for c in line])
            for line in text.split("\n")
        ]
    )


def _json_escape(character: str) -> str:
    code = ord(character)
    return f"\\u{code:04x}" if code < 0x10000 else json.dumps(character)[1:-1]


def _json_line(item: UsageRecord | Event) -> str:
    if not isinstance(item, UsageRecord):
        return json.dumps(item, default=_json_value) + "\n"
    line = _request_line(item)
    try:
        return _encoder.encode(line).decode() + "\n"
    except UnicodeError:  # a lone surrogate, which msgspec refuses to encode
        return json.dumps(msgspec.to_builtins(line)) + "\n"


def _json_value(value: object) -> str:
    return iso(value) if isinstance(value, datetime) else repr(value)


_encoder = msgspec.json.Encoder()


def _request_line(record: UsageRecord) -> RequestLine:
    return RequestLine(
        timestamp=_when(record),
        level="info" if record.status < 500 else "warning",
        event="request",
        request_id=record.id,
        client_request_id=record.client_request_id,
        key=record.key_name,
        surface=record.surface,
        service=record.service,
        user_id=record.user_id,
        task_type=record.task_type,
        outcome=record.outcome,
        status=record.status,
        provider=record.provider,
        model=record.model,
        attempts=len(record.attempts),
        failures=failures_of(record),
        input_tokens=record.usage.input_tokens,
        output_tokens=record.usage.output_tokens,
        cost_usd=record.cost_nanos / NANOS_PER_USD,
        queued_ms=record.queued_ms,
        first_token_ms=record.first_token_ms,
        latency_ms=record.latency_ms,
        error_code=record.error_code,
        traceparent=record.traceparent,
    )


def _console_text(record: UsageRecord) -> str:
    served = f"{record.provider}/{record.model}" if record.provider else "-"
    tokens = f"{record.usage.input_tokens}+{record.usage.output_tokens} tokens"
    cost = f"${record.cost_nanos / NANOS_PER_USD:.6f}"
    why = f" {record.error_code}" if record.error_code else ""
    failed = f" (failed: {', '.join(failures)})" if (failures := failures_of(record)) else ""
    first = "" if record.first_token_ms is None else f" (first {record.first_token_ms})"
    own_id = f" ({record.client_request_id})" if record.client_request_id else ""
    return (
        f"{_when(record)[11:23]} {record.status} {record.outcome:<12} {served} {tokens} {cost} "
        f"{record.latency_ms} ms{first}  {record.service!r} for {record.user_id!r}{why}{failed} {record.id}{own_id}"
    )


def _when(record: UsageRecord) -> str:
    seconds, milliseconds = divmod(record.at_ms + record.latency_ms, 1000)
    return f"{_second(seconds)}.{milliseconds:03d}Z"


@lru_cache(maxsize=128)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
