"""Count requests, attempts, tokens and money for Prometheus."""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from llm_gateway.domain.usage import NANOS_PER_USD, UsageRecord

METRICS_CONTENT_TYPE = CONTENT_TYPE_LATEST
LATENCY_BUCKETS_MS = (5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 120000)
"""Upper bounds of the latency histogram in milliseconds."""


class Metrics(Collector):
    """Counters in plain dictionaries, converted to Prometheus metric families at each scrape.

    At a scrape, `gauges` yields (name, help, labels, value), and `log_dropped` returns the number of dropped log lines.
    """

    def __init__(
        self,
        gauges: Callable[[], Iterable[tuple[str, str, dict[str, str], float]]],
        log_dropped: Callable[[], int] = lambda: 0,
    ) -> None:
        self._gauges = gauges
        self._log_dropped = log_dropped
        self._requests: defaultdict[tuple[str, str, str], int] = defaultdict(int)
        self._attempts: defaultdict[tuple[str, str, int], int] = defaultdict(int)
        self._tokens: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
        self._latency: defaultdict[str, list[int]] = defaultdict(lambda: [0] * (len(LATENCY_BUCKETS_MS) + 2))
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)

    def __call__(self, record: UsageRecord) -> None:
        """Count one finished request by its usage record."""
        self._requests[(record.surface, record.outcome, record.error_code or "")] += 1
        latency = self._latency[record.outcome]
        latency[bisect_left(LATENCY_BUCKETS_MS, record.latency_ms)] += 1
        latency[-1] += record.latency_ms
        for attempt in record.attempts:
            self._attempts[(attempt.provider, attempt.model, attempt.status or 0)] += 1
            counts = self._tokens[(attempt.provider, attempt.model)]
            counts[0] += attempt.usage.input_tokens
            counts[1] += attempt.usage.output_tokens
            counts[2] += attempt.cost_nanos

    def render(self) -> bytes:
        """Return all metrics in the Prometheus text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield the metric families; prometheus-client calls this at each scrape."""
        requests = CounterMetricFamily(
            "llm_gateway_requests", "Finished requests", labels=["surface", "outcome", "error_code"]
        )
        for labels, count in list(self._requests.items()):
            requests.add_metric(labels, count)
        attempts = CounterMetricFamily(
            "llm_gateway_attempts", "Calls to providers", labels=["provider", "model", "status"]
        )
        for (provider, model, status), count in list(self._attempts.items()):
            attempts.add_metric([provider, model, str(status or "none")], count)
        tokens = CounterMetricFamily(
            "llm_gateway_tokens", "Tokens billed by providers", labels=["provider", "model", "direction"]
        )
        cost = CounterMetricFamily(
            "llm_gateway_cost_usd", "Cost billed by providers, USD", labels=["provider", "model"]
        )
        for (provider, model), (tokens_in, tokens_out, nanos) in list(self._tokens.items()):
            tokens.add_metric([provider, model, "input"], tokens_in)
            tokens.add_metric([provider, model, "output"], tokens_out)
            cost.add_metric([provider, model], nanos / NANOS_PER_USD)
        latency = HistogramMetricFamily("llm_gateway_latency_seconds", "End-to-end latency", labels=["outcome"])
        for outcome, counts in list(self._latency.items()):
            latency.add_metric([outcome], _cumulative(counts[:-1]), counts[-1] / 1000)
        dropped = CounterMetricFamily("llm_gateway_log_lines_dropped", "Log lines that could not be written", labels=[])
        dropped.add_metric([], self._log_dropped())
        yield from (requests, attempts, tokens, cost, latency, dropped)
        yield from self._gauge_families()

    def _gauge_families(self) -> Iterator[Metric]:
        families: dict[str, GaugeMetricFamily] = {}
        for name, text, labels, value in self._gauges():
            family = families.setdefault(name, GaugeMetricFamily(name, text, labels=list(labels)))
            family.add_metric(list(labels.values()), value)
        yield from families.values()


def _cumulative(counts: list[int]) -> list[tuple[str, float]]:
    buckets: list[tuple[str, float]] = []
    total = 0
    for bound, count in zip([*(str(ms / 1000) for ms in LATENCY_BUCKETS_MS), "+Inf"], counts, strict=True):
        total += count
        buckets.append((bound, total))
    return buckets
