"""Log events and metrics; the only home of their libraries.

Two kinds of lines: events, which an operator should know (structlog, rendered where they happen), and one for every
request (rendered later, in batches). One thread writes them, so that nobody waits for a terminal or a pipe.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from bisect import bisect_left
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Self

import msgspec
import structlog
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from llm_gateway.domain.usage import NANOS_PER_USD, UsageRecord

METRICS_CONTENT_TYPE = CONTENT_TYPE_LATEST
LATENCY_BUCKETS_MS = (5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000, 30000, 60000, 120000)
FLUSH_SECONDS = 0.2
FULL_PIPE_PAUSE_S = 0.01
CLOSE_SECONDS = 5.0
MAX_WAITING_LINES = 10_000
LINES_AT_ONCE = 100

Redact = Callable[[str], str]


class RequestLine(msgspec.Struct, gc=False):
    """The log line of one request."""

    timestamp: str
    level: str
    event: str
    request_id: str
    service: str
    user_id: str
    task_type: str
    outcome: str
    status: int
    provider: str | None
    model: str | None
    attempts: int
    input_tokens: int
    output_tokens: int
    cost_usd: float
    latency_ms: int
    error_code: str | None


class LogWriter:
    """Writes the log from a thread of its own, the only one that does: lines stay whole, and who logs never waits.

    When the log's reader is too slow lines are dropped and counted. `console` renders for people, otherwise JSON.
    Used as a context manager: what was logged before the start is written then, what waits at the end within
    `CLOSE_SECONDS`.
    """

    def __init__(self, *, console: bool, redact: Redact, fd: int = 1) -> None:
        self._render = _console_line if console else _json_line
        self._redact = redact
        self._fd = fd
        self._waiting: deque[UsageRecord | str] = deque()
        self._dropped = self._dropped_told = 0
        self._dropping = threading.Lock()
        self._is_closing = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)

    def __enter__(self) -> Self:
        """Begin to write."""
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Write what waits, and end."""
        self._is_closing = True
        self._wake.set()
        self._thread.join(CLOSE_SECONDS)

    def request(self, record: UsageRecord) -> None:
        """The line of a request; it may take a moment."""
        if len(self._waiting) < MAX_WAITING_LINES:
            self._waiting.append(record)
        else:
            self._drop()

    def event(self, line: str) -> None:
        """A rendered line, at once; requests leave room for some of them."""
        if len(self._waiting) < 2 * MAX_WAITING_LINES:
            self._waiting.append(line)
        else:
            self._drop()
        self._wake.set()

    def _drop(self) -> None:
        with self._dropping:
            self._dropped += 1

    def _run(self) -> None:
        while not self._is_closing:
            self._wake.wait(FLUSH_SECONDS)
            self._wake.clear()
            self._write_all()
        self._write_all()

    def _write_all(self) -> None:
        while self._waiting:
            count = min(len(self._waiting), LINES_AT_ONCE)
            lines = [self._waiting.popleft() for _ in range(count)]
            text = "".join([line if isinstance(line, str) else self._render(line) for line in lines])
            _write(self._fd, self._redact(text).encode("utf-8", "replace"))
        if (dropped := self._dropped) > self._dropped_told:
            _write(
                self._fd,
                b'{"event":"log lines dropped","level":"warning","count":%d}\n' % (dropped - self._dropped_told),
            )
            self._dropped_told = dropped


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:
            time.sleep(FULL_PIPE_PAUSE_S)
        except OSError:
            return  # whoever read the log is gone; serving goes on


_line_encoder = msgspec.json.Encoder()


def _when(record: UsageRecord) -> str:
    seconds, milliseconds = divmod(record.at_ms + record.latency_ms, 1000)
    return f"{_second(seconds)}.{milliseconds:03d}Z"


@lru_cache(maxsize=128)
def _second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _json_line(record: UsageRecord) -> str:
    line = RequestLine(
        timestamp=_when(record),
        level="info" if record.status < 500 else "warning",
        event="request",
        request_id=record.id,
        service=record.service,
        user_id=record.user_id,
        task_type=record.task_type,
        outcome=record.outcome,
        status=record.status,
        provider=record.provider,
        model=record.model,
        attempts=len(record.attempts),
        input_tokens=record.usage.input_tokens,
        output_tokens=record.usage.output_tokens,
        cost_usd=record.cost_nanos / NANOS_PER_USD,
        latency_ms=record.latency_ms,
        error_code=record.error_code,
    )
    return _line_encoder.encode(line).decode() + "\n"


