"""One of the gateway's processes is killed or frozen, or its sockets are deleted: calls go on, and none is lost."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

import msgspec
import pytest

from tests.e2e.process import GatewayProcess
from tests.e2e.streaming_vendor import BEGIN, DONE, Pause, StreamingVendor, delta, finish, usage
from tests.faults.client import BROKEN, Answer, Client, Load, http_request
from tests.faults.conftest import Note
from tests.faults.ledger import PRICES
from tests.faults.scene import Scene
from tests.waiting import until

CLIENTS = 8
LONG_ROUNDS = 100
BEFORE_S, AFTER_S = 0.3, 0.5
"""Seconds of load before and after the fault."""
BACK_S = 10.0
"""Maximum seconds until a killed process is replaced: it takes a second, if other tests leave it a processor."""
LONGEST_PAUSE_S = 5.0
"""Seconds that the supervisor waits before it starts a process again that has died again and again."""
UNNOTICED_S = 2.0
"""Maximum seconds until workers notice that control is frozen: it is stopped, and its beats are missing for one."""
AT_ONCE_S = 2.0
ORPHANED_S = 3.0
"""Maximum seconds until an orphaned worker refuses connections; one that it drops is tried again after a second."""
FROZEN_QUICK_S, FROZEN_LONG_S = 5.0, 60.0
MANAGEMENT = "/api/v1/providers"
MODELS = ("slow-40", "slow-90")
"""Models of the providers that are asked: they pace the load."""


class Reply(NamedTuple):
    """Answer of the management API, with the times of its request and of its arrival."""

    asked: float
    came: float
    answer: Answer

    @property
    def is_refusal(self) -> bool:
        """Whether it says that control is away, and when to ask again."""
        is_away = self.answer.status == 503 and self.answer.code == "management_unavailable"
        return is_away and self.answer.headers.get("retry-after") == "1"


async def ask_management(gateway: GatewayProcess) -> Reply:
    client = Client(gateway.port)
    asked = time.monotonic()
    await client.send(http_request("GET", MANAGEMENT))
    answer = await client.read()
    client.close()
    return Reply(asked, time.monotonic(), answer)


async def management_becomes(gateway: GatewayProcess, *, refused: bool, within_s: float) -> list[Reply]:
    """Ask the management API until it refuses or serves. Returns all replies; each must be one of both."""
    replies: list[Reply] = []
    async with asyncio.timeout(within_s):
        while True:
            reply = await ask_management(gateway)
            assert reply.is_refusal or reply.answer.status == 200, reply
            replies.append(reply)
            if reply.is_refusal == refused:
                return replies
            await asyncio.sleep(0.01)


async def first_answer(gateway: GatewayProcess, marker: str) -> float:
    """Send requests until one is answered with 200. Returns the seconds that took."""
    started = time.monotonic()
    async with asyncio.timeout(BACK_S):
        while True:
            client = Client(gateway.port)
            try:
                if (await client.generate(marker, marker.partition(".")[0])).status == 200:
                    return time.monotonic() - started
            except BROKEN:
                await asyncio.sleep(0.01)
            finally:
                client.close()


@asynccontextmanager
async def under_load(gateway: GatewayProcess, load: Load) -> AsyncIterator[None]:
    """Send requests before, while and after the block runs."""
    load.start(gateway.port)
    await asyncio.sleep(BEFORE_S)
    yield
    await asyncio.sleep(AFTER_S)
    load.stop()
    await load.done()


async def count_cut_off(scene: Scene, gateway: GatewayProcess, load: Load) -> int:
    """Check the records against bills and answers. Returns the number of records of cut off requests."""
    ledger = await asyncio.to_thread(scene.books, gateway)
    bills = scene.bills
    ledger.check_bills(bills)
    ledger.check_answers(load.answers, bills)
    return ledger.count("cancelled")


@pytest.mark.fault("kill -9 of a worker under load", "SIGKILL; clients connect again, the other processes live on")
@pytest.mark.parametrize("workers", [1, 2], ids=["one worker", "two workers"])
async def test_a_killed_worker_is_replaced_and_its_calls_are_recorded(
    scene: Scene, note: Note, long: bool, workers: int
) -> None:
    rounds = LONG_ROUNDS if long else workers
    load = Load(clients=CLIENTS, reconnects=True)
    slowest = 0.0
    with scene.gateway(workers=workers) as gateway:
        scene.providers(gateway, *MODELS)
        control = gateway.control_pid
        for number in range(rounds):
            async with under_load(gateway, load):
                await until(lambda: len(gateway.worker_pids) == workers, BACK_S)
                os.kill(random.choice(gateway.worker_pids), signal.SIGKILL)
                slowest = max(slowest, await first_answer(gateway, f"probe.{number}"))
        assert load.statuses.keys() == {200}, load.statuses
        assert gateway.control_pid == control
        await management_becomes(gateway, refused=False, within_s=BACK_S)
        cut_off = await count_cut_off(scene, gateway, load)
        assert gateway.log.count("process ended, it is started again") == rounds
    assert len(load.broken) <= CLIENTS * rounds, load.broken
    assert cut_off <= len(load.broken)
    assert workers == 1 or slowest < AT_ONCE_S
    note(
        f"{rounds} kills, {sum(load.sent.values())} requests, {len(load.answers)} answers read, {len(load.broken)} "
        f"connections ended ({cut_off} records cut off): 0 calls without a record, 0 twice; served again after "
        f"{slowest:.1f} s"
    )


@pytest.mark.fault("kill -9 of control under load", "SIGKILL; reports are asked meanwhile")
async def test_a_killed_control_process_fails_no_call(scene: Scene, note: Note, long: bool) -> None:
    rounds, back_s = (LONG_ROUNDS, BACK_S + LONGEST_PAUSE_S) if long else (2, BACK_S)
    load = Load(clients=CLIENTS)
    replies: list[Reply] = []
    with scene.gateway() as gateway:
        scene.providers(gateway, *MODELS)
        workers = sorted(gateway.worker_pids)
        for _ in range(rounds):
            async with under_load(gateway, load):
                os.kill(gateway.control_pid, signal.SIGKILL)
                replies += await management_becomes(gateway, refused=True, within_s=BACK_S)
                replies += await management_becomes(gateway, refused=False, within_s=back_s)
        assert sorted(gateway.worker_pids) == workers
        assert load.statuses.keys() == {200}, load.statuses
        assert not load.broken
        assert await count_cut_off(scene, gateway, load) == 0
        assert gateway.log.count("process ended, it is started again") == rounds
    slowest = max(reply.came - reply.asked for reply in replies if reply.is_refusal)
    assert slowest < AT_ONCE_S
    note(
        f"{rounds} kills, {len(load.answers)} calls: 0 failed, all recorded; {sum(r.is_refusal for r in replies)} "
        f"reports refused with 503, the slowest after {slowest:.2f} s"
    )


@pytest.mark.fault("control frozen under load", "SIGSTOP, then SIGCONT; reports are asked meanwhile")
async def test_a_frozen_control_process_fails_no_call(scene: Scene, note: Note, long: bool) -> None:
    seconds = FROZEN_LONG_S if long else FROZEN_QUICK_S
    load = Load(clients=CLIENTS)
    with scene.gateway() as gateway:
        scene.providers(gateway, *MODELS)
        control = gateway.control_pid
        async with under_load(gateway, load):
            frozen = time.monotonic()
            os.kill(control, signal.SIGSTOP)
            try:
                noticed = (await management_becomes(gateway, refused=True, within_s=UNNOTICED_S))[-1].came - frozen
                refused = []
                while time.monotonic() - frozen < seconds:
                    refused.append(await ask_management(gateway))
                    await asyncio.sleep(0.05)
            finally:
                os.kill(control, signal.SIGCONT)
            await management_becomes(gateway, refused=False, within_s=BACK_S)
        assert gateway.control_pid == control
        assert load.statuses.keys() == {200}, load.statuses
        assert not load.broken
        assert await count_cut_off(scene, gateway, load) == 0
    assert refused
    assert all(reply.is_refusal for reply in refused), refused
    slowest = max(reply.came - reply.asked for reply in refused)
    assert slowest < AT_ONCE_S
    note(
        f"{seconds:.0f} s, {len(load.answers)} calls: 0 failed, all recorded; noticed after {noticed:.1f} s, then "
        f"{len(refused)} reports refused with 503, the slowest after {slowest:.2f} s"
    )


@pytest.mark.fault("kill -9 of the supervisor", "SIGKILL in the middle of a stream; a start on the same data and port")
async def test_orphans_finish_their_requests_and_a_new_gateway_takes_over(scene: Scene, note: Note) -> None:
    with StreamingVendor() as streamer, scene.gateway(drain_seconds=20) as gateway:
        streamer.steps = [BEGIN, delta(content="one"), Pause(2), delta(content="two"), finish(), usage(11, 7), DONE]
        gateway.provider("streamer", streamer.url, "streamer-1", prices={"streamer-1": PRICES})
        scene.providers(gateway, "slow-900")
        calls = [asyncio.create_task(call(gateway, f"customer.{number}")) for number in range(CLIENTS)]
        reader, writer = await open_stream(gateway)
        async with asyncio.timeout(BACK_S):
            while scene.mock.seen().in_flight < CLIENTS:  # noqa: ASYNC110 - another process must be polled
                await asyncio.sleep(0.01)
        killed = time.monotonic()
        gateway.kill_supervisor()
        await until_refused(gateway)
        successor = scene.gateway(port=gateway.port)
        successor.log_file = scene.directory / "gateway-successor.log"
        successor.launch()
        rest = await reader.readuntil(DONE)
        assert b"two" in rest
        answers = await asyncio.gather(*calls)
        writer.close()
        await asyncio.to_thread(gateway.wait_for_orphans)
        ended = time.monotonic() - killed
        try:
            await asyncio.to_thread(successor.wait_until_ready)
            took = time.monotonic() - killed
            answers.append(await call(successor, "customer.last"))
            ledger = await asyncio.to_thread(scene.books, successor)
        finally:
            assert await asyncio.to_thread(successor.stop) == 0
    assert "waiting for the processes of a killed gateway to end" in successor.log
    assert [answer.status for answer in answers] == [200] * (CLIENTS + 1)
    assert ledger.check_answers(answers, scene.bills) == len(scene.bills) == CLIENTS + 1
    assert ledger.count("ok") == len(ledger.rows) == CLIENTS + 2
    note(
        f"{CLIENTS} calls and a stream went on to their end; the orphans ended after {ended:.1f} s, and a new gateway "
        f"served after {took:.1f} s with all records"
    )


async def until_refused(gateway: GatewayProcess) -> None:
    """Wait until nobody listens any more: the orphaned worker closes its listener at once."""
    async with asyncio.timeout(ORPHANED_S):
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
            except ConnectionRefusedError:
                return
            writer.close()
            await asyncio.sleep(0.01)


async def call(gateway: GatewayProcess, marker: str) -> Answer:
    client = Client(gateway.port)
    try:
        return await client.generate(marker, marker.partition(".")[0], model="slow-900")
    finally:
        client.close()


async def open_stream(gateway: GatewayProcess) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Request a stream and read its first words."""
    body = {"model": "streamer-1", "stream": True, "messages": [{"role": "user", "content": "Count"}]}
    reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
    writer.write(http_request("POST", "/v1/chat/completions", msgspec.json.encode(body), cache_control="no-store"))
    await reader.readuntil(b"one")
    return reader, writer


