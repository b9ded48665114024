"""A client that leaves between two tries of its request ends it, though no connection is there to be closed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from llm_gateway.forwarding.control_socket import ControlSocket
from llm_gateway.forwarding.forwarder import Forwarder
from llm_gateway.gate.request_context import NOBODY, REQUEST_CONTEXT, RequestContext
from tests.forwarding.test_reuse import OK, raw_control

UNFINISHED = OK.removesuffix(b"ok")


class LeftSocket(ControlSocket):
    """The socket's address; once it has made as many connections as `left_at`, the client has left."""

    def __init__(self, data_dir: Path, left_at: int) -> None:
        super().__init__(data_dir)
        self.left = asyncio.Event()
        self._left_at = left_at

    def connect(self) -> Any:
        self._left_at -= 1
        if not self._left_at:
            self.left.set()
        return super().connect()


async def test_a_client_that_leaves_before_the_second_try_ends_its_request(tmp_path: Path) -> None:
    sent: list[Any] = []

    async def ask(forwarder: Forwarder, left: asyncio.Event) -> None:
        context = RequestContext(NOBODY, "id", None, b"id", {b"host": b"a"}, lambda *_, **__: None)
        scope = {"type": "http", "method": "GET", "path": "/x", "raw_path": b"/x", "query_string": b"",
                 "headers": [(b"host", b"a")], REQUEST_CONTEXT: context}  # fmt: skip

        async def receive() -> dict[str, Any]:
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        await forwarder(scope, receive, send)

    async with raw_control(tmp_path, lambda number: {1: OK, 2: b""}.get(number, UNFINISHED)) as raw:
        address = LeftSocket(tmp_path, left_at=2)
        forwarder = Forwarder(address, is_alive=lambda: True, log=lambda *_, **__: None)
        await ask(forwarder, asyncio.Event())
        sent.clear()
        async with asyncio.timeout(2):
            await ask(forwarder, address.left)  # over the kept connection, which closes, then over a new one
        assert raw.requests == [b"GET", b"GET"]
        assert sent == []
        forwarder.close()
        address.close()
