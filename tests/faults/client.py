"""Raw HTTP/1.1 clients for the fault tests, which know exactly what they sent and read."""

from __future__ import annotations

import asyncio
import itertools
import random
import socket
import struct
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec

from tests.e2e.process import KEY

PATH = "/api/v1/generate"
BROKEN = (OSError, asyncio.IncompleteReadError)
"""Errors of a connection that ends in the middle of an answer or cannot be opened."""
RECONNECT_S = 0.01
_NO_LINGER = struct.pack("ii", 1, 0)


class Answer(msgspec.Struct):
    """A response that was read to its last byte."""

    status: int
    headers: dict[str, str]
    body: bytes
    marker: str = ""
    seconds: float = 0.0

    @property
    def id(self) -> str:
        """The id of the request and of its usage record."""
        return self.headers["x-request-id"]

    @property
    def json(self) -> Any:
        """The decoded JSON body."""
        return msgspec.json.decode(self.body)

    @property
    def code(self) -> str:
        """The error code in the body."""
        code: str = self.json["code"]
        return code


def generate_body(marker: str, customer: str, **fields: object) -> bytes:
    """Return the body of a request whose prompt contains `marker`, by which the mock recognises it."""
    body = {"user_id": customer, "service": "faults", "prompt": f"Hello marker:{marker}", "max_tokens": 100, **fields}
    return msgspec.json.encode(body)


def http_request(method: str, path: str, body: bytes = b"", **headers: str) -> bytes:
    """Return the bytes of an HTTP request."""
    lines = [f"{method} {path} HTTP/1.1", "host: localhost", f"x-service-key: {KEY}", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Client:
    """A client with one persistent connection at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    async def connect(self) -> asyncio.StreamWriter:
        """Connect if there is no open connection.

        Raises:
            OSError: the connection is refused.
        """
        if self._writer is None or self._reader is None or self._reader.at_eof():
            self.close()
            self._reader, self._writer = await asyncio.open_connection("127.0.0.1", self._port)
        return self._writer

    async def send(self, data: bytes) -> None:
        """Connect if necessary, and write bytes as they are."""
        writer = await self.connect()
        writer.write(data)
        await writer.drain()

    async def read(self) -> Answer:
        """Read the next answer.

        Raises:
            OSError, IncompleteReadError: the connection ended before the answer did.
        """
        assert self._reader is not None
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        pairs = [line.partition(":") for line in head[1:] if line]
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        body = await self._reader.readexactly(int(headers.get("content-length", 0)))
        if headers.get("connection") == "close":
            self.close()
        return Answer(int(head[0].split()[1]), headers, body)

    async def generate(
        self, marker: str, customer: str, headers: dict[str, str] | None = None, **fields: Any
    ) -> Answer:
        """POST to /api/v1/generate and read the whole answer."""
        started = asyncio.get_running_loop().time()
        await self.send(http_request("POST", PATH, generate_body(marker, customer, **fields), **(headers or {})))
        answer = await self.read()
        answer.marker = marker
        answer.seconds = asyncio.get_running_loop().time() - started
        return answer

    def reset(self) -> None:
        """End the connection with a TCP reset."""
        if self._writer is not None:
            raw: socket.socket = self._writer.get_extra_info("socket")
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.close()

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        self._reader = self._writer = None


class Load:
    """Clients that send requests without a pause, each with its own prompt, until `stop` or the gateway's end.

    With `reconnects` a client whose connection breaks or is refused connects again, until `stop`. `sent` counts the
    requests by customer; `answers` holds the complete answers, `broken` the interrupted ones. A client waits for
    `rest_s` seconds after an answer that is no success.
    """

    def __init__(self, *, clients: int = 16, customers: int = 5, name: str = "load", reconnects: bool = False) -> None:
        self.sent: Counter[str] = Counter()
        self.answers: list[Answer] = []
        self.broken: list[str] = []
        self.name = name
        self._clients = clients
        self._reconnects = reconnects
        self._customers = [f"{name}-customer-{n}" for n in range(customers)]
        self._numbers = itertools.count()
        self._stopped = False
        self._tasks: list[asyncio.Task[None]] = []
        self.fields: Callable[[], dict[str, Any]] = dict
        self.headers: dict[str, str] = {}
        self.rest_s = 0.0

    @property
    def statuses(self) -> Counter[int]:
        return Counter(answer.status for answer in self.answers)

    def start(self, port: int) -> None:
        """Start the clients; again for a gateway that was restarted."""
        self._stopped = False
        self._tasks = [asyncio.create_task(self._run(port)) for _ in range(self._clients)]

    def stop(self) -> None:
        """Send no new requests; answers of those in flight are still read."""
        self._stopped = True

    async def done(self) -> None:
        """Wait until all clients have ended."""
        await asyncio.gather(*self._tasks)

    async def _run(self, port: int) -> None:
        client = Client(port)
        while not self._stopped:
            try:
                await client.connect()
            except OSError:
                if not self._reconnects:
                    break
                await asyncio.sleep(RECONNECT_S)
                continue
            customer = random.choice(self._customers)
            marker = f"{customer}.{next(self._numbers)}"
            self.sent[customer] += 1
            try:
                answer = await client.generate(marker, customer, self.headers, **self.fields())
                self.answers.append(answer)
                if self.rest_s and answer.status != 200:
                    await asyncio.sleep(self.rest_s)
            except BROKEN as error:
                self.broken.append(f"{marker}: {error!r}")
                client.close()
                if not self._reconnects:
                    break
        client.close()
