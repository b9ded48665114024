"""Configurations on their way to workers: complete, in order, and again after each new connection."""

from __future__ import annotations

import asyncio
from pathlib import Path

from llm_gateway.domain.key_secret import Pepper
from llm_gateway.domain.usage import KeyCall, RecentCalls, SentAttempt
from tests.channel.harness import configuration, control, prices, service_keys, worker
from tests.waiting import until


async def test_a_worker_gets_the_whole_configuration_as_it_was_published(tmp_path: Path) -> None:
    keys = {"service_keys": service_keys(1_200), "peppers": (Pepper(1, b"p"),)}
    published = configuration(
        "a", "b", users=1_200, **keys, public_prices=prices("one", "two", models=700), has_vendor=True
    )
    async with control(tmp_path) as own, worker(tmp_path) as running:
        own.server.publish(published)
        async with asyncio.timeout(5):
            await running.client.first_configuration()
        assert running.configurations == [published]
        assert list(running.configurations[0].public_prices.vendors) == ["one", "two"]


async def test_a_worker_that_connects_later_gets_the_newest_configuration(tmp_path: Path) -> None:
    async with control(tmp_path) as own:
        own.server.publish(configuration("old"))
        own.server.publish(configuration("new"))
        async with worker(tmp_path) as running:
            await until(running.providers)
            assert [len(running.configurations), *running.providers()] == [1, "new"]


async def test_a_test_that_passed_arrives_after_the_configuration_before_it(tmp_path: Path) -> None:
    async with control(tmp_path) as own, worker(tmp_path) as running:
        await until(lambda: own.server.workers)
        for number in range(20):
            own.server.publish(configuration(f"p{number}"))
            own.server.passed(f"p{number}")
            await until(lambda: f"p{number}" in running.got)  # noqa: B023 - awaited here
        order = [each if isinstance(each, str) else each.accounts[0].provider.name for each in running.got]
        assert order == [f"p{number // 2}" for number in range(40)]


async def test_configurations_of_several_threads_arrive_in_the_order_of_their_versions(tmp_path: Path) -> None:
    async with control(tmp_path) as own, worker(tmp_path) as running:
        published: dict[int, str] = {}

        def publish(thread: int) -> None:
            for number in range(50):
                name = f"{thread}-{number}"
                published[own.server.publish(configuration(name))] = name

        await asyncio.gather(*(asyncio.to_thread(publish, thread) for thread in range(4)))
        assert sorted(published) == list(range(1, 201))
        assert await asyncio.to_thread(own.server.wait_applied, 200, 5.0) == []
        assert running.providers() == [published[200]]
        arrived = [each.accounts[0].provider.name for each in running.configurations]
        versions = [version for name in arrived for version in published if published[version] == name]
        assert versions == sorted(versions)


async def test_a_worker_keeps_its_configuration_and_gets_all_again_from_the_next_control(tmp_path: Path) -> None:
    async with worker(tmp_path) as running:
        async with control(tmp_path) as own:
            own.server.publish(configuration("a"))
            await until(running.providers)
        async with control(tmp_path) as own:
            own.server.publish(configuration("b", users=2))
            await until(lambda: len(running.configurations) == 2)
        assert running.configurations == [configuration("a"), configuration("b", users=2)]


async def test_calls_of_the_last_minute_come_once_before_the_first_configuration(tmp_path: Path) -> None:
    calls = RecentCalls(
        [SentAttempt("p", number, 1) for number in range(1_001)], [KeyCall("k", number, 1) for number in range(1_001)]
    )
    async with worker(tmp_path) as running:
        for name in ("a", "b"):
            async with control(tmp_path, calls) as own:
                own.server.publish(configuration(name))
                await until(lambda: running.providers() == [name])  # noqa: B023 - awaited here
        assert running.got == [calls, configuration("a"), configuration("b")]


async def test_a_configuration_that_cannot_be_applied_is_logged_and_the_next_one_is_applied(tmp_path: Path) -> None:
    async with control(tmp_path) as own, worker(tmp_path) as running:

        def fail(_configuration: object) -> None:
            raise ValueError("secret")

        handlers = running.client._handlers
        running.client._handlers = handlers._replace(on_configuration=fail)
        version = own.server.publish(configuration("a"))
        await until(lambda: running.events)
        assert running.events == [
            (
                "channel: configuration cannot be applied",
                {"level": "error", "version": version, "problem": "ValueError"},
            )
        ]
        assert [each.version for each in own.server.workers] == [0]
        running.client._handlers = handlers
        own.server.publish(configuration("b"))
        await until(running.providers)