@pytest.mark.fault("control.sock and channel.sock deleted", "both files; then the worker is killed, so it must connect")
async def test_deleted_sockets_are_made_again(scene: Scene, note: Note) -> None:
    load = Load(clients=CLIENTS)
    with scene.gateway() as gateway:
        scene.providers(gateway, *MODELS)
        async with under_load(gateway, load):
            for name in ("control.sock", "channel.sock"):
                (scene.data / name).unlink()
            deleted = time.monotonic()
            await management_becomes(gateway, refused=False, within_s=BACK_S)
            async with asyncio.timeout(BACK_S):
                while not (scene.data / "channel.sock").exists():  # noqa: ASYNC110 - another process must be polled
                    await asyncio.sleep(0.01)
            took = time.monotonic() - deleted
        assert load.statuses.keys() == {200}, load.statuses
        assert not load.broken
        (scene.data / "channel.sock").unlink()
        os.kill(random.choice(gateway.worker_pids), signal.SIGKILL)
        served = await first_answer(gateway, "probe.0")
        await management_becomes(gateway, refused=False, within_s=BACK_S)
        assert await count_cut_off(scene, gateway, load) == 0
    note(
        f"{len(load.answers)} calls meanwhile: 0 failed; both sockets were there again after {took:.1f} s, a worker "
        f"that was killed then served after {served:.1f} s"
    )
