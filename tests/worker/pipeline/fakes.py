"""Builders of requests, providers and answers for the pipeline's tests, and fakes of transport, journal and limiter."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias

import msgspec

from llm_gateway.control.live_configuration import has_enabled_vendor
from llm_gateway.domain.catalog import Candidate, Override, Provider, Snapshot, Target
from llm_gateway.domain.plan import Plan
from llm_gateway.domain.public_prices import PublicPrices
from llm_gateway.domain.reply import Reply
from llm_gateway.domain.request import Request
from llm_gateway.domain.upstream_call import Success, UpstreamCall, UpstreamResult
from llm_gateway.domain.usage import AttemptRecord, Price, Usage, UsageRecord, decode_attempt, decode_record
from llm_gateway.host_memory.budget_accounts import BudgetAccounts
from llm_gateway.journal.writer import JournalWriter
from llm_gateway.limiter.base import Reservation
from llm_gateway.limiter.memory import MemoryLimiter
from llm_gateway.protocols.generate import GenerateBody, client_request_of, input_length
from llm_gateway.providers.registry import DIALECTS, choose_codecs
from llm_gateway.routing.session_affinity import SessionAffinity
from llm_gateway.routing.snapshot import build_snapshot
from llm_gateway.telemetry.redaction import Redactor
from llm_gateway.upstream.pool import send_always
from llm_gateway.worker.pipeline.admission import Admission
from llm_gateway.worker.pipeline.attempt import AttemptDependencies, Attempts
from llm_gateway.worker.pipeline.availability import ProviderAvailability, Wait
from llm_gateway.worker.pipeline.budgets import Budgets
from llm_gateway.worker.pipeline.failover import Failover
from llm_gateway.worker.pipeline.lease_requests import LeaseRequests
from llm_gateway.worker.pipeline.timing import Timing
from llm_gateway.worker.pipeline.translation import Translation
from llm_gateway.worker.pipeline.transport import Transport
from llm_gateway.worker.pipeline.upstream_events import UpstreamEvents
from llm_gateway.worker.pipeline.usage_recorder import UsageRecorder
from tests.override_keys import by_key

NOW = 1000.0
KEY = "configured-key-0123456789"
PRICE = Price(input=((0, 2_000_000_000),), output=((0, 3_000_000_000),))
"""2,000 nano-dollars per input token, 3,000 per output token."""

Step: TypeAlias = UpstreamResult | BaseException | Callable[[float], Awaitable[UpstreamResult]]


class Clock:
    def __init__(self, now: float = NOW) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


def provider(name: str = "alpha", *, has_json_mode: bool = True, **changes: Any) -> Provider:
    """Build a provider with two models at PRICE, a target, and the codecs of its kind."""
    models: tuple[str, ...] = changes.get("models", ("m1", "m2"))
    fields: dict[str, Any] = {
        "id": f"id-{name}",
        "name": name,
        "display_name": name.title(),
        "kind": "openai",
        "base_url": None,
        "models": models,
        "is_enabled": True,
        "rate_limit_rpm": 60,
        "rate_limit_tpm": 100_000,
        "priority": 10,
        "timeout_s": 60.0,
        "created_at_ms": 1,
        "updated_at_ms": 1,
        "target": Target(f"https://{name}.test", f"https://{name}.test/models", {}),
        "price_by_model": dict.fromkeys(models, PRICE),
        "price_vendor": name,
    }
    made = {**fields, **changes}
    if made["kind"] in DIALECTS:
        spoken = choose_codecs(DIALECTS[made["kind"]], made.get("protocols"), has_json_mode=has_json_mode)
        made = {**spoken._asdict(), **made}
    return Provider(**made)


def override(provider_name: str, model_name: str = "m2", **changes: Any) -> Override:
    fields: dict[str, Any] = {
        "id": f"override-{provider_name}-{model_name}-{changes.get('service_name')}",
        "user_id": "user",
        "service_name": None,
        "provider_name": provider_name,
        "model_name": model_name,
        "allow_fallback": True,
        "created_at_ms": 1,
        "updated_at_ms": 1,
    }
    return Override(**{**fields, **changes})


def snapshot(providers: list[Provider], *overrides: Override) -> Snapshot:
    return build_snapshot(providers, by_key(overrides), PublicPrices(), has_vendor=has_enabled_vendor(providers))


def request(**changes: Any) -> Request:
    """Build a request of 40 characters: an estimate of 18 input tokens; with max_tokens, a reservation of 118.

    `prompt`, `system`, `temperature` and `messages` are fields of POST /generate's body.
    """
    names = ("prompt", "system", "temperature", "messages")
    asked = {name: changes.pop(name) for name in names if name in changes}
    shared = {name: changes[name] for name in ("max_tokens", "json_mode") if name in changes}
    least: dict[str, Any] = {"user_id": "user", "service": "chat", "prompt": "p" * 30, "system": "s" * 10}
    body = GenerateBody(**least | {"max_tokens": 100} | asked | shared)
    fields: dict[str, Any] = {
        "id": "request",
        "at_ms": 1_700_000_000_000,
        "started": NOW,
        "deadline": NOW + 120.0,
        "key_name": "key",
        "surface": "generate",
        "user_id": body.user_id,
        "service": body.service,
        "client_request": client_request_of(body),
        "max_tokens": body.max_tokens,
        "input_length": input_length(body),
    }
    return Request(**{**fields, **changes})


def plan(*tiers: list[Provider]) -> Plan:
    return Plan(tuple(tuple(Candidate.of(p, p.models[0]) for p in tier) for tier in tiers))


def reply(content: str = "hello", **changes: Any) -> Reply:
    fields: dict[str, Any] = {"content": content, "usage": Usage(input_tokens=20, output_tokens=30)}
    return Reply(**{**fields, **changes})


def served(content: str = "hello", candidate: Candidate | None = None, cost_nanos: int = 130_000) -> Success:
    by = candidate or Candidate.of(provider(), "m1")
    return Success(reply(content), by.provider.name, by.model, cost_nanos, by.cache_part)


def answer(content: str = "hello", **changes: Any) -> UpstreamResult:
    """Build a chat completion of 20 tokens in, 30 out: 130,000 nano-dollars at PRICE, 50 tokens of the limit."""
    document: dict[str, Any] = {
        "id": "chatcmpl-1",
        "model": "m1-2026",
        "choices": [{"message": {"content": content}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 20, "completion_tokens": 30},
        **changes,
    }
    return UpstreamResult(200, msgspec.json.encode({name: part for name, part in document.items() if part is not None}))


def refusal(status: int, message: str = "no", retry_after_s: float | None = None) -> UpstreamResult:
    body = msgspec.json.encode({"error": {"message": message}})
    return UpstreamResult(status, body, retry_after_s)


NOT_SENT = UpstreamResult(fault="not_sent", message="No connection: refused")
OUT_OF_FILES = UpstreamResult(fault="not_sent", message="No connection: too many open files", is_ours=True)
TIMEOUT = UpstreamResult(fault="timeout", message="No complete answer in time")
BROKEN = UpstreamResult(fault="broken", message="The connection broke: reset")


class Upstream(Transport):
    """A transport that plays a script per provider name: results, exceptions, or functions of the timeout."""

    def __init__(self) -> None:
        self.scripts: dict[str, list[Step]] = {}
        self.calls: list[tuple[str, str, float]] = []
        self.bodies: list[bytes] = []
        self.header_lines: list[bytes] = []

    @property
    def called(self) -> list[str]:
        return [name for name, _, _ in self.calls]

    async def post(
        self,
        provider: Provider,
        call: UpstreamCall,
        timeout_s: float,
        before_send: Callable[[], None] = send_always,
    ) -> UpstreamResult:
        before_send()
        self.calls.append((provider.name, msgspec.json.decode(call.body).get("model", call.path), timeout_s))
        self.bodies.append(call.body)
        self.header_lines.append(call.header_lines)
        return await self._play(provider, timeout_s)

    async def open(
        self,
        provider: Provider,
        call: UpstreamCall,
        timeout_s: float,
        before_send: Callable[[], None] = send_always,
    ) -> UpstreamResult | UpstreamEvents:
        raise NotImplementedError

    async def _play(self, provider: Provider, timeout_s: float) -> UpstreamResult:
        step = self.scripts[provider.name].pop(0)
        if isinstance(step, UpstreamResult):
            return step
        if isinstance(step, BaseException):
            raise step
        return await step(timeout_s)


class JournalSpy(JournalWriter):
    """A journal that keeps entries in order; `fails` makes it raise for a kind of entry."""

    def __init__(self) -> None:
        self.entries: list[tuple[str, str, bytes]] = []
        self.synced = 0
        self.fails: dict[str, BaseException] = {}
        self.on_intent: Callable[[], None] = lambda: None
        """Called in the turn of the event loop in which an intent is written."""

    async def intent(self, request_id: str, payload: bytes) -> None:
        self._note("intent", request_id, payload)
        self.on_intent()

    def outcome(self, request_id: str, payload: bytes) -> None:
        self._note("outcome", request_id, payload)

    def settle(self, request_id: str, payload: bytes) -> None:
        self._note("settle", request_id, payload)

    async def durable(self) -> None:
        self.synced += 1
        await asyncio.sleep(0)
        if "durable" in self.fails:
            raise self.fails["durable"]

    def _note(self, kind: str, request_id: str, payload: bytes) -> None:
        if kind in self.fails:
            raise self.fails[kind]
        self.entries.append((kind, request_id, payload))

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _, _ in self.entries]

    def outcomes(self) -> list[AttemptRecord]:
        return [decode_attempt(payload) for kind, _, payload in self.entries if kind == "outcome"]

    def records(self, kind: str = "settle") -> list[UsageRecord]:
        return [decode_record(payload) for entry, _, payload in self.entries if entry == kind]


class LimiterSpy(MemoryLimiter):
    """A real limiter that records each settle as (provider id, tokens, sent) in `settled`."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.settled: list[tuple[str, int, bool]] = []

    def settle(self, reservation: Reservation, tokens: int, sent: bool = True, lasted_s: int | None = None) -> None:
        self.settled.append((reservation.provider_id, tokens, sent))
        super().settle(reservation, tokens, sent, lasted_s)


