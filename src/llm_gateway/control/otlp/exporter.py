"""Export of finished requests to an OTLP collector: read a batch from the record feed, send it, confirm it.

    idle ── records ──▶ sending ── every body is accepted or rejected: confirm ──▶ idle, or the next batch
     ▲                     │ ▲
     '── 1 s ── no records │ '── 1 s, doubled up to 60 s, or the collector's Retry-After
                           ▼
                        waiting: the batch stays in memory, all that follows in the journals

A batch is at most 512 records, so memory is flat however long a collector is away. What the journals may not hold back
any longer is passed over and counted. A body that was rejected is not sent again; while nothing is accepted, the next
batch waits, too, so that a wrong setting loses little.
"""

from __future__ import annotations

import asyncio
import gzip
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import TypeAlias, TypeVar

from llm_gateway.control.otlp.batch import Body, Encoder, Signal
from llm_gateway.control.otlp.verdict import Verdict, judge
from llm_gateway.domain.metric_families import MetricFamily, Sample, gauge
from llm_gateway.journal.record_feed import RecordFeed
from llm_gateway.provider_calls.collector import CollectorResult

BATCH_RECORDS = 512
POLL_S = 1.0
"""Seconds between two looks at the journals."""
METRICS_EVERY_S = 60.0
"""Seconds between two reports of the metrics, as OpenTelemetry's SDKs have by default."""
TIMEOUT_S = 10.0
"""Seconds that the collector has for an answer, the default of OTLP's exporters."""
BACKOFF_S, LONGEST_BACKOFF_S, LONGEST_WAIT_S = 1.0, 60.0, 600.0
"""Seconds before the next try: first, maximum, and the longest that a collector can demand."""
CLOSE_S = 1.0
"""Seconds in which the last records are sent when the process stops. The next one sends what is left."""

T = TypeVar("T")
Post: TypeAlias = Callable[[str, bytes, float], Awaitable[CollectorResult]]
"""POST a gzipped body to a path, within a timeout in seconds."""


