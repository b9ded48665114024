"""Count requests, attempts, tokens and money, and report the counts as data.

Workers use this without prometheus-client, which takes memory and time to import.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

from llm_gateway.domain.metric_families import MetricFamily, Sample
from llm_gateway.domain.usage import NANOS_PER_USD, UsageRecord

LATENCY_BUCKETS_MS = (5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 120000)
"""Upper bounds of the latency histogram in milliseconds."""


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
        self._attempts: defaultdict[tuple[str, str, int], int] = defaultdict(int)
        self._tokens: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
        self._latency: defaultdict[str, list[int]] = defaultdict(lambda: [0] * (len(LATENCY_BUCKETS_MS) + 2))

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

    def report(self) -> list[MetricFamily]:
        """Return everything that was counted since the start, and the gauges of this moment."""
        requests = [
            Sample("_total", {"surface": surface, "outcome": outcome, "error_code": error_code}, count)
            for (surface, outcome, error_code), count in list(self._requests.items())
        ]
        attempts = [
            Sample("_total", {"provider": provider, "model": model, "status": str(status or "none")}, count)
            for (provider, model, status), count in list(self._attempts.items())
        ]
        tokens: list[Sample] = []
        cost: list[Sample] = []
        for (provider, model), (tokens_in, tokens_out, nanos) in list(self._tokens.items()):
            labels = {"provider": provider, "model": model}
            tokens.append(Sample("_total", {**labels, "direction": "input"}, tokens_in))
            tokens.append(Sample("_total", {**labels, "direction": "output"}, tokens_out))
            cost.append(Sample("_total", labels, nanos / NANOS_PER_USD))
        latency = [sample for outcome, counts in list(self._latency.items()) for sample in _histogram(outcome, counts)]
        return [
            _counter("llm_gateway_requests", "Finished requests", requests),
            _counter("llm_gateway_attempts", "Calls to providers", attempts),
            _counter("llm_gateway_tokens", "Tokens billed by providers", tokens),
            _counter("llm_gateway_cost_usd", "Cost billed by providers, USD", cost),
            MetricFamily(
                name="llm_gateway_latency_seconds", type="histogram", help="End-to-end latency", samples=latency
            ),
            _counter(
                "llm_gateway_log_lines_dropped",
                "Log lines that could not be written",
                [Sample("_total", {}, self._log_dropped())],
            ),
            *self._gauges(),
        ]


def _counter(name: str, text: str, samples: list[Sample]) -> MetricFamily:
    return MetricFamily(name=name, type="counter", help=text, samples=samples)


def _histogram(outcome: str, counts: list[int]) -> Iterator[Sample]:
    """Yield the cumulative buckets, the count and the sum in seconds of a histogram."""
    total = 0
    for bound, count in zip([*(str(ms / 1000) for ms in LATENCY_BUCKETS_MS), "+Inf"], counts[:-1], strict=True):
        total += count
        yield Sample("_bucket", {"outcome": outcome, "le": bound}, total)
    yield Sample("_count", {"outcome": outcome}, total)
    yield Sample("_sum", {"outcome": outcome}, counts[-1] / 1000)
