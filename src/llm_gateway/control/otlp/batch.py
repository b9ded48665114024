"""Turn records into the bodies of OTLP requests: one of traces and one of logs; and the metrics into one of theirs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal, TypeAlias

import msgspec

from llm_gateway import __version__
from llm_gateway.control.otlp.attributes import Attribute, joined
from llm_gateway.control.otlp.conventions import SCHEMA_URL, SCOPE
from llm_gateway.control.otlp.log_records import encode_log_record
from llm_gateway.control.otlp.metrics import GenAiMetrics
from llm_gateway.control.otlp.protobuf import field_of_bytes
from llm_gateway.control.otlp.sampling import Sampler
from llm_gateway.control.otlp.spans import Address, Spans, request_attributes, trace_id_of
from llm_gateway.domain.usage import UsageRecord

Signal: TypeAlias = Literal["traces", "metrics", "logs"]
SIGNALS: tuple[Signal, ...] = ("traces", "metrics", "logs")
AT_ONCE = 16
"""Records encoded between two calls of `pause`."""


class Body(msgspec.Struct):
    """The body of one OTLP request, and the number of its spans, log records or metrics."""

    signal: Signal
    content: bytes
    items: int


class Resource:
    """The gateway as the source of the data. `environment` is `dev` or `production`, `instance` the host's name."""

    def __init__(self, environment: str, instance: str) -> None:
        named = {
            "service.name": "llm-gateway",
            "service.version": __version__,
            "service.instance.id": instance,
            "deployment.environment.name": environment,
        }
        attributes = [Attribute(name).text(value) for name, value in named.items()]
        self._resource = field_of_bytes(1, joined(b"\x0a", attributes))
        self._scope = field_of_bytes(1, field_of_bytes(1, SCOPE.encode()) + field_of_bytes(2, __version__.encode()))
        self._schema = field_of_bytes(3, SCHEMA_URL.encode())

    def wrap(self, items: list[bytes]) -> bytes:
        """Return the body of a request with these spans, log records or metrics: all three kinds nest alike."""
        scope = self._scope + b"".join([field_of_bytes(2, item) for item in items]) + self._schema
        return field_of_bytes(1, self._resource + field_of_bytes(2, scope) + self._schema)


class Encoder:
    """Encoder of batches. `signals` are those that are sent.

    `log(event, level=…, **fields)`; `pause` is called after every 16 records; `clock_ns` returns nanoseconds UTC.
    """

    def __init__(
        self,
        resource: Resource,
        signals: frozenset[str],
        ratio: float,
        address: Address,
        *,
        log: Callable[..., None] = lambda *_, **__: None,
        pause: Callable[[], None] = lambda: None,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._resource = resource
        self._has_traces, self._has_metrics, self._has_logs = (signal in signals for signal in SIGNALS)
        self._sampler = Sampler(ratio)
        self._spans = Spans(address)
        self._metrics = GenAiMetrics(address, clock_ns())
        self._log = log
        self._pause = pause
        self._clock_ns = clock_ns
        self.lost_records = 0
        """Number of records that could not be encoded."""

    def encode(self, records: list[UsageRecord]) -> list[Body]:
        """Return the bodies of traces and logs of these records, and count them in the metrics."""
        spans: list[bytes] = []
        logs: list[bytes] = []
        now_ns = self._clock_ns()
        for number, record in enumerate(records, 1):
            try:
                self._add(record, now_ns, spans, logs)
            except Exception as error:  # edge: one record that cannot be encoded must not hold back all others
                if not self.lost_records:
                    self._log("telemetry of a request cannot be encoded: it is lost", level="error", exc_info=error)
                self.lost_records += 1
            if number % AT_ONCE == 0:
                self._pause()
        bodies = [Body("traces", self._resource.wrap(spans), len(spans))] if spans else []
        return [*bodies, Body("logs", self._resource.wrap(logs), len(logs))] if logs else bodies

    def _add(self, record: UsageRecord, now_ns: int, spans: list[bytes], logs: list[bytes]) -> None:
        trace_id = trace_id_of(record)
        sampled_by = self._sampler.reason(record, trace_id)
        has_spans = self._has_traces and sampled_by is not None
        shared = request_attributes(record) if has_spans or self._has_logs else []
        if has_spans and sampled_by is not None:
            spans += self._spans.encode(record, trace_id, sampled_by, shared)
        if self._has_logs:
            logs.append(encode_log_record(record, trace_id, shared, now_ns, is_sampled=has_spans))
        if self._has_metrics:
            self._metrics.count(record)

    def encode_metrics(self) -> Body | None:
        """Return the body of the metrics, None if nothing was counted yet, or they are not sent."""
        metrics = self._metrics.encoded(self._clock_ns())
        return Body("metrics", self._resource.wrap(metrics), len(metrics)) if metrics else None
