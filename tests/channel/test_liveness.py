"""Beats, late workers, and metrics that are requested."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from llm_gateway.channel.messages import NAME, Applied, ControlBeat, Goodbye, encode
from llm_gateway.forwarding.stopped_process import is_stopped
from llm_gateway.wall_clock import CLOCK
from tests.channel.harness import configuration, control, counter, raw_worker, worker
from tests.waiting import until

PROGRAM = """
import asyncio, sys
from pathlib import Path
from llm_gateway.channel.client import ChannelClient, ChannelHandlers
from llm_gateway.channel.messages import NAME
from llm_gateway.forwarding.control_socket import ControlSocket

async def main():
    show = lambda configuration: print([each.provider.name for each in configuration.accounts], flush=True)
    handlers = ChannelHandlers(show, print, print, list)
    client = ChannelClient(ControlSocket(Path(sys.argv[1]), name=NAME), handlers, number=7, log=print)
    client.start()
    await client.first_configuration()
    await asyncio.sleep(60)

asyncio.run(main())
"""
"""A worker process that prints the providers it gets."""


@contextlib.asynccontextmanager
async def worker_process(data_dir: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, str(data_dir), stdout=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


@contextlib.asynccontextmanager
async def sleeping() -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", "import time; time.sleep(60)")
    try:
        yield process
    finally:
        process.kill()
        await process.wait()


async def test_control_counts_as_dead_one_second_after_its_connection_ended(tmp_path: Path) -> None:
    now = [100.0]
    async with worker(tmp_path, clock=lambda: now[0]) as running:
        assert not running.client.is_alive()
        async with control(tmp_path) as own:
            own.beat = ControlBeat(database_ok=False, shipping_lag_s=7.5)
            await until(lambda: running.client.last_beat == own.beat)
            assert running.client.is_alive()
        await until(lambda: running.client._writer is None)
        now[0] += 0.99
        assert running.client.is_alive()
        now[0] += 0.01
        assert not running.client.is_alive()
        async with control(tmp_path):
            await until(running.client.is_alive)


async def test_a_worker_awaits_the_next_control_for_two_seconds_once_it_is_announced(tmp_path: Path) -> None:
    now = [100.0]
    async with worker(tmp_path, clock=lambda: now[0]) as running:
        client = running.client
        async with control(tmp_path) as own:
            await until(client.is_alive)
            assert not client.is_handed_over()
            own.server.announce_leaving()
            await until(client.is_handed_over)
        await until(lambda: client._writer is None)
        now[0] += 1.99
        assert client.is_handed_over()
        assert not client.is_alive()
        now[0] += 0.01
        assert not client.is_handed_over()
        async with control(tmp_path):
            await until(client.is_alive)
            assert not client.is_handed_over(), "the next control has come"


async def test_a_frozen_control_counts_as_dead_after_three_silent_seconds(tmp_path: Path) -> None:
    now = [100.0]
    async with control(tmp_path) as own, worker(tmp_path, clock=lambda: now[0]) as running:
        await until(lambda: running.client.last_beat == own.beat)
        for task in own.server._tasks:  # its beats end, its connections stay
            task.cancel()
        ran_at = running.client._ran_at
        now[0] += 2.9
        await until(lambda: running.client._ran_at > ran_at)
        assert running.client.is_alive()
        now[0] += 0.2
        await until(lambda: running.client._ran_at == now[0])
        assert not running.client.is_alive()


async def test_a_control_that_a_signal_has_stopped_counts_as_dead_after_one_silent_second(tmp_path: Path) -> None:
    now = [100.0]
    async with control(tmp_path) as own, worker(tmp_path, clock=lambda: now[0]) as running, sleeping() as process:
        client = running.client
        await until(lambda: client.last_beat == own.beat)
        assert client._control_pid == os.getpid()
        for task in own.server._tasks:
            task.cancel()
        client._control_pid = process.pid
        process.send_signal(signal.SIGSTOP)
        await until(lambda: is_stopped(process.pid))
        assert client.is_alive()
        now[0] += 1.1
        await until(lambda: client._ran_at == now[0])
        assert not client.is_alive()
        process.send_signal(signal.SIGCONT)  # it is late, no more
        await until(client.is_alive)


async def test_silence_does_not_count_while_the_worker_itself_did_not_run(tmp_path: Path) -> None:
    now = [100.0]
    async with control(tmp_path) as own, worker(tmp_path, clock=lambda: now[0]) as running:
        await until(lambda: running.client.last_beat == own.beat)
        now[0] += 60
        assert running.client.is_alive()


async def test_a_state_that_cannot_be_read_does_not_end_the_beats(tmp_path: Path) -> None:
    async with control(tmp_path) as own, worker(tmp_path) as running:
        own.has_state = False
        await until(lambda: running.client.last_beat == ControlBeat(database_ok=False))
        own.beat, own.has_state = ControlBeat(shipping_lag_s=1), True
        await until(lambda: running.client.last_beat == own.beat)
        assert own.logged()[0] == "channel: state cannot be sent"


async def test_a_worker_has_the_time_of_control_also_when_its_state_cannot_be_read(tmp_path: Path) -> None:
    try:
        async with control(tmp_path) as own, worker(tmp_path):
            own.beat = ControlBeat(clock_offset_ms=-3_600_000)
            await until(lambda: CLOCK.offset_ms == -3_600_000)
            own.has_state = False
            await until(lambda: "channel: state cannot be sent" in own.logged())
            assert abs(CLOCK.now_s() + 3600 - time.time()) < 1
    finally:
        CLOCK.correct(0)


async def test_a_worker_that_does_not_apply_a_version_is_named_when_the_time_is_over(tmp_path: Path) -> None:
    async with control(tmp_path) as own, worker(tmp_path) as running, raw_worker(tmp_path) as (_, writer):
        await until(lambda: len(own.server.workers) == 2)
        version = own.server.publish(configuration("a"))
        began = time.monotonic()
        assert await asyncio.to_thread(own.server.wait_applied, version, 0.3) == ["worker 9 (process 99)"]
        assert time.monotonic() - began >= 0.3
        assert running.providers() == ["a"]
        writer.write(encode(Applied(version=version)))
        assert await asyncio.to_thread(own.server.wait_applied, version, 5.0) == []


async def test_a_silent_worker_is_named_without_being_waited_for(tmp_path: Path) -> None:
    async with control(tmp_path) as own, raw_worker(tmp_path):
        await until(lambda: own.server.workers)
        version = own.server.publish(configuration("a"))
        began = time.monotonic()
        assert await asyncio.to_thread(own.server.wait_applied, version, 60.0) == ["worker 9 (process 99)"]
        assert time.monotonic() - began < 5


async def test_a_worker_that_said_goodbye_is_not_waited_for(tmp_path: Path) -> None:
    async with control(tmp_path) as own:
        async with worker(tmp_path), raw_worker(tmp_path) as (_, writer):
            await until(lambda: len(own.server.workers) == 2)
            writer.write(encode(Goodbye()))
            writer.write_eof()
            await until(lambda: len(own.server.workers) == 1)
        await until(lambda: not own.server.workers, 0.9)
        assert await asyncio.to_thread(own.server.wait_applied, own.server.publish(configuration()), 60.0) == []


async def test_a_worker_whose_connection_broke_is_waited_for_while_it_may_live(tmp_path: Path) -> None:
    async with control(tmp_path) as own:
        async with raw_worker(tmp_path):
            await until(lambda: own.server.workers)
        await until(lambda: not own.server.workers[0].is_connected)
        version = own.server.publish(configuration("a"))
        waiting = asyncio.create_task(asyncio.to_thread(own.server.wait_applied, version, 60.0))
        await asyncio.sleep(0.1)
        assert not waiting.done()
        assert await waiting == []


async def test_reports_of_all_workers_are_collected_under_their_names(tmp_path: Path) -> None:
    async with control(tmp_path) as own, worker(tmp_path, 1) as one, worker(tmp_path, 2) as two, raw_worker(tmp_path):
        one.report, two.report = [counter(1, provider="a")], [counter(2)]
        await until(lambda: len(own.server.workers) == 3)
        keys = {each.number: each.key for each in own.server.workers}
        assert await own.server.ask_reports(0.5) == {keys[1]: one.report, keys[2]: two.report}
        one.report = []
        assert (await own.server.ask_reports(0.5))[keys[1]] == []


async def test_a_worker_that_ends_sends_its_last_report(tmp_path: Path) -> None:
    reports = []
    async with control(tmp_path, on_report=lambda key, families: reports.append((key, families))) as own:
        async with worker(tmp_path) as running:
            await until(lambda: own.server.workers)
            [known] = own.server.workers
            running.report = [counter(5)]
        assert reports[-1] == (known.key, [counter(5)])


async def test_a_worker_process_gets_changes_and_is_gone_when_it_is_killed(tmp_path: Path) -> None:
    async with control(tmp_path) as own, worker_process(tmp_path) as process:
        assert process.stdout is not None
        own.server.publish(configuration("a"))
        assert await process.stdout.readline() == b"['a']\n"
        version = own.server.publish(configuration("b"))
        assert await process.stdout.readline() == b"['b']\n"
        assert await asyncio.to_thread(own.server.wait_applied, version, 5.0) == []
        assert [(each.number, each.pid) for each in own.server.workers] == [(7, process.pid)]

        process.send_signal(signal.SIGSTOP)
        version = own.server.publish(configuration("c"))
        assert await asyncio.to_thread(own.server.wait_applied, version, 60.0) == [f"worker 7 (process {process.pid})"]
        process.send_signal(signal.SIGCONT)
        assert await process.stdout.readline() == b"['c']\n"

        process.kill()
        await until(lambda: not own.server.workers)
    assert not (tmp_path / NAME).exists()


async def test_a_worker_that_asks_for_a_commit_learns_how_much_is_stored(tmp_path: Path) -> None:
    async with control(tmp_path) as own, worker(tmp_path) as one, worker(tmp_path, number=2) as other:
        asked: list[tuple[str, int]] = []

        def commit(writer: str, entries: int, then: Callable[[int], None]) -> None:
            asked.append((writer, entries))
            for stored in (entries - 1, entries):
                then(stored)

        own.server.commit_by(commit)
        await until(lambda: one.client.is_alive() and other.client.is_alive())
        one.client.ask_commit("journal of one", 7)
        await until(lambda: 7 in one.got)
        assert asked == [("journal of one", 7)]
        assert other.got == []
    one.client.ask_commit("journal of one", 8)  # lost: nobody is connected
    assert not one.client.has_heard(0.0)
