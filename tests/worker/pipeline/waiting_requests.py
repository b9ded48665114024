"""A gateway in virtual time, whose requests wait at a rate limit."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any

from llm_gateway.domain.upstream_call import UpstreamResult
from llm_gateway.errors import GatewayError
from tests.virtual_time import run_virtually
from tests.worker.pipeline.fakes import answer, plan, request
from tests.worker.pipeline.simulation import SimulatedGateway, Vendor


class Scripted(Vendor):
    """A vendor that takes `latency_s` for an answer, and follows a script first."""

    def __init__(self, latency_s: float = 0.0) -> None:
        super().__init__(random.Random(1))
        self.latency_s = latency_s
        self.script: list[UpstreamResult] = []
        self.called_at: list[float] = []
        self.on_answer: Callable[[], object] | None = None
        """Called in the turn of the event loop after the first answer."""

    async def call(self) -> UpstreamResult:
        self.called_at.append(asyncio.get_running_loop().time())
        if self.script:
            return self.script.pop(0)
        await asyncio.sleep(self.latency_s)
        if self.on_answer is not None:
            asyncio.get_running_loop().call_soon(self.on_answer)
            self.on_answer = None
        return answer(usage={"prompt_tokens": 1, "completion_tokens": 1})


def gateway(vendor: Vendor | None = None, **limits: Any) -> SimulatedGateway:
    return SimulatedGateway(vendor or Scripted(), random.Random(1), **limits)


async def ask(gateway: SimulatedGateway, customer: str = "a", **changes: Any) -> int | GatewayError:
    """Send one request. Returns how long it waited in line, in milliseconds, or the error."""
    now = asyncio.get_running_loop().time()
    asked = request(**{"user_id": customer, "started": now, "deadline": now + 30, "max_tokens": 100, **changes})
    try:
        served = await gateway.failover.run(asked, plan([gateway.provider]), gateway.recorder.start(asked))
    except GatewayError as error:
        return error
    return served.queued_ms


async def fill(gateway: SimulatedGateway, places: int, seconds_ago: float) -> None:
    """Let the customer `a` use up places; the first of them is free in 61 s less `seconds_ago`."""
    for _ in range(places):
        assert await ask(gateway) == 0
    await asyncio.sleep(seconds_ago)


def assert_clean(gateway: SimulatedGateway) -> None:
    """Assert that nothing of the requests that waited is left."""
    lines = gateway.lines
    assert lines.count == 0
    for of_provider in lines._providers.values():
        assert (of_provider.count, of_provider.lines, of_provider.holder, of_provider.timer) == (0, {}, None, None)
    assert gateway.limiter._watchers == {}
    assert len(asyncio.all_tasks()) == 1


def virtually(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """Run a test in virtual time."""

    @wraps(test)
    def run(*arguments: Any) -> None:
        run_virtually(test(*arguments))

    return run
