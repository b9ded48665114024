"""A mock provider on raw sockets that can end a call in many ways, and a raw HTTP client for the memory tests."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

TIMEOUT_S = 10.0
STALL_S = 0.4
"""Seconds a stalling provider waits: longer than the deadlines of the stalled calls."""

Answer = Callable[[socket.socket], bool]
"""Answer one call on a connection. Returns True if the connection stays open for another."""


def event(**fields: Any) -> bytes:
    document = {"id": "c", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [], **fields}
    return b"data: %b\n\n" % json.dumps(document).encode()


def delta(text: str, finish: str | None = None) -> bytes:
    return event(choices=[{"index": 0, "delta": {"content": text}, "finish_reason": finish}])


COUNTS = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}
CHOICE = {"index": 0, "message": {"role": "assistant", "content": "hi"}, "finish_reason": "stop"}
COMPLETION = json.dumps({"id": "c", "model": "m", "created": 1, "choices": [CHOICE], "usage": COUNTS}).encode()
HI, END = delta("hi"), [delta("", "stop"), event(usage=COUNTS), b"data: [DONE]\n\n"]
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def whole(body: bytes, status: int = 200, header: bytes = b"") -> Answer:
    """Return an answer that is a complete response."""
    head = b"HTTP/1.1 %d X\r\ncontent-type: application/json\r\n%bcontent-length: %d\r\n\r\n"
    return raw(head % (status, header, len(body)) + body, keep=True)


def refused(status: int) -> Answer:
    return whole(b'{"error":{"message":"no"}}', status, b"retry-after: 0\r\n" if status == 429 else b"")


def raw(data: bytes, *, keep: bool = False, pause_s: float = 0.0) -> Answer:
    """Return an answer that sends these bytes, and then closes the connection unless `keep`."""

    def answer(connection: socket.socket) -> bool:
        connection.sendall(data)
        time.sleep(pause_s)
        return keep

    return answer


def repeated(before: bytes, block: bytes, count: int) -> Answer:
    """Return an answer of many blocks, which are made when it is sent: every parallel worker makes all answers."""

    def answer(connection: socket.socket) -> bool:
        return raw(before + block * count)(connection)

    return answer


def late(answer: Answer, *, pause_s: float) -> Answer:
    """Return an answer that waits first."""

    def wait(connection: socket.socket) -> bool:
        time.sleep(pause_s)
        return answer(connection)

    return wait


def reset(connection: socket.socket) -> bool:
    """End the connection with a TCP reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return False


def events(*parts: bytes, pause_s: float = 0.0, ends: bool = True) -> Answer:
    """Return an answer that streams these events; without `ends` it closes the connection before the last chunk."""

    def answer(connection: socket.socket) -> bool:
        connection.sendall(HEAD)
        for part in parts:
            time.sleep(pause_s)
            connection.sendall(b"%x\r\n%b\r\n" % (len(part), part))
        if ends:
            connection.sendall(b"0\r\n\r\n")
        return ends

    return answer


class Provider:
    """A mock provider that answers each call with `answer`, over persistent connections."""

    def __init__(self) -> None:
        self.answer: Answer = whole(COMPLETION)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError), connection:
            while _request(connection) and self.answer(connection):
                pass


def _request(connection: socket.socket) -> bool:
    """Read one request. Returns False if the client closed the connection."""
    data = b""
    while b"\r\n\r\n" not in data:
        if not (more := connection.recv(65536)):
            return False
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    missing = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]) - len(body)
    while missing > 0:
        if not (more := connection.recv(1_000_000)):
            return False
        missing -= len(more)
    return True


@contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), TIMEOUT_S) as connection:
        yield connection


def ask(
    port: int,
    path: str,
    body: bytes,
    headers: dict[str, str],
    *,
    leave_after_s: float | None = None,
    method: str = "POST",
) -> int:
    """Send a request and read the whole answer. Returns its status.

    With `leave_after_s` the client resets its connection after that many seconds, without reading, and returns 0.
    """
    lines = [f"{method} {path} HTTP/1.1", "host: localhost", "x-service-key: dev-gateway-key", "connection: close"]
    lines += [f"content-length: {len(body)}", *(f"{name}: {value}" for name, value in headers.items())]
    with connected(port) as connection:
        connection.sendall("\r\n".join([*lines, "", ""]).encode() + body)
        if leave_after_s is not None:
            time.sleep(leave_after_s)
            reset(connection)
            return 0
        answer = b""
        while more := connection.recv(1_000_000):
            answer = (answer + more)[:12] if answer else more
        return int(answer[9:12])


async def settled(is_idle: Callable[[], bool]) -> None:
    """Wait until the gateway has no request in flight, and a moment longer for it to free the objects."""
    deadline = time.monotonic() + TIMEOUT_S
    while not is_idle():
        if time.monotonic() > deadline:
            raise TimeoutError("A request did not end.")
        await asyncio.sleep(0.005)
    await asyncio.sleep(0.02)
