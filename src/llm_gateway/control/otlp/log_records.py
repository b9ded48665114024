"""Encode a log record for each request (opentelemetry/proto/logs/v1), as the gateway's own log line of it."""

from __future__ import annotations

from llm_gateway.control.otlp import conventions as names
from llm_gateway.control.otlp.attributes import joined
from llm_gateway.control.otlp.protobuf import field_of_bytes, fixed64
from llm_gateway.control.otlp.spans import NANOS_PER_MS
from llm_gateway.domain.trace_context import span_id
from llm_gateway.domain.usage import UsageRecord

EVENT = "llm_gateway.request"
_ATTRIBUTE = b"\x32"
_BODY = field_of_bytes(5, field_of_bytes(1, b"request"))
_NAME = field_of_bytes(12, EVENT.encode())
_SEVERITIES = {"INFO": b"\x10\x09\x1a\x04INFO", "WARN": b"\x10\x0d\x1a\x04WARN"}
"""Fields `severity_number` and `severity_text`."""
_FLAGS = b"\x45\x01\x00\x00\x00", b"\x45\x00\x00\x00\x00"
"""Field `flags` of a trace that is sent, and of one that is not."""


def encode_log_record(
    record: UsageRecord, trace_id: str, shared: list[bytes], observed_ns: int, *, is_sampled: bool
) -> bytes:
    """Return the message `LogRecord` of a request that was read at `observed_ns` (nanoseconds since 1970).

    `shared` are its `request_attributes`.
    """
    at_ns = (record.at_ms + record.latency_ms) * NANOS_PER_MS
    attributes = [*shared, names.LATENCY.integer(record.latency_ms)]
    if record.provider is not None:
        attributes.append(names.OWN_PROVIDER.name_of(record.provider))
    return b"".join(
        (
            b"\x09",
            fixed64(at_ns),
            _SEVERITIES["INFO" if 0 < record.status < 500 else "WARN"],
            _BODY,
            joined(_ATTRIBUTE, attributes),
            _FLAGS[0 if is_sampled else 1],
            b"\x4a\x10",
            bytes.fromhex(trace_id),
            b"\x52\x08",
            bytes.fromhex(span_id(record.id)),
            b"\x59",
            fixed64(observed_ns),
            _NAME,
        )
    )
