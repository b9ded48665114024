"""Streams whose clients disconnect or read too slowly: all are recorded, nothing leaks, and buffers stay small."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from llm_gateway.domain.token_estimate import equivalent_length_of
from tests.e2e.process import GatewayProcess
from tests.e2e.streaming_vendor import BEGIN, DONE, Pause, Step, StreamingVendor, delta, finish, usage
from tests.faults.client import http_request
from tests.faults.conftest import Note
from tests.faults.ledger import PRICES
from tests.faults.scene import Scene
from tests.faults.test_disconnects import metric, none_in_flight, open_files, threads

PATH = "/v1/chat/completions"
LEAVERS_QUICK, LEAVERS_LONG = 400, 1_000
AT_ONCE = 25
MAX_TOKENS = 10
FEW = 12
WORDS = [delta(content=word) for word in ("one ", "two ", "three ")]
STEPS: list[Step] = [BEGIN, *WORDS, Pause(0.03), *WORDS, Pause(0.03), *WORDS, finish(), usage(11, 7), DONE]
BIG = delta(content="x" * 10_000)
MEGABYTE = 1024 * 1024
STALLED_S = 30.0


@pytest.fixture
def streamer() -> Iterator[StreamingVendor]:
    with StreamingVendor() as running:
        running.steps = STEPS
        yield running


def asked(content: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": content}]
    return {"model": "auto", "stream": True, "max_tokens": MAX_TOKENS, "messages": messages}


def request(content: str) -> bytes:
    return http_request("POST", PATH, msgspec.json.encode(asked(content)), cache_control="no-store")


def files(gateway: GatewayProcess, streamer: StreamingVendor) -> int:
    """Return the number of the gateway's open files, without its connections to the vendor."""
    return open_files(gateway) - len(streamer.open)


def resident(gateway: GatewayProcess) -> int:
    """Return the resident memory of the gateway's workers in bytes."""
    status = [Path(f"/proc/{pid}/status").read_text() for pid in gateway.worker_pids]
    lines = [line for text in status for line in text.splitlines() if line.startswith("VmRSS:")]
    assert len(lines) == len(status)
    return sum(int(line.split()[1]) * 1024 for line in lines)


async def leave(gateway: GatewayProcess, number: int, slots: asyncio.Semaphore) -> bool:
    """Request a stream and disconnect at a random point. Returns True if the whole request was sent, and not reset."""
    data = request(f"Count {number}")
    upto = random.choice((random.randrange(len(data)), len(data), len(data), len(data)))
    async with slots:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(data[:upto])
        for wanted in (b"200 OK", b"one", b"three", b"[DONE]")[: random.randrange(5) if upto == len(data) else 0]:
            await reader.readuntil(wanted)
        await asyncio.sleep(random.choice((0.0, random.uniform(0, 0.1))))
        is_reset = random.random() < 0.5
        if is_reset:
            writer.transport.abort()
        else:
            writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    return upto == len(data) and not is_reset


async def all_leave(gateway: GatewayProcess, count: int) -> int:
    """Let `count` clients disconnect. Returns the number of requests that the gateway must have read."""
    slots = asyncio.Semaphore(AT_ONCE)
    heard = sum(await asyncio.gather(*(leave(gateway, number, slots) for number in range(count))))
    await asyncio.sleep(0.3)
    await none_in_flight(gateway)
    return heard


async def fits(gateway: GatewayProcess, provider: str, used: int) -> None:
    """Check that the limiter counts exactly `used` tokens: one more request fits exactly."""
    needed = equivalent_length_of(asked("The last"), ("messages",)) // 4 + 8 + MAX_TOKENS
    for limit, expected in ((used + needed - 1, 429), (used + needed, 200)):
        patched = await asyncio.to_thread(gateway.call, "PATCH", provider, {"rate_limit_tpm": limit})
        assert patched.status == 200
        answer = await asyncio.to_thread(gateway.call, "POST", PATH, asked("The last"), cache_control="no-store")
        assert answer.status == expected, (limit, answer)


