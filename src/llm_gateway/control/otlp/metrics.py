"""Histograms of GenAI's conventions, counted from usage records, and their encoding (opentelemetry/proto/metrics/v1).

They count from the start of this process (`CUMULATIVE`), all requests, sampled or not. Attributes are names of the
configuration and words of small sets, and at most MOST_SERIES combinations of them: further ones are counted in one
series, as OpenTelemetry's SDKs do (specification, metrics/sdk, "Cardinality limits").
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Callable
from typing import TypeAlias

from llm_gateway.control.otlp import conventions as names
from llm_gateway.control.otlp.attributes import joined
from llm_gateway.control.otlp.protobuf import double, field_of_bytes, fixed64
from llm_gateway.control.otlp.spans import Address
from llm_gateway.domain.usage import UsageRecord

SECONDS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
"""Upper bounds of the buckets, as the conventions for GenAI's metrics say."""
MOST_SERIES = 2_000

Labels: TypeAlias = tuple[str | None, ...]
"""Values that tell series apart; the histogram's `encode` makes attributes of them."""
_CUMULATIVE = b"\x10\x02"
"""Field `aggregation_temporality` of a histogram."""
_ATTRIBUTE = b"\x4a"


class _Series:
    __slots__ = ("attributes", "counts", "total")

    def __init__(self, attributes: bytes, buckets: int) -> None:
        self.attributes = attributes
        self.counts = [0] * buckets
        self.total = 0.0


class Histogram:
    """A histogram with its series. `encode` returns the attributes of a series, given its labels."""

    def __init__(
        self, name: str, text: str, unit: str, bounds: tuple[float, ...], encode: Callable[[Labels], list[bytes]]
    ) -> None:
        self._head = b"".join(field_of_bytes(at, part.encode()) for at, part in enumerate((name, text, unit), 1))
        self._bounds = bounds
        self._encoded_bounds = field_of_bytes(7, struct.pack(f"<{len(bounds)}d", *bounds))
        self._encode = encode
        self._by_labels: dict[Labels, _Series] = {}
        self._series: dict[bytes, _Series] = {}
        """By their attributes, since different labels can have the same."""

    def record(self, labels: Labels, value: float) -> None:
        """Count a value."""
        series = self._by_labels.get(labels)
        if series is None:
            series = self._added(labels)
        series.counts[bisect_left(self._bounds, value)] += 1
        series.total += value

    def encoded(self, start_ns: int, now_ns: int) -> bytes:
        """Return the message `Metric`; an empty one if nothing was counted."""
        if not self._series:
            return b""
        times = b"\x11%b\x19%b" % (fixed64(start_ns), fixed64(now_ns))
        points = b"".join(
            field_of_bytes(
                1,
                b"".join(
                    (
                        times,
                        b"\x21",
                        fixed64(sum(series.counts)),
                        b"\x29",
                        double(series.total),
                        field_of_bytes(6, struct.pack(f"<{len(series.counts)}Q", *series.counts)),
                        self._encoded_bounds,
                        series.attributes,
                    )
                ),
            )
            for series in self._series.values()
        )
        return self._head + field_of_bytes(9, points + _CUMULATIVE)

    def _added(self, labels: Labels) -> _Series:
        is_full = len(self._by_labels) >= MOST_SERIES
        attributes = joined(_ATTRIBUTE, [names.OVERFLOW.flag(value=True)] if is_full else self._encode(labels))
        series = self._series.get(attributes)
        if series is None:
            series = self._series[attributes] = _Series(attributes, len(self._bounds) + 1)
        if not is_full:
            self._by_labels[labels] = series
        return series


class GenAiMetrics:
    """The metrics of all requests. `address` returns where a provider is, `start_ns` is when counting began."""

    def __init__(self, address: Address, start_ns: int) -> None:
        self._address = address
        self._start_ns = start_ns
        self.duration = Histogram(
            "gen_ai.client.operation.duration", "GenAI operation duration.", "s", SECONDS, self._of_attempt
        )
        self.first_chunk = Histogram(
            "gen_ai.client.operation.time_to_first_chunk",
            "Time to receive the first chunk of a streamed answer.",
            "s",
            SECONDS,
            self._of_attempt,
        )
        self.tokens = Histogram(
            "gen_ai.client.token.usage",
            "Number of input and output tokens used.",
            "{token}",
            TOKENS,
            lambda labels: [*self._of_attempt(labels[:-1]), names.TOKEN_TYPE.name_of(labels[-1] or "")],
        )
        self.requests = Histogram(
            "gen_ai.server.request.duration",
            "Duration of a request to the gateway, to the last byte of its answer.",
            "s",
            SECONDS,
            self._of_request,
        )

    def count(self, record: UsageRecord) -> None:
        """Count a finished request and its attempts."""
        operation = names.operation_of(record)
        attempts = record.attempts
        labels = (operation, record.provider, record.model, names.error_type(record))
        self.requests.record(labels, record.latency_ms / 1000)
        for number, attempt in enumerate(attempts):
            own = (operation, attempt.provider, attempt.model)
            error = names.error_type_of_attempt(record, number)
            if attempt.sent:
                self.duration.record((*own, error), attempt.latency_ms / 1000)
            usage = attempt.usage
            if usage.input_tokens:
                self.tokens.record((*own, None, "input"), usage.input_tokens)
            if usage.output_tokens:
                self.tokens.record((*own, None, "output"), usage.output_tokens)
            if number == len(attempts) - 1 and (first_s := names.first_chunk_s(record)) is not None:
                self.first_chunk.record((*own, error), first_s)

    def encoded(self, now_ns: int) -> list[bytes]:
        """Return the messages `Metric` of those metrics that have counted anything."""
        found = (each.encoded(self._start_ns, now_ns) for each in (self.duration, self.first_chunk, self.tokens))
        return [each for each in (*found, self.requests.encoded(self._start_ns, now_ns)) if each]

    def _of_attempt(self, labels: Labels) -> list[bytes]:
        attributes = self._of_request(labels)
        address = None if labels[1] is None else self._address(labels[1])
        if address is not None:
            attributes += [names.SERVER_ADDRESS.name_of(address[0]), names.SERVER_PORT.integer(address[1])]
        return attributes

    def _of_request(self, labels: Labels) -> list[bytes]:
        operation, provider, model, error = labels
        attributes = [names.OPERATION.name_of(operation or "")]
        if provider is not None:
            address = self._address(provider)
            host = None if address is None else address[0]
            attributes.append(names.PROVIDER.name_of(names.provider_name(provider, host)))
        if model is not None:
            attributes.append(names.REQUEST_MODEL.name_of(model))
        if error is not None:
            attributes.append(names.ERROR_TYPE.name_of(error))
        return attributes
