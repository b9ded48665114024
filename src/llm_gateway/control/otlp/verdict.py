"""Judge a collector's answer by the rules of OTLP/HTTP (opentelemetry.io/docs/specs/otlp, "OTLP/HTTP Response").

| answer                              | verdict                                                             |
|-------------------------------------|---------------------------------------------------------------------|
| 2xx                                 | accepted, but for the items that `partial_success` counts: rejected |
| 429, 502, 503, 504; no answer       | sent again later, after Retry-After if there is one                 |
| other 4xx and 5xx, 3xx, a page      | rejected: it must not be sent again                                 |
"""

from __future__ import annotations

from typing import Literal

import msgspec

from llm_gateway.control.otlp.batch import Signal
from llm_gateway.control.otlp.protobuf import read_fields
from llm_gateway.provider_calls.collector import CollectorResult

RETRYABLE = frozenset({429, 502, 503, 504})
LONGEST_MESSAGE = 200
"""Characters of a collector's message that are logged."""
ENDPOINT, HEADERS, WANTED = (f"LLM_GATEWAY_OTLP_{name}" for name in ("ENDPOINT", "HEADERS", "SIGNALS"))


class Verdict(msgspec.Struct, frozen=True):
    """Result of sending a body: `rejected` items of it are lost; `wait_s` is the pause that the collector asks for.

    `is_partial`: the other items were accepted.
    """

    kind: Literal["accepted", "rejected", "waits"]
    reason: str = ""
    rejected: int = 0
    wait_s: float | None = None
    is_partial: bool = False


def judge(result: CollectorResult, signal: Signal, items: int) -> Verdict:
    """Return the verdict over an answer to `items` spans, log records or metrics."""
    if result.fault is not None:
        return Verdict("waits", f"{result.message}: start the collector, or correct {ENDPOINT}")
    if result.status in RETRYABLE:
        return Verdict("waits", f"status {result.status}{_told(result)}", wait_s=result.retry_after_s)
    if result.is_page:
        what = f"a page for browsers, status {result.status}: no collector is there; correct {ENDPOINT}"
        return Verdict("rejected", what, items)
    if 200 <= result.status < 300:
        return _accepted(result, items)
    return Verdict("rejected", f"status {result.status}{_told(result)}{_advice(result.status, signal)}", items)


def _accepted(result: CollectorResult, items: int) -> Verdict:
    """Read `partial_success`: its field 1 is the number of rejected items, its field 2 a message."""
    try:
        partial = read_fields(result.body).get(1, b"")
        fields = read_fields(partial) if isinstance(partial, bytes) else {}
    except ValueError:  # such as JSON; the status counts
        return Verdict("accepted")
    rejected, message = fields.get(1, 0), fields.get(2, b"")
    if not isinstance(rejected, int) or not 0 < rejected <= items:
        return Verdict("accepted")
    text = _shown(message) if isinstance(message, bytes) else ""
    return Verdict("rejected", f"{rejected} of {items} are not taken{text}", rejected, is_partial=rejected < items)


def _told(result: CollectorResult) -> str:
    """Return the message of an error's body, a `google.rpc.Status` whose field 2 it is."""
    try:
        message = read_fields(result.body).get(2, b"")
    except ValueError:
        message = result.body if result.body[:1] != b"<" else b""
    return _shown(message) if isinstance(message, bytes) else ""


def _shown(message: bytes) -> str:
    text = message.decode("utf-8", "replace").strip()[:LONGEST_MESSAGE]
    return f" ({text})" if text else ""


def _advice(status: int, signal: Signal) -> str:
    if status in (401, 403):
        return f": set {HEADERS} to what the collector demands"
    if status in (404, 405) or 300 <= status < 400:
        return f": nothing takes {signal} there; correct {ENDPOINT}, or leave {signal} out of {WANTED}"
    return ": see the collector's log"
