"""Metrics in the Prometheus text format."""

from __future__ import annotations

import msgspec
import pytest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.parser import text_string_to_metric_families

from llm_gateway.domain.metric_families import MetricFamily, Sample, gauge
from llm_gateway.domain.usage import AttemptRecord
from llm_gateway.telemetry import METRICS_CONTENT_TYPE, Metrics
from llm_gateway.telemetry.exposition import render
from llm_gateway.telemetry.metrics import LATENCY_BUCKETS_MS, MOST_VALUES
from llm_gateway.telemetry.text_format import text_of
from tests.telemetry.harness import record


def samples(text: bytes) -> dict[str, float]:
    """Return every sample of the rendered text, by `name{label=value}`."""
    return {
        f"{sample.name}{{{','.join(f'{name}={value}' for name, value in sorted(sample.labels.items()))}}}": sample.value
        for family in text_string_to_metric_families(text.decode())
        for sample in family.samples
    }


def test_metrics_count_requests_and_can_be_parsed() -> None:
    several = [Sample("", {"provider": "p"}, 1.0), Sample("", {"provider": 'q"\n\\'}, 0.5)]
    gauges = [MetricFamily(name="g", type="gauge", help="A\n\\", samples=several), gauge("n", "N", 7)]
    metrics = Metrics(lambda: gauges, lambda: 3)
    metrics(record())
    metrics(record(latency_ms=5))
    metrics(record(latency_ms=200_000))
    cut = AttemptRecord(id="b", provider_id="i", provider="p", kind="openai", model="m", started_ms=0)
    metrics(record(outcome="failed", error_code="provider_error", attempts=[cut], latency_ms=1))
    found = samples(text_of(metrics.report()))
    assert found["llm_gateway_log_lines_dropped_total{}"] == 3
    assert found["llm_gateway_requests_total{error_code=,outcome=ok,surface=generate}"] == 3
    assert found["llm_gateway_requests_total{error_code=provider_error,outcome=failed,surface=generate}"] == 1
    assert found["llm_gateway_attempts_total{model=m,provider=p,status=200}"] == 3
    assert found["llm_gateway_attempts_total{model=m,provider=p,status=none}"] == 1
    assert found["llm_gateway_tokens_total{direction=input,model=m,provider=p}"] == 30
    assert found["llm_gateway_tokens_total{direction=output,model=m,provider=p}"] == 15
    assert found["llm_gateway_cost_usd_total{model=m,provider=p}"] == pytest.approx(4.5e-6)
    buckets = {bound: found[f"llm_gateway_latency_seconds_bucket{{le={bound},outcome=ok}}"] for bound in bounds()}
    assert (buckets["0.005"], buckets["0.1"], buckets["0.25"], buckets["120.0"], buckets["+Inf"]) == (1, 1, 2, 2, 3)
    assert list(buckets.values()) == sorted(buckets.values())
    assert found["llm_gateway_latency_seconds_count{outcome=ok}"] == 3
    assert found["llm_gateway_latency_seconds_sum{outcome=ok}"] == pytest.approx(200.255)
    assert (found["g{provider=p}"], found['g{provider=q"\n\\}'], found["n{}"]) == (1, 0.5, 7)


def test_cache_first_token_and_overhead_are_counted() -> None:
    metrics = Metrics(list)
    [attempt] = record().attempts
    slow = msgspec.structs.replace(attempt, latency_ms=200)
    metrics(record(attempts=[slow], latency_ms=260, queued_ms=50, first_token_ms=120, cache="bypass"))
    metrics(record(attempts=[slow], latency_ms=199))  # a clock that went back makes no negative time
    metrics(record(attempts=[slow, slow], latency_ms=5000))  # the pause between two attempts is not the gateway's time
    metrics(record(attempts=[slow], latency_ms=9999, outcome="failed", first_token_ms=1))
    metrics(record(attempts=[], cache="hit"))
    found = samples(text_of(metrics.report()))
    lookups = {
        result: found[f"llm_gateway_cache_lookups_total{{result={result}}}"] for result in ("bypass", "miss", "hit")
    }
    assert lookups == {"bypass": 1, "miss": 3, "hit": 1}
    assert found["llm_gateway_overhead_seconds_count{model=m,provider=p}"] == 2
    assert found["llm_gateway_overhead_seconds_sum{model=m,provider=p}"] == pytest.approx(0.010)
    assert found["llm_gateway_overhead_seconds_bucket{le=0.01,model=m,provider=p}"] == 2
    assert found["llm_gateway_overhead_seconds_bucket{le=0.005,model=m,provider=p}"] == 1
    assert found["llm_gateway_first_token_seconds_count{model=m,provider=p}"] == 1
    assert found["llm_gateway_first_token_seconds_sum{model=m,provider=p}"] == pytest.approx(0.12)


def test_more_than_200_models_are_counted_together() -> None:
    metrics = Metrics(list)
    [attempt] = record().attempts
    for number in range(1000):
        for provider in ("p", "q"):
            metrics(record(attempts=[msgspec.structs.replace(attempt, provider=provider, model=f"m{number}")]))
    found = samples(text_of(metrics.report()))
    calls = {name: count for name, count in found.items() if name.startswith("llm_gateway_attempts_total")}
    assert len(calls) == 2 * (MOST_VALUES + 1)
    assert calls["llm_gateway_attempts_total{model=m199,provider=q,status=200}"] == 1
    assert calls["llm_gateway_attempts_total{model=other,provider=q,status=200}"] == 800


def limits_used(number: int) -> list[Sample]:
    """Return samples of this many providers: of the first one 0, of each next one 0.001 more."""
    return [Sample("", {"provider": f"p{n}", "limit": "tokens"}, n / 1000) for n in range(number)]


@pytest.mark.parametrize(("is_maximum", "others"), [(True, 0.249), (False, pytest.approx(sum(range(200, 250)) / 1000))])
def test_gauges_of_more_than_200_providers_are_one_sample(is_maximum: bool, others: object) -> None:
    family = MetricFamily(
        name="used", type="gauge", help="Used", samples=limits_used(MOST_VALUES + 50), is_maximum=is_maximum
    )
    found = samples(text_of([family]))
    assert len(found) == MOST_VALUES + 1
    assert found["used{limit=tokens,provider=p199}"] == 0.199
    assert found["used{limit=tokens,provider=other}"] == others


def test_gauges_of_200_providers_and_counters_of_more_are_written_as_they_are() -> None:
    gauges = MetricFamily(name="used", type="gauge", help="Used", samples=limits_used(MOST_VALUES))
    counters = MetricFamily(name="calls", type="counter", help="C", samples=limits_used(MOST_VALUES + 1))
    assert len(samples(text_of([gauges]))) == MOST_VALUES
    assert len(text_of([counters]).splitlines()) == 2 + MOST_VALUES + 1


def bounds() -> list[str]:
    return [*(str(ms / 1000) for ms in LATENCY_BUCKETS_MS), "+Inf"]


def test_without_requests_there_are_only_the_counters_that_alerts_watch() -> None:
    found = samples(render(Metrics(list).report()))
    assert {name: value for name, value in found.items() if name.startswith("llm_gateway")} == {
        "llm_gateway_inexact_costs_total{cost_status=estimated}": 0,
        "llm_gateway_inexact_costs_total{cost_status=unpriced}": 0,
        "llm_gateway_log_lines_dropped_total{}": 0,
    }
    assert [name for name in found if name.startswith("process_cpu_seconds_total")]


def test_the_content_type_is_that_of_prometheus_client() -> None:
    assert METRICS_CONTENT_TYPE == CONTENT_TYPE_LATEST
