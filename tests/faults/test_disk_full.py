"""No space for the journal: refused before any upstream call, what is in flight is settled, and back within seconds.

A limit on the size of the process's files stands in for a full disk. One byte less than a segment keeps it from
getting a new segment, and from nothing else, as a full disk does; zero makes every write fail, as a broken one does.
"""

from __future__ import annotations

import asyncio
import resource

from llm_gateway.journal.writer import SEGMENT_BYTES
from tests.e2e.process import GatewayProcess
from tests.faults.client import Answer, Client, Load
from tests.faults.conftest import Note
from tests.faults.scene import Scene

LARGE = "\N{FULL MOON SYMBOL}" * 256
"""What a label may hold at most, so that segments fill soon."""
RECOVERY_S, SLACK_S = 5.0, 1.5
FILLING_S = 60.0
CLIENTS = 48


def allow(gateway: GatewayProcess, file_bytes: int) -> None:
    """From now on its files cannot grow beyond that."""
    _, hard = resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(gateway.process.pid, resource.RLIMIT_FSIZE, (file_bytes, hard))


async def ask_once(gateway: GatewayProcess, marker: str) -> Answer:
    client = Client(gateway.port)
    try:
        return await client.generate(marker, "single")
    finally:
        client.close()


async def until_refused(load: Load) -> None:
    async with asyncio.timeout(FILLING_S):
        while 503 not in load.statuses:  # noqa: ASYNC110 - it is looked at, not told
            await asyncio.sleep(0.02)
    load.stop()
    await load.done()


async def seconds_until_served(gateway: GatewayProcess) -> float:
    """From now to the first answer."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    for number in range(1_000):
        answer = await ask_once(gateway, f"single.back{number}")
        if answer.status == 200:
            break
        assert loop.time() - started < RECOVERY_S + SLACK_S, answer
        await asyncio.sleep(0.05)
    return loop.time() - started


async def test_disk_full(scene: Scene, note: Note) -> None:
    """Whatever is sent is settled and answered; the rest is refused and not sent."""
    with scene.gateway(cache_ttl_seconds=0) as gateway:
        scene.providers(gateway, "slow-40")
        load = Load(clients=CLIENTS)
        load.fields = lambda: {"service": LARGE, "task_type": LARGE}
        allow(gateway, SEGMENT_BYTES - 1)
        load.start(gateway.port)
        await until_refused(load)
        bills = {bill.marker for bill in scene.bills}
        refused = [answer for answer in load.answers if answer.status != 200]
        assert {(answer.status, answer.code) for answer in refused} == {(503, "journal_unavailable")}
        assert not load.broken
        assert {answer.marker for answer in load.answers if answer.status == 200} == bills
        allow(gateway, resource.RLIM_INFINITY)
        recovery = await seconds_until_served(gateway)
        ledger = await asyncio.to_thread(scene.books, gateway)
        ledger.check_bills(scene.bills)
        ledger.check_answers(load.answers, scene.bills)
    note(f"{len(bills)} answered, {len(refused)} refused and not sent, served again after {recovery:.1f} s")


async def test_disk_failing(scene: Scene, note: Note, long: bool) -> None:
    """Every write fails, the log's too. What was in flight is recorded once writing works again."""
    for fsync in ("always", "interval") if long else ("always",):
        load = Load(clients=CLIENTS, name=fsync)
        with scene.gateway(cache_ttl_seconds=0, journal_fsync=fsync) as gateway:
            if fsync == "always":
                scene.providers(gateway, "slow-40")
            recovery = await fail_and_recover(scene, gateway, load)
            ledger = await asyncio.to_thread(scene.books, gateway)
            bills = scene.bills
            ledger.check_bills(bills)
            ledger.check_answers(load.answers, bills)
            assert not load.broken
            assert ledger.count("ok") == len(bills)
        answered, refused = load.statuses[200], load.statuses[503]
        note(f"fsync {fsync}: {answered} answered, {refused} refused, served again after {recovery:.1f} s")


async def fail_and_recover(scene: Scene, gateway: GatewayProcess, load: Load) -> float:
    """Seconds from the first write that is possible again to the first answer."""
    load.start(gateway.port)
    await asyncio.sleep(0.5)
    allow(gateway, 0)
    await until_refused(load)
    before = len(scene.bills)
    for number in range(3):
        answer = await ask_once(gateway, f"single.refused{number}")
        assert (answer.status, answer.code) == (503, "journal_unavailable")
        await asyncio.sleep(0.3)
    assert len(scene.bills) == before
    allow(gateway, resource.RLIM_INFINITY)
    return await seconds_until_served(gateway)