class Exporter:
    """Sends what `feed` returns. Everything is called on the event loop but for reading and encoding, in threads.

    `log(event, level=…, **fields)`; `clock` returns seconds, `jitter` a factor for pauses.
    """

    def __init__(
        self,
        feed: RecordFeed,
        encoder: Encoder,
        post: Post,
        log: Callable[..., None],
        *,
        metrics_every_s: float = METRICS_EVERY_S,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = lambda: random.uniform(0.8, 1.2),  # noqa: S311 - not a secret
    ) -> None:
        self._feed = feed
        self._encoder = encoder
        self._post = post
        self._log = log
        self._metrics_every_s = metrics_every_s
        self._clock = clock
        self._jitter = jitter
        self._pending: list[Body] = []
        self._is_full = False
        self._backoff_s = 0.0
        self._metrics_at = clock() + metrics_every_s
        self._waiting: set[Signal] = set()
        self._rejecting: set[Signal] = set()
        self._lost = 0
        self._is_failing = False
        self._is_unreadable = False
        self._counts: Counter[tuple[Signal, str]] = Counter()

    async def run(self) -> None:
        """Export until cancelled."""
        while True:
            try:
                pause_s = await self.step()
                self._is_failing = False
            except Exception as error:  # edge: logged once; the records wait in the journals, and the next step tries
                if not self._is_failing:
                    self._log("telemetry cannot be exported: it waits in the journal", level="error", exc_info=error)
                self._is_failing = True
                pause_s = LONGEST_BACKOFF_S
            await asyncio.sleep(pause_s)

    async def step(self) -> float:
        """Send a batch, or try again what waits. Returns the seconds until the next step is due.

        A journal that cannot be read keeps nothing else from being sent.

        Raises:
            OSError: the positions in the journals cannot be written.
        """
        await self._skip_excess()
        if not self._pending:
            await self._read_next()
        verdicts: list[Verdict] = []
        while self._pending:
            verdict = await self._send(self._pending[0])
            if verdict.kind == "waits":
                return self._pause(verdict)
            verdicts.append(verdict)
            self._pending.pop(0)
        await _in_thread(self._feed.confirm)
        if self._metrics_at <= self._clock():
            self._metrics_at = self._clock() + self._metrics_every_s
            verdicts += await self._send_metrics()
        if verdicts and not any(verdict.kind == "accepted" or verdict.is_partial for verdict in verdicts):
            return self._pause(verdicts[-1])
        if verdicts:
            self._backoff_s = 0.0
        return 0.0 if self._is_full else POLL_S

    async def close(self) -> None:
        """Send what is left, for at most CLOSE_S seconds, and the metrics."""
        try:
            async with asyncio.timeout(CLOSE_S):
                while await self.step() == 0:
                    pass
                if not self._waiting:
                    await self._send_metrics()
        except TimeoutError:
            pass  # the next process sends the rest
        except Exception as error:  # edge: what closes after this must close
            self._log("telemetry cannot be exported: it waits in the journal", level="error", exc_info=error)
        self._feed.close()

    def counters(self) -> list[MetricFamily]:
        """Return what was sent, rejected and lost so far."""
        sent = [
            Sample("_total", {"signal": signal, "result": result}, count)
            for (signal, result), count in sorted(self._counts.items())
        ]
        return [
            MetricFamily(
                name="llm_gateway_otlp_items",
                type="counter",
                help="Spans, metrics and log records that the OTLP collector accepted or rejected",
                samples=sent,
            ),
            MetricFamily(
                name="llm_gateway_otlp_lost_records",
                type="counter",
                help="Requests that were never exported, most often since the OTLP collector was away for too long",
                samples=[Sample("_total", {}, self._feed.lost_records + self._encoder.lost_records)],
            ),
        ]

    def gauges(self) -> list[MetricFamily]:
        """Return whether the collector takes everything, and how much waits for it."""
        is_up = not (self._waiting or self._rejecting or self._is_failing or self._is_unreadable)
        return [
            gauge("llm_gateway_otlp_up", "1 if the OTLP collector takes what it is sent", float(is_up)),
            gauge(
                "llm_gateway_otlp_backlog_bytes",
                "Bytes of the usage journal that are not exported over OTLP yet",
                self._feed.backlog_bytes,
            ),
        ]

    async def _skip_excess(self) -> None:
        before = self._feed.lost_records
        try:
            await _in_thread(self._feed.skip_excess)
        except OSError as error:
            self._note_unreadable(error)
        self._note_lost(self._feed.lost_records - before)

    async def _read_next(self) -> None:
        try:
            await _in_thread(self._read)
        except OSError as error:
            self._is_full = False
            self._note_unreadable(error)
        else:
            if not self._pending:  # else only some of the journals were read
                self._note_unreadable(None)

    def _read(self) -> None:
        records = self._feed.read(BATCH_RECORDS)
        self._is_full = len(records) >= BATCH_RECORDS
        self._pending = self._encoder.encode(records)

    async def _send_metrics(self) -> list[Verdict]:
        body = self._encoder.encode_metrics()
        return [] if body is None else [await self._send(body)]

    async def _send(self, body: Body) -> Verdict:
        content = await _in_thread(lambda: gzip.compress(body.content, 1))
        verdict = judge(await self._post(f"/v1/{body.signal}", content, TIMEOUT_S), body.signal, body.items)
        if verdict.kind != "waits":
            self._counts[body.signal, "accepted"] += body.items - verdict.rejected
            self._counts[body.signal, "rejected"] += verdict.rejected
        self._note(body.signal, verdict)
        return verdict

    def _pause(self, verdict: Verdict) -> float:
        """Return the seconds until the next try: what the collector demands, or twice the last pause."""
        self._backoff_s = min(2 * self._backoff_s or BACKOFF_S, LONGEST_BACKOFF_S)
        if verdict.wait_s is not None:
            return min(max(verdict.wait_s, BACKOFF_S), LONGEST_WAIT_S)
        return self._backoff_s * self._jitter()

    def _note(self, signal: Signal, verdict: Verdict) -> None:
        """Log that a state begins or ends."""
        if verdict.kind == "waits":
            if not self._waiting:
                self._log(
                    "the OTLP collector does not take telemetry: it waits in the journal",
                    level="warning",
                    signal=signal,
                    reason=verdict.reason,
                )
            self._waiting.add(signal)
            return
        if signal in self._waiting:
            self._waiting.discard(signal)
            if not self._waiting:
                self._log("the OTLP collector takes telemetry again")
        if verdict.kind == "rejected" and signal not in self._rejecting:
            self._rejecting.add(signal)
            self._log(
                "the OTLP collector rejects telemetry, which is lost",
                level="warning",
                signal=signal,
                reason=verdict.reason,
            )
        elif verdict.kind == "accepted" and signal in self._rejecting:
            self._rejecting.discard(signal)
            self._log("the OTLP collector accepts telemetry again", signal=signal)

    def _note_unreadable(self, error: OSError | None) -> None:
        if error is not None and not self._is_unreadable:
            self._log("a journal's telemetry cannot be read: it waits there", level="error", reason=str(error))
        elif error is None and self._is_unreadable:
            self._log("the telemetry of all journals is read again")
        self._is_unreadable = error is not None

    def _note_lost(self, lost: int) -> None:
        if lost and not self._lost:
            self._log(
                "telemetry is lost: the OTLP collector has been away for too long",
                level="warning",
                reason="the journals hold no more: mend the collector, or unset LLM_GATEWAY_OTLP_ENDPOINT",
            )
        self._lost += lost
        if self._lost and not lost and not self._waiting:
            self._log("no more telemetry is lost", records=self._lost)
            self._lost = 0


async def _in_thread(work: Callable[[], T]) -> T:
    """Run `work` in a thread. If the caller is cancelled, wait for its end: nothing else may use the feed meanwhile."""
    running = asyncio.ensure_future(asyncio.to_thread(work))
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        raise
