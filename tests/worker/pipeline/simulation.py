"""Simulated customers, gateway and vendor in virtual time. The gateway's part is its real code; the vendor is a model.

A policy answers one request: the real `Failover` (`gateway`), or for comparison the two simple ones that it replaced.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from weakref import WeakKeyDictionary

from llm_gateway.domain.catalog import Provider
from llm_gateway.domain.rate_limits import ReportedLimit, ReportedLimits
from llm_gateway.domain.upstream_call import UpstreamCall, UpstreamResult
from llm_gateway.errors import GatewayError
from llm_gateway.limiter.memory import MemoryLimiter
from llm_gateway.providers.registry import DIALECTS
from llm_gateway.routing.session_affinity import SessionAffinity
from llm_gateway.telemetry.redaction import Redactor
from llm_gateway.upstream.pool import send_always
from llm_gateway.worker.pipeline.admission import Admission
from llm_gateway.worker.pipeline.attempt import AttemptDependencies, Attempts
from llm_gateway.worker.pipeline.availability import ProviderAvailability
from llm_gateway.worker.pipeline.failover import Failover
from llm_gateway.worker.pipeline.timing import Timing
from llm_gateway.worker.pipeline.translation import Translation
from llm_gateway.worker.pipeline.usage_recorder import UsageRecorder
from llm_gateway.worker.pipeline.waiting_line import WaitingLines
from tests.virtual_time import run_virtually
from tests.worker.pipeline.fakes import KEY, JournalSpy, Upstream, answer, plan, provider, refusal, request

DEADLINE_S = 30.0
LATENCY_S = (0.3, 1.0)


class Vendor:
    """A vendor with `share` of random 429s, or a true limit of `per_s` calls in any second.

    `counts_refused`: refused calls count against the limit, too. `burst`: the limit is a bucket of this size that
    refills at `per_s`, and every response reports it.
    """

    def __init__(
        self,
        chance: random.Random,
        *,
        share: float = 0.0,
        per_s: int | None = None,
        counts_refused: bool = False,
        burst: int = 0,
        retry_after_s: float | None = 1.0,
    ) -> None:
        self._chance = chance
        self._share = share
        self._per_s = per_s
        self._counts_refused = counts_refused
        self._burst = burst
        self._level, self._level_at = float(burst), 0.0
        self._retry_after_s = retry_after_s
        self._times: deque[float] = deque()
        self.accepted: list[float] = []
        self.refused = 0
        self.too_soon = 0
        """Calls of a request before the end of the Retry-After that it got."""
        self._may_return = WeakKeyDictionary[asyncio.Task[object], float]()

    async def call(self) -> UpstreamResult:
        """Decide when the call arrives; a refusal comes back sooner than an answer."""
        now, task = asyncio.get_running_loop().time(), asyncio.current_task()
        assert task is not None
        self.too_soon += now < self._may_return.get(task, now) - 0.001
        takes = self._takes(now)
        limits = self._limits() if self._burst else None
        if takes:
            self.accepted.append(now)
            await asyncio.sleep(self._chance.uniform(*LATENCY_S))
            return UpstreamResult(200, answer().body, limits=limits)
        self.refused += 1
        await asyncio.sleep(0.05)
        self._may_return[task] = now + 0.05 + (self._retry_after_s or 0.0)
        return UpstreamResult(429, refusal(429).body, self._retry_after_s, limits=limits)

    def _takes(self, now: float) -> bool:
        if self._per_s is None:
            return self._chance.random() >= self._share
        if self._burst:
            self._level = min(self._level + self._per_s * (now - self._level_at), self._burst)
            self._level_at = now
            takes = self._level >= 1
            self._level -= takes
            return takes
        while self._times and self._times[0] <= now - 1:
            self._times.popleft()
        takes = len(self._times) < self._per_s
        if takes or self._counts_refused:
            self._times.append(now)
        return takes

    def _limits(self) -> ReportedLimits:
        assert self._per_s is not None
        missing = self._burst - self._level
        return ReportedLimits(requests=ReportedLimit(int(self._level), missing / self._per_s, self._burst))


Policy: TypeAlias = Callable[[Vendor, random.Random], Callable[[str], Awaitable[bool]]]
"""Make the function that answers one request of a customer, and returns whether it succeeded."""


class _Transport(Upstream):
    def __init__(self, vendor: Vendor) -> None:
        super().__init__()
        self._vendor = vendor

    async def post(
        self,
        provider: Provider,
        call: UpstreamCall,
        timeout_s: float,
        before_send: Callable[[], None] = send_always,
    ) -> UpstreamResult:
        before_send()
        return await self._vendor.call()


class SimulatedGateway:
    """The real failover, lines, limiter and availability over a simulated vendor."""

    def __init__(
        self, vendor: Vendor, chance: random.Random, *, limiter: type[MemoryLimiter] = MemoryLimiter, **limits: Any
    ) -> None:
        clock = asyncio.get_running_loop().time
        self.limiter = limiter(clock)
        self.logged: list[str] = []
        self.availability = ProviderAvailability(clock, chance.random, log=lambda event, **_: self.logged.append(event))
        self.admission, translation = Admission(self.limiter), Translation()
        self.lines = WaitingLines(self.limiter, self.availability.gate_wait_s, max_wait_s=8.0, clock=clock)
        self.journal = JournalSpy()
        self.recorder = UsageRecorder(self.journal, instance="i", list_price=lambda *_: None, observe=lambda _: None)
        dependencies = AttemptDependencies(
            self.availability,
            self.admission,
            _Transport(vendor),
            self.recorder,
            DIALECTS,
            translation,
            Redactor([KEY]),
            clock,
        )
        self.failover = Failover(
            availability=self.availability,
            admission=self.admission,
            attempts=Attempts(dependencies),
            translation=translation,
            affinity=SessionAffinity(),
            lines=self.lines,
            timing=Timing(clock, asyncio.sleep, chance.uniform),
        )
        self.provider = provider("a", **{"rate_limit_rpm": 10**6, "rate_limit_tpm": 10**9, **limits})
        self.errors: list[GatewayError] = []
        self.queued_ms: list[int] = []

    async def serve(self, customer: str, max_tokens: int = 100) -> bool:
        """Answer one request; False if it was refused."""
        now = asyncio.get_running_loop().time()
        asked = request(user_id=customer, deadline=now + DEADLINE_S, started=now, max_tokens=max_tokens)
        try:
            served = await self.failover.run(asked, plan([self.provider]), self.recorder.start(asked))
        except GatewayError as error:
            self.errors.append(error)
            return False
        self.queued_ms.append(served.queued_ms)
        return True


def gateway(vendor: Vendor, chance: random.Random) -> Callable[[str], Awaitable[bool]]:
    return SimulatedGateway(vendor, chance).serve


def resting(vendor: Vendor, chance: random.Random) -> Callable[[str], Awaitable[bool]]:
    """Refuse everybody after each 429 until its Retry-After is over."""
    rests_until = 0.0

    async def serve(customer: str) -> bool:
        nonlocal rests_until
        loop = asyncio.get_running_loop()
        if loop.time() < rests_until:
            return False
        result = await vendor.call()
        if result.status == 429:
            rests_until = loop.time() + (10.0 if result.retry_after_s is None else result.retry_after_s)
        return result.status == 200

    return serve


def retrying(vendor: Vendor, chance: random.Random) -> Callable[[str], Awaitable[bool]]:
    """Try each request again by itself until its deadline, with the usual exponential pause."""

    async def serve(customer: str) -> bool:
        loop = asyncio.get_running_loop()
        deadline, pause_s = loop.time() + DEADLINE_S, 0.5
        while True:
            result = await vendor.call()
            if result.status == 200:
                return True
            wait_s = max(result.retry_after_s or 0.0, pause_s * chance.uniform(0.75, 1.0))
            pause_s = min(2 * pause_s, 8.0)
            if loop.time() + wait_s >= deadline:
                return False
            await asyncio.sleep(wait_s)

    return serve


@dataclass
class Outcome:
    """Requests and answers of each customer, and the calls that the vendor accepted and refused."""

    asked: dict[str, int] = field(default_factory=dict)
    answered: dict[str, int] = field(default_factory=dict)
    accepted: list[float] = field(default_factory=list)
    refused: int = 0
    too_soon: int = 0

    def percent(self, *customers: str) -> float:
        """Return the share of the customers' requests that were answered; of all customers if none is named."""
        names = customers or tuple(self.asked)
        return 100 * sum(self.answered[name] for name in names) / sum(self.asked[name] for name in names)


