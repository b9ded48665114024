"""No forwarded request leaves a reference cycle behind, however it ends, in the worker or in control."""

from __future__ import annotations

import asyncio
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import uvloop

from llm_gateway.forwarding.forwarder import ForwardLimits
from tests.forwarding.harness import Send, both, worker
from tests.memory.endings import ask, settled
from tests.memory.test_cycles import garbage, no_collector
from tests.server.harness import Message, answer, read_body

LIMITS = ForwardLimits(answer_s=0.4, silent_s=0.4)
LARGE = b"x" * 2_000_000


class Ending(NamedTuple):
    """A way for a forwarded request to end: where it goes, when the client leaves, and its status (0: it left)."""

    path: str
    status: int
    body: bytes = b"{}"
    leave_after_s: float | None = None


ENDINGS = {
    "answered": Ending("/answer", 200),
    "answered, with a large body": Ending("/answer", 200, LARGE),
    "answered before the body was read": Ending("/early", 413, LARGE),
    "defect of the application": Ending("/defect", 500),
    "too late": Ending("/never", 503),
    "cut in its middle": Ending("/cut", 200),
    "silent in its middle": Ending("/silent", 200),
    "client gone at once": Ending("/never", 0, leave_after_s=0.0),
    "client gone while it waits": Ending("/never", 0, leave_after_s=0.1),
    "client gone in its middle": Ending("/silent", 0, leave_after_s=0.1),
    "client gone, large body": Ending("/early", 0, LARGE, leave_after_s=0.1),
}


async def app(scope: Message, receive: Any, send: Send) -> None:
    if scope["path"] == "/early":
        await answer(send, b"enough", 413)
        return
    await read_body(receive)
    if scope["path"] == "/defect":
        raise ZeroDivisionError
    if scope["path"] == "/answer":
        await answer(send, b"ok")
        return
    if scope["path"] != "/never":
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"data", "more_body": True})
    if scope["path"] != "/cut":
        await receive()


async def left_by(port: int, forwarder: Any, ending: Ending, method: str) -> Counter[str]:
    """Make a request end like this, twice, so that objects made once are not counted. Returns what is left over."""
    found = Counter[str]()
    for _ in range(2):
        garbage()
        call = partial(ask, port, ending.path, ending.body, {}, leave_after_s=ending.leave_after_s, method=method)
        assert await asyncio.to_thread(call) == ending.status
        await settled(lambda: forwarder._count == 0)
        await asyncio.sleep(0.1)  # control's side ends after the worker's
        found = garbage()
    return found


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_no_end_of_a_forwarded_request_leaves_a_reference_cycle(tmp_path: Path, method: str) -> None:
    async def run() -> dict[str, Counter[str]]:
        async with both(tmp_path, app, LIMITS) as running:
            found = {
                name: await left_by(running.port, running.forwarder, ending, method) for name, ending in ENDINGS.items()
            }
            running.alive[0] = False
            found["no heartbeat"] = await left_by(running.port, running.forwarder, Ending("/answer", 503), method)
        async with worker(tmp_path, ForwardLimits(requests=0)) as running:
            found["at the limit"] = await left_by(running.port, running.forwarder, Ending("/answer", 503), method)
        async with worker(tmp_path) as running:
            found["nobody listens"] = await left_by(running.port, running.forwarder, Ending("/answer", 503), method)
        return {name: counts for name, counts in found.items() if counts}

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, no_collector():
        left = runner.run(run())
    assert left == {}
