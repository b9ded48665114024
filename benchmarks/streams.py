"""Measure the CPU time per streamed chunk: the gateway relays paced streams, beside a plain nginx in the same run."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import msgspec
import uvloop

from benchmarks.budget import Row
from benchmarks.findings import Figure
from benchmarks.machine import Cores, ProcessTree, facts
from benchmarks.report import budget_table, table, with_section
from benchmarks.targets import KEY, MODEL, Gateway, Nginx

RESULTS = Path(__file__).with_name("RESULTS.md")
TITLE = "What a streamed chunk costs"
MUST_RATIO, AIM_RATIO = 1.8, 1.1
USUAL_PAUSE_MS = 20
"""Milliseconds between two chunks for a request without `user`: not every gateway passes that on."""


class Shape(msgspec.Struct, frozen=True):
    """Load of `streams` concurrent streams, each of `chunks` chunks with `pause_ms` between them."""

    name: str
    path: str
    streams: int
    chunks: int
    pause_ms: float
    model: str = MODEL
    headers: str = f"x-api-key: {KEY}\r\n"


class Spell(msgspec.Struct, frozen=True):
    """Measurements of one load on one target."""

    name: str
    chunks: int
    cpu_us: float
    core: float
    resident_mb: float
    first_ms: float
    gap_p99_ms: float


MANY_STREAMS = Shape("200 streams, a chunk each 20 ms", "/v1/chat/completions", 200, 100, 20)

HEAD = (
    b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-accel-buffering: no\r\ntransfer-encoding: chunked\r\n\r\n"
)
NO_STREAM = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}"


def _framed(document: Any) -> bytes:
    data = b"data: " + (document if isinstance(document, bytes) else json.dumps(document).encode()) + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


def _chunk(delta: dict[str, str], finish: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
    return {
        "id": "chatcmpl-123456789012345678901234567890",
        "object": "chat.completion.chunk",
        "created": 1_700_000_000,
        "model": MODEL,
        "system_fingerprint": "fp_1234567890",
        "choices": [choice],
    }


WORD = _framed(_chunk({"content": " paragraph"}))
USAGE = {**_chunk({}), "choices": [], "usage": {"prompt_tokens": 20, "completion_tokens": 100, "total_tokens": 120}}
LAST = _framed(_chunk({}, "stop")) + _framed(USAGE) + _framed(b"[DONE]") + b"0\r\n\r\n"


class Vendor(asyncio.Protocol):
    """Mock vendor that streams as many chunks as the body's `max_tokens`, `user` milliseconds apart."""

    def __init__(self) -> None:
        self._waiting = b""
        self._left = 0
        self._pause_s = 0.0
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport (asyncio.Protocol)."""
        self._transport = transport  # type: ignore[assignment]

    def data_received(self, data: bytes) -> None:
        """Parse requests and start a stream for each (asyncio.Protocol)."""
        self._waiting += data
        head, found, body = self._waiting.partition(b"\r\n\r\n")
        if not found:
            return
        if head.startswith(b"GET"):
            self._waiting = b""
            self._transport.write(NO_STREAM)
            return
        try:
            asked = json.loads(body)
        except ValueError:
            return
        self._waiting = b""
        chunks = asked.get("max_tokens") or asked["max_completion_tokens"]
        self._left, self._pause_s = chunks, float(asked.get("user") or USUAL_PAUSE_MS) / 1000
        self._transport.write(HEAD)
        self._next()

    def _next(self) -> None:
        if self._transport.is_closing():
            return
        if not self._left:
            self._transport.write(LAST)
            return
        self._left -= 1
        self._transport.write(WORD)
        self._loop.call_later(self._pause_s, self._next)


class Client(asyncio.Protocol):
    """Client that reads streams one after the other, and notes the arrival times of chunks."""

    def __init__(self, request: bytes, load: Load) -> None:
        self._request = request
        self._load = load
        self._transport: asyncio.Transport
        self._asked_at = self._came_at = 0.0
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep the transport (asyncio.Protocol)."""
        self._transport = transport  # type: ignore[assignment]
        self._ask()

    def _ask(self) -> None:
        self._asked_at, self._came_at = perf_counter(), 0.0
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        """Note the arrival of chunks and start the next stream (asyncio.Protocol)."""
        now, load = perf_counter(), self._load
        words = data.count(b" paragraph")
        if words:
            load.chunks += words
            if self._came_at:
                load.gaps.append(now - self._came_at)
            else:
                load.firsts.append(now - self._asked_at)
            self._came_at = now
        self._tail = (self._tail + data)[-7:]
        if self._tail.endswith(b"\r\n0\r\n\r\n"):
            load.done += 1
            if load.is_over:
                self._transport.close()
            else:
                self._ask()


class Load:
    """Counts and times of all clients."""

    def __init__(self) -> None:
        self.chunks = self.done = 0
        self.gaps: list[float] = []
        self.firsts: list[float] = []
        self.is_over = False


