"""Clients that disconnect wherever a request waits: no call is sent for them, and nothing is leaked or counted twice.

In virtual time, with the real pipeline. `tests/e2e/test_disconnected_clients.py` has real sockets, streams, all APIs.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from llm_gateway.cache.memory import MemoryCache
from llm_gateway.domain.catalog import Candidate
from llm_gateway.domain.client_presence import ClientPresence
from llm_gateway.domain.reply import Answer
from llm_gateway.domain.upstream_call import UpstreamResult
from llm_gateway.domain.usage import UsageRecord
from llm_gateway.errors import ProviderFailed
from llm_gateway.worker.gateway import Gateway
from llm_gateway.worker.pipeline.availability import Permit
from llm_gateway.worker.pipeline.caching import Caching
from tests.virtual_time import run_virtually
from tests.worker.pipeline.fakes import refusal, request, snapshot
from tests.worker.pipeline.simulation import SimulatedGateway
from tests.worker.pipeline.waiting_requests import Scripted, assert_clean, close_gate, gateway, virtually

CALL_S = 2.0
"""Seconds that the vendor takes for an answer."""
USED = 50
"""Tokens of an answer."""


class Client:
    """The server's side of one client: `receive` returns http.disconnect once it left. `answered` is its request."""

    def __init__(self, scene: Scene, prompt: str, **changes: Any) -> None:
        self.left = asyncio.Event()
        self.presence = ClientPresence(self._receive)
        now = asyncio.get_running_loop().time()
        asked = request(prompt=prompt, started=now, deadline=now + 60, presence=self.presence, **changes)
        self.id = asked.id
        self.answered = asyncio.create_task(scene.gateway.generate(asked))

    async def _receive(self) -> dict[str, Any]:
        await self.left.wait()
        return {"type": "http.disconnect"}


class Scene:
    """A gateway with one provider, whose requests are all recorded."""

    def __init__(self, **limits: Any) -> None:
        self.vendor = Scripted(latency_s=CALL_S)
        self.simulated: SimulatedGateway = gateway(self.vendor, **limits)
        caching = Caching(MemoryCache(1_000_000), ttl_s=3600, shared=False, clock=asyncio.get_running_loop().time)
        configured = snapshot([self.simulated.provider])
        self.gateway = Gateway(
            lambda: configured,
            caching,
            self.simulated.failover,
            self.simulated.recorder,
            self.simulated.admission.state,
        )
        self._count = 0

    def client(self, prompt: str | None = None, **changes: Any) -> Client:
        """Send a request; each has its own prompt unless one is given."""
        self._count += 1
        return Client(self, prompt or f"prompt {self._count}", id=str(self._count), **changes)

    def record(self, client: Client) -> UsageRecord:
        """Return the client's usage record: there is exactly one."""
        [record] = [record for record in self.simulated.journal.records() if record.id == client.id]
        return record

    @property
    def calls(self) -> int:
        return len(self.vendor.called_at)

    async def check(self, *, calls: int) -> None:
        """Check that no more than these calls were sent and counted, and that the next request is served."""
        await asyncio.sleep(0)  # ended watches of clients are gone in the next turn
        assert self.calls == calls
        simulated, provider = self.simulated, self.simulated.provider
        assert simulated.availability.in_flight(provider.id) == 0
        left = simulated.limiter.state(provider.id, provider.rate_limit_rpm, provider.rate_limit_tpm)
        assert provider.rate_limit_rpm - left.remaining_requests == calls
        sent = [attempt for record in simulated.journal.records() for attempt in record.attempts if attempt.sent]
        assert len(sent) == calls
        assert provider.rate_limit_tpm - left.remaining_tokens == sum(attempt.limit_tokens for attempt in sent)
        assert_clean(simulated)
        await asyncio.sleep(130.0)  # gates, pauses and windows are open again
        assert isinstance(await self.client().answered, Answer)
        assert self.calls == calls + 1


async def at_own_limit(scene: Scene) -> int:
    await asyncio.gather(*(scene.client().answered for _ in range(2)))
    await asyncio.sleep(55.0)
    return 2


async def at_a_closed_gate(scene: Scene) -> int:
    close_gate(scene.simulated, 6.0)
    return 0


async def in_the_pause_before_a_retry(scene: Scene) -> int:
    scene.vendor.script = [refusal(500)]
    return 1


async def in_the_pause_after_a_429(scene: Scene) -> int:
    scene.vendor.script = [refusal(429, retry_after_s=5.0)]
    return 1


async def before_a_line_for_its_own_retry_after(scene: Scene) -> int:
    """Its 429 closes the gate, so that it waits for its Retry-After and then in line."""
    permit = scene.simulated.availability.admit(Candidate.of(scene.simulated.provider, "m1"))
    assert isinstance(permit, Permit)
    for _ in range(4):
        permit.limited(1.0, "slow")
    scene.vendor.script = [refusal(429, retry_after_s=5.0)]
    return 1


WAITS: dict[str, tuple[Callable[[Scene], Any], float]] = {
    "in the line of the own limit": (at_own_limit, 1.0),
    "in the line of a closed gate": (at_a_closed_gate, 1.0),
    "in the pause before a retry": (in_the_pause_before_a_retry, 0.1),
    "in the pause after a 429": (in_the_pause_after_a_429, 1.0),
    "before the line, for its own Retry-After": (before_a_line_for_its_own_retry_after, 1.0),
}
"""What makes a request wait, which returns the calls it takes, and after how many seconds its client disconnects."""