async def ask_for(
    seconds: float, customers: dict[str, float], serve: Callable[[str], Awaitable[bool]], chance: random.Random
) -> Outcome:
    """Let customers ask at random times, `customers[name]` times a second on average; wait for all answers."""
    outcome = Outcome(dict.fromkeys(customers, 0), dict.fromkeys(customers, 0))

    async def one(customer: str) -> None:
        is_answered = await serve(customer)
        outcome.answered[customer] += is_answered

    async def ask(customer: str, per_s: float) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        async with asyncio.TaskGroup() as group:
            while True:
                await asyncio.sleep(chance.expovariate(per_s))
                if loop.time() >= end:
                    return
                outcome.asked[customer] += 1
                group.create_task(one(customer))

    async with asyncio.TaskGroup() as group:
        for customer, per_s in customers.items():
            group.create_task(ask(customer, per_s))
    return outcome


def simulate(
    policy: Policy, customers: dict[str, float], *, seed: int, seconds: float = 60.0, **vendor: object
) -> Outcome:
    """Simulate `seconds` of the customers' requests."""

    async def main() -> Outcome:
        chance = random.Random(seed)
        simulated = Vendor(chance, **vendor)  # type: ignore[arg-type]
        outcome = await ask_for(seconds, customers, policy(simulated, chance), chance)
        outcome.accepted, outcome.refused = simulated.accepted, simulated.refused
        outcome.too_soon = simulated.too_soon
        return outcome

    return run_virtually(main())
