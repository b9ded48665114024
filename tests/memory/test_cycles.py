"""No request leaves a reference cycle behind, however it ends, so its memory is freed without the garbage collector.

A cycle that holds a request's body lives until the collector examines its generation, perhaps minutes later: 150
refused requests of 4 MB filled a gigabyte.
"""

from __future__ import annotations

import asyncio
import gc
import json
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
import uvloop

from llm_gateway.server import Server, bind
from llm_gateway.settings import Settings
from tests.e2e.process import migrated_database
from tests.in_one_loop import GatewayInOneLoop
from tests.memory.endings import (
    COMPLETION,
    END,
    HEAD,
    HI,
    STALL_S,
    Answer,
    Provider,
    ask,
    delta,
    events,
    late,
    raw,
    refused,
    repeated,
    reset,
    settled,
    whole,
)  # fmt: skip

REFUSED = 400
"""Stands for every status from 400 on."""


@dataclass(frozen=True)
class Ending:
    """A way for a request to end: the provider's answer, the client's behaviour, and its status (0: it left before)."""

    answer: Answer
    status: int
    leave_after_s: float | None = None
    changes: dict[str, Any] = field(default_factory=dict)
    body: bytes | None = None


HASTE = {"x-request-timeout-ms": "250"}
"""Headers of requests that fail: the timeout leaves hardly time for a retry."""
STALLED = raw(b"", pause_s=STALL_S)
WHOLE = {
    "answered": Ending(whole(COMPLETION), 200),
    "provider's 500": Ending(refused(500), REFUSED),
    "provider's 400": Ending(refused(400), REFUSED),
    "provider's 401": Ending(refused(401), REFUSED),
    "provider's 429": Ending(refused(429), REFUSED),
    "closed": Ending(raw(b""), REFUSED),
    "reset": Ending(reset, REFUSED),
    "cut": Ending(raw(b"HTTP/1.1 200 OK\r\ncontent-length: 1000\r\n\r\n{"), REFUSED),
    "no HTTP": Ending(raw(b"NOT HTTP\r\n\r\n"), REFUSED),
    "no JSON": Ending(whole(b"{nope"), REFUSED),
    "compressed": Ending(raw(b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc"), REFUSED),
    "huge head": Ending(raw(b"HTTP/1.1 200 OK\r\na: " + b"x" * 600_000), REFUSED),
    "huge body": Ending(repeated(b"HTTP/1.1 200 OK\r\ncontent-length: 40000000\r\n\r\n", b" ", 34_000_000), REFUSED),
    "past the deadline": Ending(STALLED, REFUSED),
    "past the deadline after its head": Ending(
        raw(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n", pause_s=STALL_S), REFUSED
    ),
    "unknown model": Ending(whole(COMPLETION), REFUSED, changes={"model": "nope"}),
    "invalid field": Ending(whole(COMPLETION), REFUSED, changes={"messages": 3, "stream": "x"}),
    "malformed body": Ending(whole(COMPLETION), REFUSED, body=b"{nope"),
    "body too large": Ending(whole(COMPLETION), REFUSED, body=b" " * 5_000_000),
    "client gone at once": Ending(STALLED, 0, leave_after_s=0.0),
    "client gone while it waits": Ending(late(whole(COMPLETION), pause_s=0.3), 0, leave_after_s=0.1),
}
STREAMED = {
    **{name: ending for name, ending in WHOLE.items() if name != "answered"},
    "client gone while it waits": Ending(late(events(HI, *END), pause_s=0.3), 0, leave_after_s=0.1),
    "answered": Ending(events(HI, *END), 200),
    "answered in pieces": Ending(events(HI, *END, pause_s=0.02), 200),
    "cut before its content": Ending(events(ends=False), REFUSED),
    "ended before its content": Ending(events(), REFUSED),
    "error before its content": Ending(events(b'data: {"error":{"message":"x"}}\n\n'), REFUSED),
    "malformed before its content": Ending(events(b"data: {nope\n\n"), REFUSED),
    "cut in its middle": Ending(events(HI, HI, pause_s=0.02, ends=False), 200),
    "ended without its own end": Ending(events(HI, HI), 200),
    "malformed at once": Ending(events(HI, b"data: {nope\n\n"), 200),
    "malformed in its middle": Ending(events(HI, b"data: {nope\n\n", pause_s=0.02), 200),
    "error in its middle": Ending(events(HI, b'data: {"error":{"message":"x"}}\n\n', pause_s=0.02), 200),
    "huge event": Ending(events(HI, b"data: " + b"x" * 5_000_000, pause_s=0.02), 200),
    "no HTTP in its middle": Ending(raw(HEAD + b"5\r\ndata:\r\nnope\r\n"), REFUSED),
    "client gone in its middle": Ending(events(HI, *[delta("x")] * 8, *END, pause_s=0.04), 0, leave_after_s=0.15),
    "client gone, then cut": Ending(events(HI, *[delta("x")] * 8, pause_s=0.04, ends=False), 0, leave_after_s=0.15),
    "client gone, then malformed": Ending(
        events(HI, *[delta("x")] * 8, b"data: {nope\n\n", pause_s=0.04), 0, leave_after_s=0.15
    ),
}
TURNS = [{"role": "user", "content": "hello"}]
SURFACES: dict[str, dict[str, Any]] = {
    "/api/v1/generate": {"user_id": "u", "service": "s", "messages": TURNS},
    "/v1/chat/completions": {"messages": TURNS},
    "/v1/messages": {"messages": TURNS, "max_tokens": 9},
}
NOT_CACHED = {"cache-control": "no-store"}


class World(NamedTuple):
    """A gateway in this process, and the mock provider it calls."""

    port: int
    server: Server
    provider: Provider

    async def call(self, path: str, body: bytes, headers: dict[str, str], leave_after_s: float | None = None) -> int:
        """Send one request and wait until the gateway has finished with it. Returns the status."""
        status = await asyncio.to_thread(partial(ask, self.port, path, body, headers, leave_after_s=leave_after_s))
        await settled(lambda: not self.server.is_busy)
        return status

    async def add_providers(self, *names: str) -> None:
        """Create providers, and exclude what the management API made for its first request from later collections."""
        for name in names:
            await self._add_provider(name)
        settle_heap()

    async def _add_provider(self, name: str) -> None:
        fields = {"name": name, "display_name": name, "api_key": "k", "models": ["m"], "timeout_s": 5}
        fields["base_url"] = f"http://127.0.0.1:{self.provider.port}/v1"
        assert await self.call("/api/v1/providers", json.dumps(fields).encode(), {}) == 201


def provide_database(folder: Path) -> None:
    folder.mkdir()
    (folder / "gateway.db").write_bytes(migrated_database())


@asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    provide_database(folder)
    app = GatewayInOneLoop(Settings(data_dir=folder, local_model="false", log_level="error"))
    server = Server(app, accept_s=0, drain_s=1, on_stopping=app.stop_serving, log=app.log)
    provider = Provider()
    with app.log_writer, bind("127.0.0.1", 0) as sock:
        await server.start(sock)
        running = asyncio.create_task(server.run())
        settle_heap()
        try:
            yield World(sock.getsockname()[1], server, provider)
        finally:
            provider.close()
            server.stop(accepting=False)
            await running


@contextmanager
def no_collector() -> Iterator[None]:
    """Disable automatic garbage collection, and exclude all existing objects from later collections."""
    settle_heap()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def settle_heap() -> None:
    """Exclude all existing objects from later collections, which take as long as there are objects to examine."""
    gc.collect()
    gc.freeze()


def garbage() -> Counter[str]:
    """Collect garbage. Returns the types of the objects that only the collector could free."""
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        gc.collect()
        return Counter(type(found).__name__ for found in gc.garbage)
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.collect()


def test_a_reference_cycle_is_detected() -> None:
    with no_collector():
        circle: list[object] = []
        circle.append(circle)
        del circle

        assert garbage()["list"] == 1
        assert not garbage()


@pytest.mark.parametrize("path", SURFACES)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_no_end_of_a_chat_request_leaves_a_reference_cycle(path: str, stream: bool, tmp_path: Path) -> None:
    """Each ending runs twice, so that objects made once (a pool, a connection) are not counted."""

    async def run() -> dict[str, Counter[str]]:
        left: dict[str, Counter[str]] = {}
        endings = STREAMED if stream else WHOLE
        async with world(tmp_path / "data") as it:
            await it.add_providers(*(f"p{number}" for number in range(len(endings))))
            for number, (name, ending) in enumerate(endings.items()):
                fields = {**SURFACES[path], "model": f"p{number}/m", "stream": stream, **ending.changes}
                body = json.dumps(fields).encode() if ending.body is None else ending.body
                headers = NOT_CACHED | (HASTE if ending.status == REFUSED else {})
                it.provider.answer = ending.answer
                found = Counter[str]()
                for _ in range(2):
                    garbage()
                    status = await it.call(path, body, headers, ending.leave_after_s)
                    assert min(status, REFUSED) == ending.status, name
                    found = garbage()
                if found:
                    left[name] = found
        return left

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, no_collector():
        left = runner.run(run())
    assert left == {}


CONTENTS = {"contents": [{"parts": [{"text": "hi"}]}]}
OTHERS: dict[str, tuple[str, dict[str, Any] | bytes, dict[str, str]]] = {
    "no such path": ("/v1/nope", {}, {}),
    "no such path of the API": ("/api/v1/nope", {}, {}),
    "wrong key": ("/v1/chat/completions", {"model": "p/m", "messages": TURNS}, {"authorization": "Bearer nope"}),
    "wrong method": ("/v1/models", {}, {}),
    "wrong header": ("/v1/chat/completions", {"model": "p/m", "messages": TURNS}, {"x-request-timeout-ms": "soon"}),
    "invalid provider": ("/api/v1/providers", {"name": 3}, {}),
    "malformed provider": ("/api/v1/providers", b"{nope", {}),
    "provider too large": ("/api/v1/providers", b" " * 5_000_000, {}),
    "tokens counted": ("/v1/messages/count_tokens", {"model": "p/m", "messages": TURNS}, {}),
    "tokens of nothing": ("/v1/messages/count_tokens", {"model": "nope", "messages": 3}, {}),
    "embeddings refused": ("/v1/embeddings", {"model": "p/m", "input": "hi"}, HASTE),
    "response refused": ("/v1/responses", {"model": "p/m", "input": "hi"}, HASTE),
    "response streamed and cut": ("/v1/responses", {"model": "p/m", "input": "hi", "stream": True}, HASTE),
    "content refused": ("/v1beta/models/p/m:generateContent", CONTENTS, HASTE),
    "content of nothing": ("/v1beta/models/nope:generateContent", {"contents": 3}, {}),
    "content streamed and cut": ("/v1beta/models/p/m:streamGenerateContent?alt=sse", CONTENTS, HASTE),
    "content streamed into an array and cut": ("/v1beta/models/p/m:streamGenerateContent", CONTENTS, HASTE),
    "contents counted": ("/v1beta/models/p/m:countTokens", CONTENTS, {}),
    "content embedded": ("/v1beta/models/p/m:embedContent", {"content": {"parts": [{"text": "hi"}]}}, HASTE),
    "no such method": ("/v1beta/models/p/m:foo", CONTENTS, {}),
    "failed over": ("/v1/chat/completions", {"model": "m", "messages": TURNS}, NOT_CACHED),
    "failed over, streamed": ("/v1/chat/completions", {"model": "m", "messages": TURNS, "stream": True}, NOT_CACHED),
}
"""Requests that end elsewhere: at authentication, in the management API, in other APIs, after two failing providers."""


def test_no_end_of_any_other_request_leaves_a_reference_cycle(tmp_path: Path) -> None:
    async def run() -> dict[str, Counter[str]]:
        left: dict[str, Counter[str]] = {}
        async with world(tmp_path / "data") as it:
            await it.add_providers("p", "q")
            it.provider.answer = raw(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{")
            for name, (path, fields, headers) in OTHERS.items():
                body = fields if isinstance(fields, bytes) else json.dumps(fields).encode()
                found = Counter[str]()
                for _ in range(2):
                    garbage()
                    await it.call(path, body, headers)
                    found = garbage()
                if found:
                    left[name] = found
        return left

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, no_collector():
        left = runner.run(run())
    assert left == {}


@pytest.mark.parametrize("answer", [refused(400), raw(b""), STALLED], ids=["refused", "closed", "stalled"])
def test_identical_requests_that_share_a_failed_call_leave_no_reference_cycle(answer: Answer, tmp_path: Path) -> None:
    """Identical concurrent requests share one upstream call, and its error."""

    async def run() -> Counter[str]:
        async with world(tmp_path / "data") as it:
            await it.add_providers("p")
            body = json.dumps({**SURFACES["/api/v1/generate"], "model": "p/m"}).encode()
            it.provider.answer = answer
            found = Counter[str]()
            for _ in range(2):
                garbage()
                await asyncio.gather(*(it.call("/api/v1/generate", body, HASTE) for _ in range(6)))
                found = garbage()
            return found

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, no_collector():
        found = runner.run(run())
    assert not found


def test_cancelled_requests_leave_no_reference_cycle(tmp_path: Path) -> None:
    async def run() -> Counter[str]:
        async with world(tmp_path / "data") as it:
            await it.add_providers("p")
            it.provider.answer = events(HI, *[delta("x")] * 100, pause_s=0.1)
            calls = []
            garbage()
            for path, fields in SURFACES.items():
                for stream in (False, True):
                    body = json.dumps({**fields, "model": "p/m", "stream": stream}).encode()
                    calls.append(asyncio.create_task(it.call(path, body, NOT_CACHED)))
            await asyncio.sleep(0.5)
            for task in list(cast(Any, it.server)._shared.tasks):
                task.cancel()
            await asyncio.gather(*calls)
            calls.clear()
            return garbage()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, no_collector():
        found = runner.run(run())
    assert not found