@pytest.mark.parametrize("wait", WAITS)
def test_a_request_ends_at_once_and_is_not_sent_when_its_client_disconnects(wait: str) -> None:
    async def main() -> None:
        scene = Scene(rate_limit_rpm=2)
        prepare, leaves_after_s = WAITS[wait]
        calls = await prepare(scene)
        client = scene.client()
        await asyncio.sleep(leaves_after_s)
        assert not client.answered.done()
        client.left.set()
        for _ in range(5):
            await asyncio.sleep(0)

        assert client.answered.cancelled(), "it did not end at once"
        record = scene.record(client)
        assert (record.outcome, record.status) == ("cancelled", 499)
        assert (record.cost_nanos, record.usage.output_tokens) == (0, 0)
        await scene.check(calls=calls)

    run_virtually(main())


@virtually
async def test_a_request_whose_client_left_during_a_failed_call_is_not_sent_to_the_next_provider() -> None:
    scene = Scene()
    client = scene.client()

    async def fail(*_: object) -> UpstreamResult:
        await asyncio.sleep(1.0)
        return refusal(500)

    scene.vendor.call = fail  # type: ignore[method-assign]  # a call that takes long and fails
    await asyncio.sleep(0.5)
    client.presence.leave()
    await asyncio.wait([client.answered])

    assert client.answered.cancelled()
    assert [attempt.status for attempt in scene.record(client).attempts] == [500]
    assert scene.record(client).outcome == "cancelled"


@virtually
async def test_a_request_whose_client_left_while_its_intent_was_written_is_not_sent() -> None:
    scene = Scene()
    client = scene.client()
    scene.simulated.journal.on_intent = client.presence.leave
    await asyncio.wait([client.answered])
    scene.simulated.journal.on_intent = lambda: None

    assert client.answered.cancelled()
    [attempt] = scene.record(client).attempts
    assert (attempt.sent, attempt.cost_nanos, attempt.limit_tokens, attempt.error) == (False, 0, 0, "cancelled")
    await scene.check(calls=0)


@virtually
async def test_a_call_that_was_sent_goes_on_and_is_billed_once_when_its_client_disconnects() -> None:
    scene = Scene()
    client = scene.client("same")
    await asyncio.sleep(CALL_S / 2)
    client.left.set()
    client.presence.leave()

    assert isinstance(await client.answered, Answer)
    assert scene.record(client).outcome == "ok"
    assert (await scene.client("same").answered).cached, "its answer is kept"
    await scene.check(calls=1)


class TestIdenticalRequests:
    @virtually
    async def test_one_that_waits_for_the_answer_keeps_the_request_of_a_client_that_left_in_its_line(self) -> None:
        scene = Scene(rate_limit_rpm=2)
        await at_own_limit(scene)
        leader, follower = scene.client("same"), scene.client("same")
        await asyncio.sleep(1.0)
        leader.left.set()
        answer = await follower.answered

        assert (answer.cached, answer.reply.content) == (True, "hello")
        assert [scene.record(client).outcome for client in (leader, follower)] == ["ok", "cached"]
        await asyncio.sleep(60.0)
        assert scene.calls == 3

    @virtually
    async def test_the_request_leaves_its_line_once_all_clients_have_left(self) -> None:
        scene = Scene(rate_limit_rpm=2)
        await at_own_limit(scene)
        leader, follower = scene.client("same"), scene.client("same")
        await asyncio.sleep(1.0)
        leader.left.set()
        await asyncio.sleep(1.0)
        assert not leader.answered.done()
        follower.left.set()
        await asyncio.wait([leader.answered, follower.answered], timeout=0.1)

        assert leader.answered.cancelled()
        assert follower.answered.cancelled()
        assert [scene.record(client).outcome for client in (leader, follower)] == ["cancelled", "cancelled"]
        await scene.check(calls=2)

    @virtually
    async def test_a_client_that_leaves_while_it_waits_for_another_ones_answer_changes_nothing_for_it(self) -> None:
        scene = Scene()
        leader, follower = scene.client("same"), scene.client("same")
        await asyncio.sleep(CALL_S / 2)
        follower.left.set()
        await asyncio.wait([follower.answered], timeout=0.1)

        assert follower.answered.cancelled()
        assert scene.record(follower).attempts == []
        assert isinstance(await leader.answered, Answer)
        await scene.check(calls=1)

    @virtually
    async def test_one_that_comes_just_after_the_client_left_is_served_by_itself(self) -> None:
        scene = Scene(rate_limit_rpm=2)
        await at_own_limit(scene)
        for _ in range(3):
            leader = scene.client("same")
            await asyncio.sleep(0.5)
            leader.presence.leave()
            late = scene.client("same")
            await asyncio.sleep(0.5)
            assert leader.answered.cancelled()
            late.presence.leave()
        last = scene.client("same")

        assert (await last.answered).reply.content == "hello"
        assert scene.record(last).outcome == "ok"

    @virtually
    async def test_a_failure_is_shared_as_before_when_the_first_client_left(self) -> None:
        scene = Scene()
        scene.vendor.script = [refusal(400)]
        leader, follower = scene.client("same"), scene.client("same")
        leader.left.set()

        assert isinstance(await follower.answered, Answer)
        with pytest.raises(ProviderFailed):
            await leader.answered
