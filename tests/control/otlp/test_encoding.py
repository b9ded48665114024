"""Spans, log records and metrics as the types of `opentelemetry-proto` read them; the golden file shows all fields."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from llm_gateway import __version__
from llm_gateway.control.otlp import conventions
from llm_gateway.control.otlp.attributes import LONGEST_TEXT, MOST_CACHED, Attribute, joined
from llm_gateway.control.otlp.batch import Encoder, Resource
from llm_gateway.control.otlp.metrics import MOST_SERIES, SECONDS, Histogram
from llm_gateway.control.otlp.protobuf import int64, read_fields, varint
from llm_gateway.control.otlp.spans import trace_id_of
from llm_gateway.domain.budget import AccountRef
from llm_gateway.domain.usage import UsageRecord
from tests.control.otlp import samples
from tests.control.otlp.samples import ADDRESSES, AT_MS, attempt, cached, failed_over, record, refused, streamed
from tests.journal.samples import Heard
from tests.otlp_collector import attributes, logs_of, metrics_of, spans_of

GOLDEN = Path(__file__).with_name("golden.json")
NOW_NS = (AT_MS + 60_000) * 1_000_000
ALL = frozenset({"traces", "metrics", "logs"})


def encoder(signals: frozenset[str] = ALL, ratio: float = 1.0) -> Encoder:
    return Encoder(Resource("production", "host-1"), signals, ratio, ADDRESSES.get, clock_ns=lambda: NOW_NS)


def encoded(*records: UsageRecord) -> tuple[list[Any], list[Any], list[Any]]:
    """Return spans, log records and metrics of the records."""
    own = encoder()
    traces, logs = own.encode(list(records))
    metrics = own.encode_metrics()
    assert metrics is not None
    return spans_of(traces.content), logs_of(logs.content), metrics_of(metrics.content)


def shown_span(span: Any) -> dict[str, Any]:
    return {
        "trace_id": span.trace_id.hex(), "span_id": span.span_id.hex(), "parent": span.parent_span_id.hex(),
        "name": span.name, "kind": span.kind, "start": span.start_time_unix_nano, "end": span.end_time_unix_nano,
        "flags": span.flags, "status": span.status.code, "message": span.status.message,
        "events": [[event.name, event.time_unix_nano] for event in span.events],
        "attributes": dict(sorted(attributes(span.attributes).items())),
    }  # fmt: skip


def shown_log(log: Any) -> dict[str, Any]:
    return {
        "trace_id": log.trace_id.hex(), "span_id": log.span_id.hex(), "at": log.time_unix_nano,
        "observed": log.observed_time_unix_nano, "severity": [log.severity_number, log.severity_text],
        "event": log.event_name, "body": log.body.string_value, "flags": log.flags,
        "attributes": dict(sorted(attributes(log.attributes).items())),
    }  # fmt: skip


def shown_metric(metric: Any) -> dict[str, Any]:
    return {
        "name": metric.name, "unit": metric.unit, "description": metric.description,
        "temporality": metric.histogram.aggregation_temporality,
        "points": [
            {
                "attributes": attributes(point.attributes), "count": point.count, "sum": round(point.sum, 9),
                "counts": list(point.bucket_counts), "bounds": list(point.explicit_bounds),
                "times": [point.start_time_unix_nano, point.time_unix_nano],
            }
            for point in metric.histogram.data_points
        ],
    }  # fmt: skip


def test_what_is_sent_is_what_the_golden_file_shows() -> None:
    """After a change that is meant, delete the file: the test writes it anew, and fails once."""
    spans, logs, metrics = encoded(streamed(), failed_over(), cached(), refused(), samples.cut_off())
    found = {
        "conventions": conventions.VERSION,
        "spans": list(map(shown_span, spans)),
        "logs": list(map(shown_log, logs)),
        "metrics": list(map(shown_metric, metrics)),
    }
    if not GOLDEN.exists():
        GOLDEN.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")
        pytest.fail(f"{GOLDEN} is new: look at it, and commit it.")
    assert found == json.loads(GOLDEN.read_text())


def test_the_resource_and_the_scope_name_gateway_and_conventions() -> None:
    [body, _] = encoder().encode([cached()])
    [resource] = ExportTraceServiceRequest.FromString(body.content).resource_spans
    [scope] = resource.scope_spans
    assert attributes(resource.resource.attributes) == {
        "service.name": "llm-gateway", "service.version": __version__, "service.instance.id": "host-1",
        "deployment.environment.name": "production",
    }  # fmt: skip
    assert (scope.scope.name, scope.scope.version, scope.schema_url) == (
        "llm_gateway", __version__, "https://opentelemetry.io/schemas/1.41.0",
    )  # fmt: skip


def test_costs_of_spans_add_up_to_the_costs_of_the_records() -> None:
    records = [record(attempt(cost_nanos=nanos), attempt(2, cost_nanos=7)) for nanos in (1, 999_999_999, 123_456_789)]
    spans, _, _ = encoded(*records, cached(), refused())
    found = [attributes(span.attributes) for span in spans]
    for name in ("llm_gateway.cost_usd", "llm_gateway.total.cost_usd"):
        nanos = sum(round(each[name] * 1e9) for each in found if name in each)
        assert nanos == sum(each.cost_nanos for each in records) == 1_123_456_810


def test_the_budgets_of_each_attempt_and_the_one_that_refused_are_named() -> None:
    later = record(attempt(), attempt(2, accounts=[AccountRef("b", "", 0)]))
    refusal = record(outcome="refused_budget", status=429, error_code="budget_exceeded", refused_by="c")
    spans = [encoded(each)[0][0] for each in (later, refusal)]
    assert [attributes(span.attributes)["llm_gateway.budgets"] for span in spans] == [["b"], ["c"]]


def test_no_providers_message_is_sent() -> None:
    bodies = encoder().encode([failed_over()])
    assert not [body for body in bodies if b"secret prompt" in body.content]


@pytest.mark.parametrize(
    ("first", "why", "code", "found"),
    [
        ({"status": 503}, "failover:503", "x", "503"),
        ({"status": 200}, "failover:malformed", "x", "malformed"),
        ({"status": None}, "retry:timeout", "x", "timeout"),
        ({"status": None, "sent": False}, None, "provider_error", "not_sent"),
        ({"status": None}, None, "provider_error", "provider_error"),
        ({"status": None}, None, None, "_OTHER"),
    ],
)
def test_the_type_of_an_attempts_error_is_one_of_few_words(
    first: dict[str, Any], why: str | None, code: str | None, found: str
) -> None:
    attempts = [attempt(error="Provider a: some text", **first), *([attempt(2, why=why)] if why else [])]
    failed = record(*attempts, outcome="failed", error_code=code)
    assert conventions.error_type_of_attempt(failed, 0) == found


@pytest.mark.parametrize(
    ("name", "host", "found"),
    [
        ("a", "api.openai.com", "openai"),
        ("a", "my.openai.azure.com", "azure.ai.openai"),
        ("a", "notopenai.azure.com", "a"),
        ("a", "bedrock-runtime.us-east-1.amazonaws.com", "aws.bedrock"),
        ("mistral", None, "mistral_ai"),
        ("openai", "10.0.0.1", "openai"),
    ],
)
def test_a_provider_has_its_well_known_name(name: str, host: str | None, found: str) -> None:
    assert conventions.provider_name(name, host) == found


def test_a_request_without_a_client_trace_begins_one() -> None:
    own = refused()
    assert trace_id_of(own) == own.id.replace("-", "")
    [span], _, _ = encoded(own)
    assert (span.parent_span_id, span.flags, span.name) == (b"", 0x101, "chat gpt-5")
    assert bytes.fromhex(trace_id_of(own))[8:] == span.span_id


@pytest.mark.parametrize("text", ["", "ä", "x" * 130, "x" * 5000, "日" * 500, "a\x00b", "\ud800", "y" * 100])
def test_any_text_is_an_attribute(text: str) -> None:
    attribute = Attribute("llm_gateway.customer")
    for encode in (attribute.text, attribute.name_of, attribute.name_of):
        span = spans_of(encoder()._resource.wrap([joined(b"\x4a", [encode(text)])]))[0]
        found = attributes(span.attributes)["llm_gateway.customer"]
        assert text.encode("utf-8", "replace").startswith(found.encode())
        assert len(found.encode()) == min(len(text.encode("utf-8", "replace")), LONGEST_TEXT // 3 * 3 + 1) or (
            LONGEST_TEXT - 3 < len(found.encode()) <= LONGEST_TEXT
        )


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 16_383, 16_384, 2**40, 2**63 - 1, -1])
def test_any_integer_is_an_attribute(number: int) -> None:
    attribute = Attribute("n")
    span = spans_of(encoder()._resource.wrap([joined(b"\x4a", [attribute.integer(number)])]))[0]
    assert attributes(span.attributes) == {"n": number}
    assert read_fields(b"\x08" + int64(number))[1] == number % 2**64


def test_an_attribute_keeps_a_bounded_number_of_encoded_texts() -> None:
    attribute = Attribute("n")
    for number in range(3 * MOST_CACHED):
        attribute.name_of(str(number))
    assert len(attribute._cached) <= MOST_CACHED


def test_series_beyond_the_bound_are_counted_in_one() -> None:
    histogram = Histogram("h", "text", "s", SECONDS, lambda labels: [Attribute("a").text(labels[0] or "")])
    for number in range(MOST_SERIES + 5):
        histogram.record((str(number),), 0.01)
    [metric] = metrics_of(encoder()._resource.wrap([histogram.encoded(1, 2)]))
    points = metric.histogram.data_points
    assert len(points) == MOST_SERIES + 1
    assert attributes(points[-1].attributes) == {"otel.metric.overflow": True}
    assert points[-1].count == 5


def test_a_value_at_a_bound_is_in_the_bucket_that_ends_there() -> None:
    histogram = Histogram("h", "text", "s", (1, 2), lambda _: [])
    for number in (0, 1, 1.5, 2, 3):
        histogram.record((), number)
    [metric] = metrics_of(encoder()._resource.wrap([histogram.encoded(1, 2)]))
    assert list(metric.histogram.data_points[0].bucket_counts) == [2, 2, 1]


@pytest.mark.parametrize("signals", [{"traces"}, {"logs"}, {"metrics"}, {"traces", "metrics"}])
def test_only_the_wanted_signals_are_sent(signals: set[str]) -> None:
    own = encoder(frozenset(signals))
    sent = {body.signal for body in own.encode([streamed(), cached()])}
    if own.encode_metrics() is not None:
        sent.add("metrics")
    assert sent == signals


def test_a_log_record_is_sent_of_a_request_whose_trace_is_not() -> None:
    [body] = encoder(ratio=0.0).encode([cached()])
    [log] = logs_of(body.content)
    assert (body.signal, body.items, log.flags) == ("logs", 1, 0)


@pytest.mark.parametrize("message", [b"\x0a\x05ab", b"\x08", b"\x08" + b"\xff" * 12, b"\x0d\x00\x00\x00\x00"])
def test_a_malformed_message_is_refused(message: bytes) -> None:
    with pytest.raises(ValueError, match=r"a (field|number) "):
        read_fields(message)


def test_a_record_that_cannot_be_encoded_holds_back_no_other() -> None:
    heard = Heard()
    own = Encoder(Resource("dev", "h"), ALL, 1.0, ADDRESSES.get, log=heard)
    odd = [record(id="no UUID at all"), record(attempt(started_ms=-1))]
    traces, logs = own.encode([odd[0], cached(), *odd])
    assert (traces.items, logs.items, own.lost_records) == (1, 1, 3)
    assert heard.names() == ["telemetry of a request cannot be encoded: it is lost"]


def test_numbers_of_any_size_are_varints() -> None:
    for number in (0, 127, 128, 16_383, 16_384, 2**64 - 1):
        assert read_fields(b"\x10" + varint(number)) == {2: number}
