"""The exporter with a real collector over HTTP: everything comes once, and a collector that fails loses little."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from llm_gateway.control.otlp.batch import Encoder, Resource, Signal
from llm_gateway.control.otlp.exporter import BACKOFF_S, LONGEST_BACKOFF_S, LONGEST_WAIT_S, Exporter
from llm_gateway.control.otlp.verdict import judge
from llm_gateway.domain.usage import encode_record
from llm_gateway.journal.record_feed import RecordFeed
from llm_gateway.journal.segments import JournalDir
from llm_gateway.provider_calls.collector import Collector, CollectorResult
from tests.control.otlp.samples import ADDRESSES, attempt, record
from tests.journal.samples import Heard, frame, request_id
from tests.journal.shipping import Journal
from tests.otlp_collector import OtlpCollector, attributes
from tests.rows import each_row

WAITS = "the OTLP collector does not take telemetry: it waits in the journal"
AGAIN = "the OTLP collector takes telemetry again"
REJECTS = "the OTLP collector rejects telemetry, which is lost"
ACCEPTS = "the OTLP collector accepts telemetry again"
LOST = "telemetry is lost: the OTLP collector has been away for too long"
NO_MORE_LOST = "no more telemetry is lost"
UNREADABLE = "a journal's telemetry cannot be read: it waits there"
READABLE = "the telemetry of all journals is read again"
STATUS = b"\x12\x10no room for this"


class Gateway:
    """A journal that a writer fills, and an exporter that sends it to `collector`."""

    def __init__(self, tmp_path: Path, journal: Journal, url: str, **options: Any) -> None:
        self.journal = journal
        self.heard = Heard()
        self.feed = RecordFeed(tmp_path, most_held=options.pop("most_held", 8))
        self.now = 0.0
        signals = options.pop("signals", frozenset({"traces", "logs"}))
        self.collector = Collector(url, {"api-key": "secret-of-the-collector"})
        encoder = Encoder(Resource("dev", "h"), signals, 1.0, ADDRESSES.get)
        self.exporter = Exporter(
            self.feed, encoder, self.collector.post, self.heard, clock=lambda: self.now, jitter=lambda: 1.0, **options
        )

    def serve(self, first: int, last: int) -> None:
        """Write the records of requests with these numbers."""
        for number in range(first, last):
            own = record(attempt(id=f"{request_id(number)[:-13]}-1{number:011d}"), id=request_id(number))
            self.journal.append(frame("I", number, encode_record(own)) + frame("S", number, encode_record(own)))

    def families(self) -> dict[str, dict[tuple[str, ...], float]]:
        """Return the metrics: values by labels, by name."""
        found = [*self.exporter.counters(), *self.exporter.gauges()]
        return {each.name: {tuple(s.labels.values()): s.value for s in each.samples} for each in found}


@pytest.fixture
def collector() -> Iterator[OtlpCollector]:
    with OtlpCollector() as running:
        yield running


@pytest.fixture
def open_gateway(tmp_path: Path, collector: OtlpCollector) -> Callable[..., Any]:
    @asynccontextmanager
    async def gateway(url: str = collector.url, **options: Any) -> AsyncIterator[Gateway]:
        journal = Journal(tmp_path / "journal" / "writer")
        own = Gateway(tmp_path, journal, url, **options)
        yield own
        own.feed.close()
        own.collector.close()
        journal.close()

    return gateway


def numbers(collector: OtlpCollector) -> list[int]:
    """Return the numbers of the requests whose SERVER spans came."""
    ids = [attributes(span.attributes).get("llm_gateway.request.id") for span in collector.spans]
    return [int(each[-12:]) for each in ids if each]


async def test_each_request_comes_once_as_trace_and_as_log(open_gateway: Any, collector: OtlpCollector) -> None:
    async with open_gateway() as gateway:
        gateway.serve(0, 600)
        assert await gateway.exporter.step() == 0.0  # a full batch: go on at once
        assert await gateway.exporter.step() == 1.0
        assert await gateway.exporter.step() == 1.0
        assert sorted(numbers(collector)) == list(range(600))
        assert (len(collector.spans), len(collector.logs)) == (1200, 600)
        assert gateway.heard.events == []
        assert gateway.families() == {
            "llm_gateway_otlp_items": {("logs", "accepted"): 600, ("logs", "rejected"): 0,
                                       ("traces", "accepted"): 1200, ("traces", "rejected"): 0},
            "llm_gateway_otlp_lost_records": {(): 0},
            "llm_gateway_otlp_up": {(): 1.0},
            "llm_gateway_otlp_backlog_bytes": {(): 0},
        }  # fmt: skip
        path, headers = collector.requests[0]
        assert path == "/v1/traces"
        assert {name: headers[name] for name in ("api-key", "content-type", "content-encoding", "user-agent")} == {
            "api-key": "secret-of-the-collector", "content-type": "application/x-protobuf",
            "content-encoding": "gzip", "user-agent": "llm-gateway",
        }  # fmt: skip


async def test_what_was_served_while_the_collector_was_away_comes_afterwards(open_gateway: Any, tmp_path: Path) -> None:
    """Also of another process, since the first one ends meanwhile."""
    with OtlpCollector() as away:
        port = away.port
    async with open_gateway(f"http://127.0.0.1:{port}") as gateway:
        pauses = []
        for number in range(8):
            gateway.serve(10 * number, 10 * number + 10)
            pauses.append(await gateway.exporter.step())
        assert pauses == [1, 2, 4, 8, 16, 32, LONGEST_BACKOFF_S, LONGEST_BACKOFF_S]
        assert gateway.heard.names() == [WAITS]
        [(_, fields)] = gateway.heard.events
        assert fields["level"] == "warning"
        assert fields["reason"].startswith("No connection: Connection refused: start the collector, or correct LLM_G")
        assert gateway.families()["llm_gateway_otlp_up"] == {(): 0.0}
        assert gateway.families()["llm_gateway_otlp_backlog_bytes"][()] > 10_000
        assert len(gateway.exporter._pending[0].content) < 50_000  # the first batch, and nothing of what followed

        await gateway.exporter.close()
        second = Gateway(tmp_path, gateway.journal, f"http://127.0.0.1:{port}")
        assert await second.exporter.step() == BACKOFF_S
        with OtlpCollector(port) as back:
            assert await second.exporter.step() == 1.0
            assert sorted(numbers(back)) == list(range(80))
        assert second.heard.names() == [WAITS, AGAIN]
        assert second.families()["llm_gateway_otlp_backlog_bytes"] == {(): 0}
        second.feed.close()
        second.collector.close()


async def test_what_the_journals_cannot_hold_is_lost_and_counted(open_gateway: Any, collector: OtlpCollector) -> None:
    async with open_gateway(most_held=2) as gateway:
        collector.answers = [(503, {}, b"")] * 7
        for number in range(6):
            gateway.serve(number, number + 1)
            gateway.journal.rotate()
            await gateway.exporter.step()
        assert gateway.heard.names() == [WAITS, LOST]
        gateway.serve(6, 7)
        assert await gateway.exporter.step() > 1
        assert await gateway.exporter.step() == 1.0
        assert await gateway.exporter.step() == 1.0
        await gateway.exporter.step()
        assert numbers(collector) == [0, 4, 5, 6]  # the batch in memory, and the last two segments
        assert gateway.families()["llm_gateway_otlp_lost_records"] == {(): 3}
        assert gateway.heard.names() == [WAITS, LOST, AGAIN, NO_MORE_LOST]
        assert gateway.heard.events[-1][1] == {"records": 3}


async def test_a_retry_sends_only_what_was_not_accepted(open_gateway: Any, collector: OtlpCollector) -> None:
    async with open_gateway() as gateway:
        gateway.serve(0, 3)
        collector.answers = [(200, {}, b""), (429, {"retry-after": "7"}, b"")]
        assert await gateway.exporter.step() == 7.0
        assert await gateway.exporter.step() == 1.0
        assert [path for path, _ in collector.requests] == ["/v1/traces", "/v1/logs", "/v1/logs"]
        assert (len(collector.spans), len(collector.logs)) == (6, 3)


async def test_a_rejected_batch_is_lost_and_the_next_one_waits(open_gateway: Any, collector: OtlpCollector) -> None:
    async with open_gateway() as gateway:
        gateway.serve(0, 2)
        collector.answers = [(401, {}, b"")] * 4
        assert await gateway.exporter.step() == 1.0
        gateway.serve(2, 4)
        assert await gateway.exporter.step() == 2.0
        gateway.serve(4, 6)
        assert await gateway.exporter.step() == 1.0
        assert numbers(collector) == [4, 5]
        assert gateway.heard.names() == [REJECTS, REJECTS, ACCEPTS, ACCEPTS]  # of traces and of logs
        assert gateway.heard.events[0][1] == {
            "level": "warning", "signal": "traces",
            "reason": "status 401: set LLM_GATEWAY_OTLP_HEADERS to what the collector demands",
        }  # fmt: skip
        items = gateway.families()["llm_gateway_otlp_items"]
        assert (items["traces", "rejected"], items["logs", "rejected"], items["traces", "accepted"]) == (8, 4, 4)


async def test_a_signal_that_the_collector_does_not_have_holds_back_no_other(
    open_gateway: Any, collector: OtlpCollector
) -> None:
    async with open_gateway() as gateway:
        for number in range(3):
            gateway.serve(number, number + 1)
            collector.answers = [(200, {}, b""), (404, {}, b"404 page not found")]
            assert await gateway.exporter.step() == 1.0
        assert numbers(collector) == [0, 1, 2]
        assert gateway.heard.names() == [REJECTS]
        assert gateway.heard.events[0][1]["reason"] == (
            "status 404 (404 page not found): nothing takes logs there; correct LLM_GATEWAY_OTLP_ENDPOINT, or leave "
            "logs out of LLM_GATEWAY_OTLP_SIGNALS"
        )


async def test_metrics_are_sent_each_minute_and_at_the_end(open_gateway: Any, collector: OtlpCollector) -> None:
    async with open_gateway(signals=frozenset({"metrics"})) as gateway:
        gateway.serve(0, 5)
        await gateway.exporter.step()
        assert collector.metrics == []
        gateway.now = 60.0
        await gateway.exporter.step()
        gateway.serve(5, 7)
        await gateway.exporter.close()
        counts = [
            [metric.histogram.data_points[0].count for metric in report if metric.name.endswith("request.duration")]
            for report in collector.metrics
        ]
        assert counts == [[5], [7]]
        assert [metric.name for metric in collector.metrics[1]] == [
            "gen_ai.client.operation.duration", "gen_ai.client.token.usage", "gen_ai.server.request.duration",
        ]  # fmt: skip


async def test_a_collector_that_does_not_answer_is_left_after_a_time(
    open_gateway: Any, collector: OtlpCollector
) -> None:
    collector.delay_s = 0.2
    own = Collector(collector.url, {})
    result = await own.post("/v1/traces", gzip.compress(b""), 0.05)
    assert (result.fault, result.message) == ("timeout", "No complete answer in time")
    own.close()
    async with open_gateway() as gateway:
        gateway.serve(0, 1)
        await gateway.exporter.close()
        assert numbers(collector) == [0]


async def test_a_defect_is_logged_once_and_tried_again(open_gateway: Any, collector: OtlpCollector) -> None:
    async with open_gateway() as gateway:
        gateway.serve(0, 1)
        (gateway.journal.root.parent / "feed.new").mkdir()  # the positions cannot be written
        exporting = asyncio.create_task(gateway.exporter.run())
        while not gateway.heard.events:  # noqa: ASYNC110 - what it waits for happens in a thread
            await asyncio.sleep(0.005)
        exporting.cancel()
        with suppress(asyncio.CancelledError):
            await exporting
        assert gateway.heard.names() == ["telemetry cannot be exported: it waits in the journal"]
        assert gateway.families()["llm_gateway_otlp_up"] == {(): 0.0}
        assert numbers(collector) == [0]


async def test_a_journal_that_cannot_be_read_stops_neither_records_nor_metrics(
    open_gateway: Any, collector: OtlpCollector, tmp_path: Path
) -> None:
    async with open_gateway(signals=frozenset({"traces", "metrics"})) as gateway:
        segment = JournalDir(tmp_path / "journal" / ".kept-ended").segment(1)
        segment.parent.mkdir()
        segment.symlink_to(segment)
        for number in range(2):
            gateway.serve(number, number + 1)
            assert await gateway.exporter.step() == 1.0
            gateway.now += 60
            assert await gateway.exporter.step() == 1.0
        assert (numbers(collector), len(collector.metrics)) == ([0, 1], 2)
        assert gateway.heard.names() == [UNREADABLE]
        assert str(segment) in gateway.heard.events[0][1]["reason"]
        assert gateway.families()["llm_gateway_otlp_up"] == {(): 0.0}
        segment.unlink()
        await gateway.exporter.step()
        assert gateway.heard.names() == [UNREADABLE, READABLE]
        assert gateway.families()["llm_gateway_otlp_up"] == {(): 1.0}


def answer(status: int, body: bytes = b"", **fields: Any) -> CollectorResult:
    return CollectorResult(status=status, body=body, **fields)


PARTIAL = b"\x0a\x0f\x08\x03\x12\x0bno such key"


@each_row(
    ("result", "kind", "rejected", "reason"),
    [
        (answer(200), "accepted", 0, ""),
        (answer(202), "accepted", 0, ""),
        (answer(200, b"{}"), "accepted", 0, ""),
        (answer(200, b"\x0a\x00"), "accepted", 0, ""),
        (answer(200, b"\x0a\x02\x08\x63"), "accepted", 0, ""),  # more than were sent
        (answer(200, PARTIAL), "rejected", 3, "3 of 10 are not taken (no such key)"),
        (answer(200, b"<html>", is_page=True), "rejected", 10, "a page for browsers, status 200: no collector is th"),
        (answer(404, b"<html>", is_page=True), "rejected", 10, "a page for browsers, status 404: no collector is th"),
        (answer(302), "rejected", 10, "status 302: nothing takes traces there; correct LLM_GATEWAY_OTLP_ENDPOINT"),
        (answer(400, STATUS), "rejected", 10, "status 400 (no room for this): see the collector's log"),
        (answer(401), "rejected", 10, "status 401: set LLM_GATEWAY_OTLP_HEADERS"),
        (answer(403), "rejected", 10, "status 403: set LLM_GATEWAY_OTLP_HEADERS"),
        (answer(404), "rejected", 10, "status 404: nothing takes traces there"),
        (answer(413), "rejected", 10, "status 413: see the collector's log"),
        (answer(500, b"\xff" * 5000), "rejected", 10, "status 500 (\ufffd"),
        (answer(408), "rejected", 10, "status 408: "),
        (answer(429, STATUS), "waits", 0, "status 429 (no room for this)"),
        (answer(502), "waits", 0, "status 502"),
        (answer(503), "waits", 0, "status 503"),
        (answer(503, b"<html>", is_page=True), "waits", 0, "status 503"),
        (answer(504), "waits", 0, "status 504"),
        (answer(0, fault="timeout", message="No complete answer in time"), "waits", 0, "No complete answer in time: "),
    ],
)
def test_answers_are_judged_by_the_rules_of_otlp(
    result: CollectorResult, kind: str, rejected: int, reason: str
) -> None:
    signal: Signal = "traces"
    verdict = judge(result, signal, 10)
    assert (verdict.kind, verdict.rejected) == (kind, rejected)
    assert verdict.reason.startswith(reason)
    assert len(verdict.reason) < 400
    assert bool(reason) == bool(verdict.reason)


@pytest.mark.parametrize(("wait_s", "pause_s"), [(0.0, 1.0), (30.0, 30.0), (10**9, LONGEST_WAIT_S)])
async def test_the_wait_that_a_collector_demands_is_bounded(
    open_gateway: Any, collector: OtlpCollector, wait_s: float, pause_s: float
) -> None:
    async with open_gateway() as gateway:
        gateway.serve(0, 1)
        collector.answers = [(503, {"retry-after": str(int(wait_s))}, b"")]
        assert await gateway.exporter.step() == pause_s