def _request(port: int, shape: Shape) -> bytes:
    pause = str(shape.pause_ms)
    body = json.dumps(
        {
            "model": shape.model,
            "messages": [{"role": "user", "content": "Write."}],
            "max_tokens": shape.chunks,
            "stream": True,
            **({"metadata": {"user_id": pause}} if "messages" in shape.path else {"user": pause}),
        }
    ).encode()
    head = (
        f"POST {shape.path} HTTP/1.1\r\nhost: localhost:{port}\r\n{shape.headers}cache-control: no-store\r\n"
        f"content-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def stream_spell(port: int, shape: Shape, tree: ProcessTree, name: str, seconds: float) -> Spell:
    loop, load = asyncio.get_running_loop(), Load()
    request = _request(port, shape)
    for number in range(shape.streams):
        await loop.create_connection(lambda: Client(request, load), "127.0.0.1", port)
        if number % 10 == 9:
            await asyncio.sleep(0.002)
    await asyncio.sleep(1.0)
    load.gaps.clear()
    before, chunks, at = tree.cpu_seconds(), load.chunks, perf_counter()
    await asyncio.sleep(seconds)
    used, seen, took = tree.cpu_seconds() - before, load.chunks - chunks, perf_counter() - at
    resident = tree.resident_mb()
    load.is_over = True
    done = load.done
    while load.done < done + shape.streams and perf_counter() - at < seconds + 60:  # noqa: ASYNC110 - no event is set
        await asyncio.sleep(0.05)
    gaps = sorted(load.gaps) or [0.0]
    return Spell(
        name=name,
        chunks=seen,
        cpu_us=used / max(1, seen) * 1e6,
        core=used / took,
        resident_mb=resident,
        first_ms=median(load.firsts or [0.0]) * 1000,
        gap_p99_ms=gaps[int(len(gaps) * 0.99)] * 1000,
    )


async def _measure(folder: Path, cores: Cores, seconds: float) -> list[Spell]:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Vendor, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    chat = MANY_STREAMS
    messages = msgspec.structs.replace(chat, path="/v1/messages")
    many = msgspec.structs.replace(chat, streams=500)
    alone = Shape("1 stream", "/v1/chat/completions", 1, 5, 1)
    spells = []

    async def run(target: int, tree: ProcessTree, shape: Shape, name: str) -> None:
        spells.append(spell := await stream_spell(target, shape, tree, name, seconds))
        _say(f"{name}: {spell.cpu_us:.1f} µs a chunk, p99 gap {spell.gap_p99_ms:.0f} ms")

    nginx = await asyncio.to_thread(Nginx, folder / "nginx", port, cores)
    try:
        await run(nginx.port, nginx.tree, chat, f"nginx, {chat.name}")
    finally:
        nginx.stop()
    gateway = await asyncio.to_thread(Gateway, folder / "gateway", cores, {"LLM_GATEWAY_JOURNAL_FSYNC": "always"})
    try:
        await asyncio.to_thread(gateway.add_provider, f"http://127.0.0.1:{port}/v1")
        await run(gateway.port, gateway.tree, chat, f"passed through, {chat.name}")
        await run(gateway.port, gateway.tree, messages, f"translated, {messages.name}")
        await run(gateway.port, gateway.tree, many, f"passed through, {many.name.replace('200', '500')}")
        await run(port, gateway.tree, alone, "direct, 1 stream")
        await run(gateway.port, gateway.tree, alone, "passed through, 1 stream")
    finally:
        gateway.stop()
    server.close()
    return spells


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _single(value: float) -> Figure:
    return Figure(value, value, value)


def _text(spells: Sequence[Spell], known: Sequence[str]) -> str:
    nginx, native, translated, many, direct, through = spells
    rows = [
        Row("SSE relay, same protocol both sides", "µs CPU/chunk", 20, 12, _single(native.cpu_us), 1),
        Row("the same, to nginx", "×", MUST_RATIO, AIM_RATIO, _single(native.cpu_us / nginx.cpu_us), 1),
        Row("SSE relay, translated to Anthropic's events", "µs CPU/chunk", None, None, _single(translated.cpu_us), 1),
        Row(
            "time to first token added, 1 stream, p50", "ms", None, None, _single(through.first_ms - direct.first_ms), 2
        ),
        Row("500 streams at 20 ms a chunk: p99 gap", "ms", None, None, _single(many.gap_p99_ms), 1),
        Row("500 streams at 20 ms a chunk: resident memory", "MB", None, None, _single(many.resident_mb)),
    ]
    lines = [
        [s.name, f"{s.chunks:,}", f"{s.cpu_us:.1f}", f"{s.core:.0%}", f"{s.resident_mb:.0f}", f"{s.gap_p99_ms:.1f}"]
        for s in spells[:4]
    ]
    head = ["streams", "chunks", "CPU µs/chunk", "of its core", "resident MB", "p99 gap ms"]
    return "\n\n".join([budget_table(rows), table(head, lines), "\n".join(f"- {fact}" for fact in known)])


def main(arguments: Sequence[str]) -> int:
    """Measure and print the tables. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks streams", description=__doc__)
    parser.add_argument("--seconds", type=float, default=5.0, help="length of a window (default: 5)")
    parser.add_argument("--write", action="store_true", help=f"also write the tables to benchmarks/{RESULTS.name}")
    given = parser.parse_args(arguments)
    cores = Cores()
    cores.leave_measured()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        known = [*facts(folder), str(cores)]
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            spells = runner.run(_measure(folder, cores, given.seconds))
    command = " ".join(["python -m benchmarks", *sys.argv[1:]])
    text = _text(spells, [*known, f"{datetime.now(UTC):%Y-%m-%d}, `{command}`"])
    print(text)
    if given.write:
        kept = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
        RESULTS.write_text(with_section(kept, TITLE, text), encoding="utf-8")
    return 0 if all(spell.chunks for spell in spells) else 1
