"""Clients that do what clients should not, beside a load: invalid requests, early leaves, huge bodies, slow reading."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections import Counter
from collections.abc import Awaitable, Callable

import msgspec

from benchmarks.targets import KEY, MODEL

FLAKY = "flaky-7+status-500"
HUGE = "huge"
"""Model of the mock whose answer has 10 MB."""
PAUSE_S = 0.05
PATIENCE_S = 60.0
LARGE_BYTES = 32 * 2**20 - 4096
LARGE_CLIENTS = 2
"""Clients that send large bodies at once: half of what the gateway takes in flight."""
SLOW_CLIENTS = 4
SLOW_BYTES, SLOW_S = 64 * 1024, 0.05
"""Bytes that a slow client reads before each pause: it takes some eight seconds to read a huge answer."""
LEAVING = "left early"
SMALL, LARGE = (
    {"flaky provider": 200, "stream": 200, "unknown model": 404, "no JSON": 422},
    {"body of 32 MiB": 200, "answer of 10 MB read slowly": 200},
)
"""Kinds of requests, with a status that some of them must get."""
FLAKY_PROVIDER, STREAM, UNKNOWN_MODEL, NO_JSON = SMALL
LARGE_BODY, SLOW_ANSWER = LARGE


def _request(path: str, body: bytes) -> bytes:
    head = f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\nx-service-key: {KEY}\r\ncontent-length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _chat(model: str, text: str, *, stream: bool = False) -> bytes:
    body = {"model": model, "messages": [{"role": "user", "content": text}], "max_tokens": 50, "stream": stream}
    return _request("/v1/chat/completions", msgspec.json.encode(body))


class Mischief:
    """A thread with the clients, within the block. `answers` counts the responses by what was sent and the status."""

    def __init__(self, port: int, *, large: bool) -> None:
        self.answers: Counter[str] = Counter()
        self._expected = SMALL | LARGE if large else SMALL
        self._port = port
        self._number = 0
        self._clients: list[Callable[[], Awaitable[None]]] = [self._send_small]
        if large:
            self._clients += [self._send_large] * LARGE_CLIENTS + [self._read_slowly] * SLOW_CLIENTS
        self._ended = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))

    def __enter__(self) -> Mischief:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def failures(self) -> list[str]:
        """Return the kinds of requests of which none got what it must get: that load was not there."""
        lacking = [f"{kind}: {status}" for kind, status in self._expected.items()]
        return [f"no answer {answer}" for answer in lacking if not self.answers[answer]]

    async def _run(self) -> None:
        await asyncio.gather(*map(self._repeat, self._clients))

    async def _repeat(self, client: Callable[[], Awaitable[None]]) -> None:
        while not self._ended.is_set():
            self._number += 1
            try:
                await asyncio.wait_for(client(), PATIENCE_S)
            except (OSError, asyncio.IncompleteReadError) as error:
                self.answers[f"{client.__name__.strip('_')}: {type(error).__name__}"] += 1
            await asyncio.sleep(PAUSE_S)

    async def _send_small(self) -> None:
        number = self._number
        kinds = (
            (FLAKY_PROVIDER, _chat(FLAKY, f"fails sometimes {number}")),
            (STREAM, _chat(MODEL, f"a stream {number}", stream=True)),
            (UNKNOWN_MODEL, _chat("no-such-model", "refused")),
            (NO_JSON, _request("/api/v1/generate", b"{not JSON")),
            (LEAVING, _chat(MODEL, f"left early {number}", stream=True)),
        )
        await self._ask(*kinds[number % len(kinds)])

    async def _send_large(self) -> None:
        await self._ask(LARGE_BODY, _chat(MODEL, f"{self._number}" + "x" * LARGE_BYTES))

    async def _read_slowly(self) -> None:
        await self._ask(SLOW_ANSWER, _chat(HUGE, f"slowly {self._number}"), pause_s=SLOW_S)

    async def _ask(self, kind: str, request: bytes, pause_s: float = 0.0) -> None:
        """Send a request, and read the head of its response and what follows for as long as there is more."""
        with socket.socket() as sock:
            if pause_s:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SLOW_BYTES)
            sock.setblocking(False)
            await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self._port))
            reader, writer = await asyncio.open_connection(sock=sock)
            with contextlib.closing(writer):
                writer.write(request)
                await writer.drain()
                if kind == LEAVING:
                    self.answers[kind] += 1
                    return
                head = await reader.readuntil(b"\r\n\r\n")
                await _read_body(reader, head.lower(), pause_s)
                self.answers[f"{kind}: {head[9:12].decode()}"] += 1


async def _read_body(reader: asyncio.StreamReader, head: bytes, pause_s: float) -> None:
    _, found, length = head.partition(b"content-length: ")
    if not found:
        await reader.readuntil(b"\r\n0\r\n\r\n")  # a short stream
        return
    missing = int(length.split(b"\r\n")[0])
    while missing:
        missing -= len(await reader.readexactly(min(missing, SLOW_BYTES)))
        if pause_s:
            await asyncio.sleep(pause_s)