@pytest.mark.fault(
    "clients of streams disconnect at random points", "before, in and after the answer, closed or reset; both policies"
)
@pytest.mark.parametrize("policy", ["drain", "abort"])
async def test_streams_of_disconnected_clients_are_recorded_and_leak_nothing(
    scene: Scene, streamer: StreamingVendor, note: Note, long: bool, policy: str
) -> None:
    leavers = LEAVERS_LONG if long else LEAVERS_QUICK
    began = time.monotonic()
    with scene.gateway(on_disconnect=policy) as gateway:
        provider = gateway.provider("streamer", streamer.url, "streamer-1", prices={"streamer-1": PRICES})
        heard = await all_leave(gateway, AT_ONCE * 2)
        before, threads_before, tasks_before = (
            files(gateway, streamer),
            threads(gateway),
            metric(gateway, "llm_gateway_tasks"),
        )
        heard += await all_leave(gateway, leavers)
        tasks = metric(gateway, "llm_gateway_tasks")
        ledger = await asyncio.to_thread(scene.books, gateway)
        calls = len(streamer.calls)
        outcomes = {outcome: ledger.count(outcome) for outcome in ("ok", "cancelled")}
        assert len(ledger.rows) == sum(outcomes.values())
        assert heard <= len(ledger.rows) <= leavers + AT_ONCE * 2
        assert len(ledger.rows) >= calls
        if policy == "drain":
            # What was sent is read to its end; the others' clients left before.
            assert ledger.check_unsent() == outcomes["cancelled"]
            assert outcomes["ok"] == calls
        else:
            assert outcomes["cancelled"] > leavers // 10
        assert tasks <= tasks_before + 2
        assert files(gateway, streamer) <= before + FEW
        assert len(streamer.open) <= 4 * AT_ONCE
        assert threads(gateway) <= threads_before + FEW
        used = sum(attempt.limit_tokens for row in ledger.rows for attempt in row.sent)
        await fits(gateway, provider, used)
        assert time.monotonic() - began < 60, "too slow a machine: the first calls left the limit's window"
    note(
        f"{leavers} left, {outcomes['ok']} read to their end, {outcomes['cancelled']} broken off; "
        f"{len(ledger.rows)} records for {calls} calls; tasks {tasks_before:.0f} before, {tasks:.0f} "
        f"after; {used} tokens reserved, as recorded; 0 in flight"
    )


@pytest.mark.fault("a client that reads a stream too slowly", "60 MB are answered; it stops reading, then reads on")
async def test_a_slow_reader_slows_the_vendor_down_and_gets_everything(
    scene: Scene, streamer: StreamingVendor, note: Note
) -> None:
    streamer.steps = [BEGIN, *[BIG] * 6_000, finish(), usage(11, 7), DONE]
    total = sum(len(step) for step in streamer.steps if isinstance(step, bytes))
    with scene.gateway() as gateway:
        gateway.provider("streamer", streamer.url, "streamer-1", prices={"streamer-1": PRICES})
        await asyncio.to_thread(gateway.call, "POST", PATH, {**asked("Warm"), "stream": False})
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=65536)
        before = resident(gateway)
        writer.write(request("Count"))
        await reader.readuntil(b"200 OK")
        streamer.said = 0
        await asyncio.sleep(2)
        said, grown = streamer.said, resident(gateway) - before
        assert said < total / 2, "the vendor is not slowed down"
        data = b"".join([piece async for piece in pieces(reader)])
        writer.close()
        await writer.wait_closed()
        ledger = await asyncio.to_thread(scene.books, gateway)
    assert data.count(BIG.strip()) == 6_000
    assert data.endswith(DONE + b"\r\n0\r\n\r\n")
    assert ledger.rows[-1].outcome == "ok"
    assert grown < 16 * MEGABYTE + said  # the text of the answer is collected, since its tokens are counted
    note(f"{said / MEGABYTE:.1f} of {total / MEGABYTE:.0f} MB had left the vendor when it waited; then all came")


async def pieces(reader: asyncio.StreamReader) -> Any:
    """Yield the pieces of the chunked body until its end."""
    tail = b""
    while not tail.endswith(b"\r\n0\r\n\r\n"):
        piece = await reader.read(MEGABYTE)
        assert piece
        tail = (tail + piece)[-7:]
        yield piece


@pytest.mark.fault("a client of a stream that reads nothing any more", "its connection stays open for good")
async def test_a_client_that_stops_reading_is_given_up_and_its_stream_read_to_the_end(
    scene: Scene, streamer: StreamingVendor, note: Note, long: bool
) -> None:
    if not long:
        pytest.skip("it takes 30 seconds: make faults")
    streamer.steps = [BEGIN, *[BIG] * 3_000, finish(), usage(11, 7), DONE]
    with scene.gateway() as gateway:
        gateway.provider("streamer", streamer.url, "streamer-1", prices={"streamer-1": PRICES})
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port, limit=65536)
        began = time.monotonic()
        writer.write(request("Count"))
        await reader.readuntil(b"200 OK")
        async with asyncio.timeout(STALLED_S + 15):
            while metric(gateway, "llm_gateway_requests_in_flight"):  # noqa: ASYNC110 - another process must be polled
                await asyncio.sleep(0.2)
        took = time.monotonic() - began
        ledger = await asyncio.to_thread(scene.books, gateway)
        writer.close()
    assert took > STALLED_S - 2
    assert (ledger.rows[-1].outcome, ledger.rows[-1].cost_status) == ("ok", "exact")
    note(f"given up after {took:.0f} s, and read to its end, since it is paid for")