def _console_line(record: UsageRecord) -> str:
    served = f"{record.provider}/{record.model}" if record.provider else "-"
    tokens = f"{record.usage.input_tokens}+{record.usage.output_tokens} tokens"
    cost = f"${record.cost_nanos / NANOS_PER_USD:.6f}"
    why = f" {record.error_code}" if record.error_code else ""
    return (
        f"{_when(record)[11:23]} {record.status} {record.outcome:<12} {served} {tokens} {cost} "
        f"{record.latency_ms} ms  {record.service!r} for {record.user_id!r}{why}\n"
    )


class Metrics(Collector):
    """Counts in plain dictionaries, turned into Prometheus families when someone asks.

    `gauges` is called at each scrape and yields (name, help, labels, value).
    """

    def __init__(self, gauges: Callable[[], Iterable[tuple[str, str, dict[str, str], float]]]) -> None:
        self._gauges = gauges
        self._requests: defaultdict[tuple[str, str, str], int] = defaultdict(int)
        self._attempts: defaultdict[tuple[str, str, int], int] = defaultdict(int)
        self._tokens: defaultdict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0, 0])
        self._latency: defaultdict[str, list[int]] = defaultdict(lambda: [0] * (len(LATENCY_BUCKETS_MS) + 2))
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)

    def __call__(self, record: UsageRecord) -> None:
        """Count one settled record."""
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
        """The Prometheus text of everything counted."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Prometheus families, made at scrape time."""
        requests = CounterMetricFamily(
            "llm_gateway_requests", "Requests by end", labels=["surface", "outcome", "error_code"]
        )
        for labels, count in list(self._requests.items()):
            requests.add_metric(labels, count)
        attempts = CounterMetricFamily("llm_gateway_attempts", "Upstream calls", labels=["provider", "model", "status"])
        for (provider, model, status), count in list(self._attempts.items()):
            attempts.add_metric([provider, model, str(status or "none")], count)
        tokens = CounterMetricFamily("llm_gateway_tokens", "Tokens bought", labels=["provider", "model", "direction"])
        cost = CounterMetricFamily("llm_gateway_cost_usd", "Money spent, USD", labels=["provider", "model"])
        for (provider, model), (tokens_in, tokens_out, nanos) in list(self._tokens.items()):
            tokens.add_metric([provider, model, "input"], tokens_in)
            tokens.add_metric([provider, model, "output"], tokens_out)
            cost.add_metric([provider, model], nanos / NANOS_PER_USD)
        latency = HistogramMetricFamily("llm_gateway_latency_seconds", "End-to-end latency", labels=["outcome"])
        for outcome, counts in list(self._latency.items()):
            latency.add_metric([outcome], _cumulative(counts[:-1]), counts[-1] / 1000)
        yield from (requests, attempts, tokens, cost, latency)
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


def configure_logging(*, level: str, console: bool, write: Callable[[str], None]) -> Callable[..., None]:
    """Set logging up, once, and return `log(event, level="info", **fields)`; `write` takes rendered lines.

    Other libraries' loggers come the same way, from warnings up.
    """
    threshold = getattr(logging, level.upper())
    renderers: list[Any] = (
        # The plain traceback: the one it would choose itself prints local variables, which hold prompts and keys.
        [
            structlog.dev.ConsoleRenderer(
                colors=sys.stdout.isatty(), pad_event_to=0, exception_formatter=structlog.dev.plain_traceback
            )
        ]
        if console
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(threshold),
        logger_factory=lambda *_: _Lines(write),
        cache_logger_on_first_use=True,
    )
    logger = structlog.get_logger()
    logging.basicConfig(handlers=[_Bridge(logger)], level=max(threshold, logging.WARNING), force=True)

    def log(event: str, *, level: str = "info", **fields: Any) -> None:
        getattr(logger, level)(event, **fields)

    return log


class _Lines:
    """What structlog calls a logger: takes rendered lines, whatever their level."""

    def __init__(self, write: Callable[[str], None]) -> None:
        self._write = write

    def msg(self, text: str) -> None:
        """Pass a line on."""
        self._write(f"{text}\n")

    debug = info = warning = error = critical = msg


class _Bridge(logging.Handler):
    """The standard library's log records, sent the gateway's way."""

    def __init__(self, logger: Any) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        name = record.levelname.lower()
        report = getattr(self._logger, name if name in ("debug", "info", "warning", "error", "critical") else "info")
        try:
            message = record.getMessage()
        except Exception:  # edge: arguments that do not fit must not break whoever logs, as in logging's own handlers
            message = str(record.msg)
        report(message, logger=record.name, exc_info=record.exc_info)
