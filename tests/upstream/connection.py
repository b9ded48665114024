"""One HTTP connection to the mock vendor: parse requests with httptools, and write the responses."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import TYPE_CHECKING, cast

import httptools

from tests.upstream import answers

if TYPE_CHECKING:
    from tests.upstream.server import MockUpstream

_NO_LINGER = struct.pack("ii", 1, 0)


class VendorConnection(asyncio.Protocol):
    """A connection that passes one request at a time to `MockUpstream.received`."""

    def __init__(self, server: MockUpstream) -> None:
        self.transport: asyncio.Transport = cast("asyncio.Transport", None)  # set before anything else is called
        self.path = b""
        self.key = ""
        self.waits = False
        """Whether a call on it waits for its answer."""
        self.gone: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._keep_alive = True
        self._server = server
        self._parser = httptools.HttpRequestParser(self)
        self._body: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        if not self.gone.done():
            self.gone.set_result(None)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.transport.write(answers.refusal(400, None))
            self.transport.close()

    # called by the parser

    def on_message_begin(self) -> None:
        self.path = b""
        self.key = ""
        self._body = []

    def on_url(self, url: bytes) -> None:
        self.path += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if len(name) == 13 and name.lower() == b"authorization":
            self.key = value.decode("latin-1").removeprefix("Bearer ")

    def on_body(self, body: bytes) -> None:
        self._body.append(body)

    def on_message_complete(self) -> None:
        self._keep_alive = self._parser.should_keep_alive()
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        self._server.received(self, body)

    # called by the server

    def send(self, data: bytes) -> None:
        """Write a whole response, and close the connection if the client requested that."""
        self.transport.write(data)
        if not self._keep_alive:
            self.transport.close()

    def send_and_close(self, data: bytes) -> None:
        self.transport.write(data)
        self.transport.close()

    def reset(self) -> None:
        """End the connection with a TCP reset."""
        raw = self.transport.get_extra_info("socket")
        if raw is not None:
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.transport.abort()
