"""Changes of the configuration: only what differs is sent, and what is put together is what was published."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path

import msgspec

from llm_gateway.channel.assembler import ConfigurationAssembler
from llm_gateway.channel.history import KEPT, History
from llm_gateway.channel.messages import (
    Accounts,
    Begin,
    Budgets,
    Decoder,
    End,
    FromControl,
    Keys,
    Message,
    Overrides,
    Prices,
    encode,
    read_frame,
)
from llm_gateway.channel.splitter import ROWS
from llm_gateway.domain.budget import Budget
from llm_gateway.domain.configuration import Configuration
from llm_gateway.domain.key_secret import Pepper
from llm_gateway.domain.public_prices import PublicPrices
from tests.channel.harness import account, configuration, control, prices, raw_worker, rule, service_keys, worker
from tests.override_keys import by_key
from tests.waiting import until


def received(receiver: ConfigurationAssembler, messages: list[Message]) -> Configuration | None:
    """Return the last configuration that the messages make up, each encoded and decoded."""
    decoder = Decoder(FromControl)
    made = None
    for message in messages:
        match decoder.decode(encode(message)[4:]):
            case Begin() as begin:
                receiver.begin(begin)
            case Accounts() | Overrides() | Keys() | Budgets() | Prices() as part:
                receiver.take(part)
            case End() as end:
                made = receiver.end(end)
    return made


def some_configuration(chance: random.Random) -> Configuration:
    """Return a configuration that has much in common with others."""
    names, users, keys = (chance.sample(range(8), chance.randrange(8)) for _ in range(3))
    known = list(service_keys(8, is_disabled=chance.random() < 0.5).items())
    return Configuration(
        accounts=tuple(account(f"p{number}", priority=chance.randrange(2)) for number in names),
        overrides=by_key(rule(f"user {number}", allow_fallback=chance.random() < 0.5) for number in users),
        public_prices=chance.choice([PublicPrices(), prices("a"), prices("b", "a")]),
        has_vendor=chance.random() < 0.5,
        service_keys=dict(known[number] for number in keys),
        peppers=(Pepper(chance.randrange(2), b"pepper"),),
        budgets=tuple(Budget(id=f"{number}", name="b", limit=1) for number in range(chance.choice([0, 0, 1, 3]))),
    )


def in_any_order(made: Configuration) -> Configuration:
    accounts = tuple(sorted(made.accounts, key=lambda each: each.provider.id))
    return msgspec.structs.replace(made, accounts=accounts)


def test_changes_of_any_number_of_versions_make_up_what_was_published() -> None:
    chance = random.Random(1)
    history, receiver, version = History(), ConfigurationAssembler(), None
    for _ in range(300):
        published = [some_configuration(chance) for _ in range(chance.randrange(1, KEPT + 3))]
        if chance.random() < 0.1:
            version = None
        for each in published:
            history.publish(each)
        version, messages = history.since(version)
        made = received(receiver, list(messages))
        assert made is not None
        assert in_any_order(made) == in_any_order(published[-1])
        assert list(made.public_prices.vendors) == list(published[-1].public_prices.vendors)


def test_objects_that_have_not_changed_stay_the_same_ones() -> None:
    history, receiver = History(), ConfigurationAssembler()
    history.publish(configuration("a", "b", users=3, public_prices=prices("one")))
    version, messages = history.since(None)
    first = received(receiver, list(messages))
    history.publish(configuration("a", "c", users=4, public_prices=prices("one")))
    for since in (version, None):
        _, messages = history.since(since)
        second = received(receiver, list(messages))
        assert first is not None
        assert second is not None
        assert second.accounts[0] is first.accounts[0]
        assert all(second.overrides[key] is first.overrides[key] for key in first.overrides)
        assert (len(first.overrides), len(second.overrides)) == (3, 4)


def test_the_same_configuration_again_keeps_the_table_of_overrides() -> None:
    history, receiver = History(), ConfigurationAssembler()
    history.publish(configuration("a", users=3))
    first, second = (received(receiver, list(history.since(None)[1])) for _ in range(2))
    assert first is not None
    assert second is not None
    assert second.overrides is first.overrides


async def bytes_of_next_version(reader: asyncio.StreamReader) -> int:
    """Read messages up to the end of a version, and return their size."""
    decoder, size = Decoder(FromControl), 0
    while True:
        payload = await read_frame(reader)
        message = decoder.decode(payload)
        if isinstance(message, Begin | Accounts | Overrides | Prices | End):
            size += len(payload)
        if isinstance(message, End):
            return size


async def test_one_override_among_50_000_costs_few_bytes(tmp_path: Path) -> None:
    published = configuration("a", users=50_000, public_prices=prices("one", models=500))
    async with control(tmp_path) as own, raw_worker(tmp_path) as (reader, _), worker(tmp_path) as running:
        own.server.publish(published)
        assert await bytes_of_next_version(reader) > 5_000_000
        more = msgspec.structs.replace(published, overrides=published.overrides | by_key([rule("one more")]))
        version = own.server.publish(more)
        assert await bytes_of_next_version(reader) < 400
        assert await asyncio.to_thread(own.server.wait_applied, version, 30.0) == ["worker 9 (process 99)"]
        assert running.configurations == [published, more]


def test_messages_have_at_most_500_rows() -> None:
    history = History()
    models = tuple(f"model {number}" for number in range(90))
    accounts = tuple(account(f"p{number}", models=models) for number in range(20))
    overrides = by_key(rule(f"user {number}") for number in range(2 * ROWS + 1))
    history.publish(Configuration(accounts=accounts, overrides=overrides, public_prices=prices("one", models=ROWS + 1)))
    sizes: dict[type, list[int]] = {Accounts: [], Overrides: [], Prices: []}
    for message in history.since(None)[1]:
        match message:
            case Accounts():
                sizes[Accounts].append(sum(1 + len(each.provider.models) for each in message.accounts))
            case Overrides():
                sizes[Overrides].append(len(message.overrides))
            case Prices():
                sizes[Prices].append(sum(len(vendor.models) for vendor in message.vendors.values()))
    assert sizes == {Accounts: [455] * 4, Overrides: [500, 500, 1], Prices: [500, 1]}


async def test_a_worker_that_misses_a_version_asks_for_everything(tmp_path: Path) -> None:
    async with control(tmp_path) as own, worker(tmp_path) as running:
        own.server.publish(configuration("a"))
        await until(running.providers)
        running.client._receiver.forget_version()  # as if it had another one
        own.server.publish(configuration("a", "b"))
        await until(lambda: running.providers() == ["a", "b"])
        assert running.events == []
        own.server.publish(configuration("b"))
        await until(lambda: running.providers() == ["b"])


async def test_other_work_gets_its_turn_while_many_overrides_arrive(tmp_path: Path) -> None:
    async with control(tmp_path) as own, worker(tmp_path) as running:
        await until(lambda: own.server.workers)
        turns = 0
        own.server.publish(configuration(users=50_000))
        while not running.configurations:
            turns += bool(running.client._receiver._begin)
            await asyncio.sleep(0)
        assert turns > 10
