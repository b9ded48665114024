"""Both ends of a channel over a Unix socket in one event loop, and configurations to send."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from llm_gateway.channel.client import ChannelClient, ChannelHandlers
from llm_gateway.channel.messages import NAME, ControlBeat, Hello, encode
from llm_gateway.channel.server import ChannelServer
from llm_gateway.domain.catalog import Override
from llm_gateway.domain.configuration import Account, Configuration
from llm_gateway.domain.metric_families import MetricFamily, Sample
from llm_gateway.domain.public_prices import PricedModel, PublicPrices, Rule, TimedPrice, VendorPrices
from llm_gateway.domain.service_key import ServiceKey, ServiceKeys
from llm_gateway.domain.usage import Price, RecentCalls
from llm_gateway.forwarding.control_socket import ControlSocket
from tests.override_keys import by_key
from tests.worker.pipeline.fakes import override, provider

Event = tuple[str, dict[str, Any]]


def collector(events: list[Event]) -> Callable[..., None]:
    """Return a log that keeps the events."""
    return lambda event, **fields: events.append((event, fields))


def account(name: str, **changes: Any) -> Account:
    unassembled: dict[str, Any] = {"target": None, "codecs": {}, "translation_codec": None, "required_codec": None}
    stored = msgspec.structs.replace(provider(name, **changes), **unassembled)
    return Account(provider=stored, base_url=f"https://{name}.test", api_key=f"key of {name}")


def rule(user: str, **changes: Any) -> Override:
    return override("a", id=f"id of {user}", user_id=user, **changes)


def prices(*vendors: str, models: int = 1) -> PublicPrices:
    price = (TimedPrice(Price(((0, 1),), ((0, 2),))),)
    listed = tuple(PricedModel(Rule("equals", f"model-{number}"), price) for number in range(models))
    return PublicPrices({vendor: VendorPrices(listed) for vendor in vendors})


def service_keys(count: int, **fields: Any) -> ServiceKeys:
    numbers = [b"%012d" % number for number in range(count)]
    return {
        number: ServiceKey(public_id=number, digest=number, id=f"id of {number!r}", name="k", scopes=1, **fields)
        for number in numbers
    }


def configuration(*names: str, users: int = 0, **fields: Any) -> Configuration:
    return Configuration(
        accounts=tuple(account(name) for name in names),
        overrides=by_key(rule(f"user {number}") for number in range(users)),
        **fields,
    )


def counter(value: float, **labels: str) -> MetricFamily:
    return MetricFamily(name="calls", type="counter", help="Calls", samples=[Sample("_total", labels, value)])


@dataclass
class Control:
    """Control's side."""

    server: ChannelServer
    socket: ControlSocket
    events: list[Event]
    beat: ControlBeat = field(default_factory=ControlBeat)
    has_state: bool = True

    def state(self) -> ControlBeat:
        if not self.has_state:
            raise ValueError("secret")
        return self.beat

    def logged(self) -> list[str]:
        return [event for event, _ in self.events]


@contextlib.asynccontextmanager
async def control(
    data_dir: Path, calls: RecentCalls | Exception | None = None, **options: Any
) -> AsyncIterator[Control]:
    """Run control's side."""
    events: list[Event] = []
    address = ControlSocket(data_dir, name=NAME)

    def recent() -> RecentCalls:
        if isinstance(calls, Exception):
            raise calls
        return calls or RecentCalls([], [])

    server = ChannelServer(
        address,
        state=lambda: running.state(),  # noqa: PLW0108 - made below
        log=collector(events),
        recent_calls=None if calls is None else recent,
        **options,
    )
    running = Control(server, address, events)
    await server.start()
    try:
        yield running
    finally:
        await server.stop()
        address.close()


@dataclass
class Worker:
    """A worker's side: everything that its handlers got, in order."""

    client: ChannelClient
    number: int
    events: list[Event]
    got: list[Any]
    report: list[MetricFamily] = field(default_factory=list)

    @property
    def configurations(self) -> list[Configuration]:
        return [each for each in self.got if isinstance(each, Configuration)]

    def providers(self) -> list[str]:
        """Return the providers of the last configuration."""
        return [each.provider.name for each in self.configurations[-1].accounts] if self.configurations else []


@contextlib.asynccontextmanager
async def worker(data_dir: Path, number: int = 1, **options: Any) -> AsyncIterator[Worker]:
    """Run a worker's side."""
    events: list[Event] = []
    got: list[Any] = []
    address = ControlSocket(data_dir, name=NAME)
    handlers = ChannelHandlers(
        on_configuration=got.append,
        on_passed=got.append,
        on_refill=got.append,
        report=lambda: running.report,
        on_stored=got.append,
    )
    client = ChannelClient(address, handlers, number=number, log=collector(events), **options)
    running = Worker(client, number, events, got)
    client.start()
    try:
        yield running
    finally:
        await client.close()
        address.close()


@contextlib.asynccontextmanager
async def raw_worker(data_dir: Path, *, greets: bool = True) -> AsyncIterator[tuple[Any, asyncio.StreamWriter]]:
    """Connect as a worker that does only what the test does. Yields its reader and writer."""
    address = ControlSocket(data_dir, name=NAME)
    reader, writer = await asyncio.open_unix_connection(sock=address.connect())
    try:
        if greets:
            writer.write(encode(Hello(number=9, pid=99)))
        yield reader, writer
    finally:
        writer.transport.abort()
        address.close()