class World:
    """Failover over real availability, admission and recording, with a scripted upstream and a clock that tests set.

    The pause before a retry is drawn as `pause_s` and takes no time but the clock's. `budgets` has no table yet.
    """

    def __init__(self, accounts: BudgetAccounts | None = None, leases: LeaseRequests | None = None) -> None:
        self.clock = Clock()
        self.budgets = Budgets(accounts, leases, log=self._log, clock=self.clock, retry_after=lambda low, _high: low)
        self.limiter = LimiterSpy(self.clock)
        self.admission = Admission(self.limiter)
        self.upstream = Upstream()
        self.journal = JournalSpy()
        self.observed: list[UsageRecord] = []
        self.reported: dict[tuple[str, str], Price] = {}
        self.logged: list[tuple[str, dict[str, Any]]] = []
        self.availability = ProviderAvailability(self.clock, lambda: 0.5, log=self._log)
        self.drawn: list[tuple[float, float]] = []
        self.slept: list[float] = []
        self.pause_s = 1.0
        self.recorder = UsageRecorder(
            self.journal,
            instance="instance",
            list_price=lambda vendor, model: self.reported.get((vendor or "", model)),
            observe=self.observed.append,
            charge=self.budgets.charge,
            clock=self.clock,
        )
        self.failover = self.with_admission(self.admission)

    def with_admission(self, admission: Admission) -> Failover:
        return self._failover(admission, timing=self._timing())

    def unpaced(self) -> Failover:
        """Return a failover with the real clock and sleep."""
        return self._failover(self.admission, timing=Timing())

    def _timing(self) -> Timing:
        return Timing(self.clock, self._sleep, self._uniform)

    def _failover(self, admission: Admission, *, timing: Timing) -> Failover:
        translation = Translation()
        dependencies = AttemptDependencies(
            availability=self.availability,
            admission=admission,
            transport=self.upstream,
            recorder=self.recorder,
            dialects=DIALECTS,
            translation=translation,
            redact=Redactor([KEY]),
            clock=timing.clock,
            budgets=self.budgets,
        )
        return Failover(
            availability=self.availability,
            admission=admission,
            attempts=Attempts(dependencies),
            translation=translation,
            affinity=SessionAffinity(),
            timing=timing,
        )

    def script(self, **steps: Sequence[Step]) -> World:
        self.upstream.scripts.update({name: list(script) for name, script in steps.items()})
        return self

    def open(self, request: Request) -> UsageRecord:
        return self.recorder.start(request)

    async def begin(self, record: UsageRecord, asked: Request, candidate: Candidate, reserved: int) -> AttemptRecord:
        """Write the intent of an attempt."""
        made = self.recorder.new_attempt(asked, candidate, reserved)
        await self.recorder.write_intent(record, made)
        return made

    def after(self, seconds: float, then: UpstreamResult | BaseException) -> Step:
        """Return a step that moves the clock by `seconds`."""

        async def wait(_: float) -> UpstreamResult:
            self.clock.now += seconds
            if isinstance(then, BaseException):
                raise then
            return then

        return wait

    def wait(self, provider: Provider) -> Wait | None:
        """Return why the provider's first model may not be called now; None if it may."""
        permit = self.availability.admit(Candidate.of(provider, provider.models[0]))
        if isinstance(permit, Wait):
            return permit
        permit.release()
        return None

    def _log(self, event: str, **fields: Any) -> None:
        self.logged.append((event, fields))

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.clock.now += seconds

    def _uniform(self, low: float, high: float) -> float:
        self.drawn.append((low, high))
        return self.pause_s
