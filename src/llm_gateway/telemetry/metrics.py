"""Count requests, attempts, tokens and money, and report the counts as data.

Workers use this without prometheus-client, which takes memory and time to import.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

from llm_gateway.domain.metric_families import MetricFamily, Sample
from llm_gateway.domain.usage import NANOS_PER_USD, UsageRecord
from llm_gateway.telemetry import histograms

LATENCY_BUCKETS_MS = (5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 120000)
"""Upper bounds of the histograms of latencies and first tokens, in milliseconds."""
OVERHEAD_BUCKETS_MS = (1, 2, 5, 10, 25, 50, 100, 250, 1000, 5000)
"""Upper bounds of the histogram of the gateway's own time, in milliseconds."""
MOST_VALUES = 200
"""Different providers, and different models, that have counts of their own; further ones are counted as `other`."""
OTHER = "other"


class ModelCounts:
    """Counts of one (provider, model): its calls by status, its tokens and costs, and two histograms of its answers."""

    __slots__ = ("first_token", "input_tokens", "nanos", "output_tokens", "overhead", "statuses")

    def __init__(self) -> None:
        self.statuses: defaultdict[int, int] = defaultdict(int)
        self.input_tokens = self.output_tokens = self.nanos = 0
        self.overhead = histograms.empty(OVERHEAD_BUCKETS_MS)
        self.first_token = histograms.empty(LATENCY_BUCKETS_MS)


class Metrics:
    """Counters in plain dictionaries, converted to metric families at each report.

    At a report, `gauges` yields more families, and `log_dropped` returns the number of dropped log lines.
    """

    def __init__(
        self,
        gauges: Callable[[], Iterable[MetricFamily]],
        log_dropped: Callable[[], int] = lambda: 0,
    ) -> None:
        self._gauges = gauges
        self._log_dropped = log_dropped
        self._requests: defaultdict[tuple[str, str, str], int] = defaultdict(int)
        self._lookups: defaultdict[str, int] = defaultdict(int)
        self._latency: defaultdict[str, list[float]] = defaultdict(lambda: histograms.empty(LATENCY_BUCKETS_MS))
        self._models = _Models()
        self._inexact: dict[str, int] = {"estimated": 0, "unpriced": 0}

    def __call__(self, record: UsageRecord) -> None:
        """Count one finished request by its usage record."""
        self._requests[(record.surface, record.outcome, record.error_code or "")] += 1
        self._lookups[record.cache] += 1
        histograms.add(self._latency[record.outcome], LATENCY_BUCKETS_MS, record.latency_ms)
        own_ms = record.latency_ms - record.queued_ms
        counts = None
        for attempt in record.attempts:
            counts = self._models[attempt.provider, attempt.model]
            counts.statuses[attempt.status or 0] += 1
            counts.input_tokens += attempt.usage.input_tokens
            counts.output_tokens += attempt.usage.output_tokens
            counts.nanos += attempt.cost_nanos
            own_ms -= attempt.latency_ms
            if attempt.cost_status != "exact":
                self._inexact[attempt.cost_status] += 1
        if counts is not None and record.outcome == "ok":  # those of its last attempt, which answered
            if len(record.attempts) == 1:  # between two attempts there are pauses, which no record tells
                histograms.add(counts.overhead, OVERHEAD_BUCKETS_MS, max(own_ms, 0))
            if record.first_token_ms is not None:
                histograms.add(counts.first_token, LATENCY_BUCKETS_MS, record.first_token_ms)

    def report(self) -> list[MetricFamily]:
        """Return everything that was counted since the start, and the gauges of this moment."""
        requests = [
            Sample("_total", {"surface": surface, "outcome": outcome, "error_code": error_code}, count)
            for (surface, outcome, error_code), count in list(self._requests.items())
        ]
        lookups = [Sample("_total", {"result": result}, count) for result, count in list(self._lookups.items())]
        latency = [
            sample
            for outcome, counts in list(self._latency.items())
            for sample in histograms.samples(counts, LATENCY_BUCKETS_MS, {"outcome": outcome})
        ]
        inexact = [Sample("_total", {"cost_status": status}, count) for status, count in self._inexact.items()]
        dropped = [Sample("_total", {}, self._log_dropped())]
        return [
            _counter("llm_gateway_requests", "Finished requests", requests),
            _counter("llm_gateway_cache_lookups", "Requests by what the cache of answers did for them", lookups),
            _histogram("llm_gateway_latency_seconds", "End-to-end latency", latency),
            *self._models.report(),
            _counter("llm_gateway_inexact_costs", "Calls to providers whose cost is estimated or not known", inexact),
            _counter("llm_gateway_log_lines_dropped", "Log lines that could not be written", dropped),
            *self._gauges(),
        ]


class _Models(dict[tuple[str, str], ModelCounts]):
    """The counts of each (provider, model), of at most MOST_VALUES providers and models, and `other`.

    A label with ever new values would make a time series for each, here and in Prometheus.
    """

    def __init__(self) -> None:
        super().__init__()
        self._providers: set[str] = set()
        self._names: set[str] = set()

    def __missing__(self, names: tuple[str, str]) -> ModelCounts:
        labels = _capped(self._providers, names[0]), _capped(self._names, names[1])
        if labels != names:
            return self[labels]
        counts = self[names] = ModelCounts()
        return counts

    def report(self) -> list[MetricFamily]:
        """Return the counts as families."""
        attempts: list[Sample] = []
        tokens: list[Sample] = []
        cost: list[Sample] = []
        first_token: list[Sample] = []
        overhead: list[Sample] = []
        for (provider, model), counts in list(self.items()):
            labels = {"provider": provider, "model": model}
            statuses = list(counts.statuses.items())
            attempts += [Sample("_total", {**labels, "status": str(status or "none")}, n) for status, n in statuses]
            tokens.append(Sample("_total", {**labels, "direction": "input"}, counts.input_tokens))
            tokens.append(Sample("_total", {**labels, "direction": "output"}, counts.output_tokens))
            cost.append(Sample("_total", labels, counts.nanos / NANOS_PER_USD))
            first_token += histograms.samples(counts.first_token, LATENCY_BUCKETS_MS, labels)
            overhead += histograms.samples(counts.overhead, OVERHEAD_BUCKETS_MS, labels)
        return [
            _counter("llm_gateway_attempts", "Calls to providers", attempts),
            _counter("llm_gateway_tokens", "Tokens billed by providers", tokens),
            _counter("llm_gateway_cost_usd", "Cost billed by providers, USD", cost),
            _histogram(
                "llm_gateway_first_token_seconds", "Time until the first part of a streamed answer", first_token
            ),
            _histogram(
                "llm_gateway_overhead_seconds",
                "Time of a request answered at its first attempt, without that at the provider and at a rate limit",
                overhead,
            ),
        ]


def _capped(known: set[str], value: str) -> str:
    """Return the value, or `other` if it is new and too many are known."""
    if value in known or value == OTHER:
        return value
    if len(known) >= MOST_VALUES:
        return OTHER
    known.add(value)
    return value


def _counter(name: str, text: str, samples: list[Sample]) -> MetricFamily:
    return MetricFamily(name=name, type="counter", help=text, samples=samples)


def _histogram(name: str, text: str, samples: list[Sample]) -> MetricFamily:
    return MetricFamily(name=name, type="histogram", help=text, samples=samples)
