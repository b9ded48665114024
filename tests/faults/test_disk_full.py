"""Without disk space requests are refused before any upstream call, those in flight are settled, and service resumes.

The disk is a small tmpfs that is really full or, where none can be mounted, a limit on the process's file size
(RLIMIT_FSIZE): one byte below a segment prevents new segments only, like a full disk; zero makes every write fail.
"""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from llm_gateway.journal.writer import SEGMENT_BYTES
from tests.e2e.process import GatewayProcess
from tests.faults.client import Answer, Client, Load
from tests.faults.conftest import Note
from tests.faults.scene import Scene

LARGE = "\N{FULL MOON SYMBOL}" * 256
"""A label of maximum length."""
FIELDS = {"service": LARGE, "task_type": LARGE}
TAGS = ",".join(f"{number}{'k' * 63}={'v' * 64}" for number in range(10))
"""Fields and tags that make records as large as they get, so that segments fill quickly."""
RECOVERY_S = 5.0
FILLING_S = 60.0
"""Seconds for each worker in which all are full: each has two segments, for 4,000 calls, and the cores may be few."""
READINESS_CHECKS = 8
"""Checks of readiness in a row, each by any of the workers."""
CLIENTS = 48
DISK_BYTES = 256 * 1024 * 1024
"""Size of the small tmpfs for each worker: each fills two segments of its own, three times."""
LITTLE_BYTES = 48 * 1024 * 1024
"""Space for each worker that comes back after little was freed: three segments, of which writers would take two."""


def allow(pids: Iterable[int], file_bytes: int) -> None:
    """Limit the size of the files of these processes from now on."""
    for pid in pids:
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (file_bytes, hard))


async def ask_once(gateway: GatewayProcess, marker: str) -> Answer:
    client = Client(gateway.port)
    try:
        return await client.generate(marker, "single")
    finally:
        client.close()


async def readiness(gateway: GatewayProcess) -> tuple[int, str | None]:
    answer = await asyncio.to_thread(gateway.call, "GET", "/readyz", key=None)
    return answer.status, answer.json.get("code")


async def seconds_until_ready(gateway: GatewayProcess) -> float:
    """Return the seconds until the readiness check succeeds, without any request being sent."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    while await readiness(gateway) != (200, None):
        assert loop.time() - started < RECOVERY_S
        await asyncio.sleep(0.05)
    return loop.time() - started


async def until_refused(load: Load, workers: int) -> None:
    before = load.statuses[503]
    async with asyncio.timeout(FILLING_S * workers):
        while load.statuses[503] == before:  # noqa: ASYNC110 - another process must be polled
            await asyncio.sleep(0.02)
    load.stop()
    await load.done()


async def until_one_alone_is_refused(gateway: GatewayProcess, load: Load, workers: int) -> None:
    """Send load until a single request is refused, too. Concurrent ones are refused earlier: each reserves space."""
    for _ in range(1_000):
        load.start(gateway.port)
        await until_refused(load, workers)
        answer = await ask_once(gateway, "single.alone")
        load.answers.append(answer)
        if answer.status != 200:
            return
    raise AssertionError("it goes on serving")


async def until_no_worker_serves(gateway: GatewayProcess, load: Load, workers: int) -> None:
    """Send load until the readiness check fails whoever answers it: each worker fills a segment of its own."""
    async with asyncio.timeout(FILLING_S * workers):
        while True:
            await until_one_alone_is_refused(gateway, load, workers)
            answers = {await readiness(gateway) for _ in range(READINESS_CHECKS)}
            if answers == {(503, "journal_unavailable")}:
                return
            assert answers <= {(200, None), (503, "journal_unavailable")}


async def seconds_until_served(gateway: GatewayProcess) -> float:
    """Return the seconds until the first successful answer."""
    loop = asyncio.get_running_loop()
    started = loop.time()
    for _ in range(1_000):
        answer = await ask_once(gateway, "single.back")
        if answer.status == 200:
            break
        assert loop.time() - started < RECOVERY_S, answer
        await asyncio.sleep(0.05)
    return loop.time() - started


@pytest.fixture
def no_small_disk(tmp_path: Path, long: bool) -> None:
    """Skip a short run of the test where a small tmpfs can be mounted: it shows more."""
    if not long and mount_small_disk(tmp_path / "small") is None:
        subprocess.run(["umount", str(tmp_path / "small")], check=True)
        pytest.skip("a file system that is really full shows more: make faults")


@pytest.mark.fault("no space for the journal, by RLIMIT_FSIZE", "no further segment can be made; load until refused")
@pytest.mark.usefixtures("no_small_disk")
async def test_a_file_size_limit_refuses_new_requests_and_settles_those_in_flight(scene: Scene, note: Note) -> None:
    """Every request sent upstream is settled and answered; every other one is refused."""
    with scene.gateway(cache_ttl_seconds=0) as gateway:
        scene.providers(gateway, "slow-40")
        load = Load(clients=CLIENTS)
        load.fields, load.headers = lambda: FIELDS, {"x_tags": TAGS}
        allow(gateway.pids, SEGMENT_BYTES - 1)
        await until_one_alone_is_refused(gateway, load, scene.workers)
        bills = Counter(bill.marker for bill in scene.bills)
        refused = [answer for answer in load.answers if answer.status != 200]
        assert {(answer.status, answer.code) for answer in refused} == {(503, "journal_unavailable")}
        assert not load.broken
        assert Counter(answer.marker for answer in load.answers if answer.status == 200) == bills
        allow(gateway.pids, resource.RLIM_INFINITY)
        recovery = await seconds_until_served(gateway)
        ledger = await asyncio.to_thread(scene.books, gateway)
        ledger.check_bills(scene.bills)
        ledger.check_answers(load.answers, scene.bills)
    note(f"{bills.total()} answered, {len(refused)} refused and not sent, served again after {recovery:.1f} s")


@pytest.fixture
def small_disk(tmp_path: Path, scene: Scene) -> Iterator[Path]:
    """Mount a small tmpfs; skip the test where that is not possible."""
    place = tmp_path / "small"
    problem = mount_small_disk(place, scene.workers)
    if problem is not None:
        pytest.skip(problem)
    yield place
    subprocess.run(["umount", str(place)], check=True)


def mount_small_disk(place: Path, workers: int = 1) -> str | None:
    """Mount a tmpfs of DISK_BYTES for each worker on a new folder. Returns an error message, None on success."""
    place.mkdir()
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        return "only root can mount a tmpfs"
    command = [mount, "-t", "tmpfs", "-o", f"size={DISK_BYTES * workers}", "tmpfs", str(place)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    return f"no tmpfs can be mounted here: {mounted.stderr.strip()}" if mounted.returncode else None


@pytest.mark.fault(
    "a full file system", "a small tmpfs that another file fills; load until refused; then that file is deleted"
)
async def test_a_full_file_system_refuses_new_requests_and_settles_those_in_flight(
    scene: Scene, small_disk: Path, note: Note, long: bool
) -> None:
    """Database and journal are both on it: records wait in the journal until neither has space."""
    times = 3 if long else 1
    load = Load(clients=CLIENTS)
    load.fields, load.headers = lambda: FIELDS, {"x_tags": TAGS}
    data, filler = small_disk / "data", small_disk / "filler"
    slowest, bills = 0.0, Counter[str | None]()
    with scene.gateway(cache_ttl_seconds=0, data_dir=data) as gateway:
        scene.providers(gateway, "slow-40")
        for _ in range(times):
            load.start(gateway.port)
            await asyncio.sleep(0.5)
            load.stop()
            await load.done()
            await asyncio.to_thread(fill, filler)
            await until_no_worker_serves(gateway, load, scene.workers)
            bills = Counter(bill.marker for bill in scene.bills if bill.marker != "single.back")
            filler.unlink()
            slowest = max(slowest, await seconds_until_ready(gateway), await seconds_until_served(gateway))
        refused = [answer for answer in load.answers if answer.status != 200]
        assert {(answer.status, answer.code) for answer in refused} == {(503, "journal_unavailable")}
        assert not load.broken
        answered = Counter(answer.marker for answer in load.answers if answer.status == 200)
        assert answered == bills
        ledger = await asyncio.to_thread(scene.books, gateway, data)
        ledger.check_bills(scene.bills)
        ledger.check_answers(load.answers, scene.bills)
    note(
        f"filled {times} times: {answered.total()} answered and settled, {len(refused)} refused and not sent, "
        f"served again after {slowest:.1f} s"
    )


@pytest.mark.fault(
    "a full file system, and little space comes back",
    "a small tmpfs that another file fills; load until refused; then that file loses 48 MiB for each worker",
)
async def test_usage_that_waits_gets_the_little_space_that_comes_back(
    scene: Scene, small_disk: Path, note: Note
) -> None:
    """Segments are made once the database has what it needs, since it frees those that it has stored."""
    load = Load(clients=CLIENTS)
    load.fields, load.headers = lambda: FIELDS, {"x_tags": TAGS}
    data, filler = small_disk / "data", small_disk / "filler"
    with scene.gateway(cache_ttl_seconds=0, data_dir=data) as gateway:
        scene.providers(gateway, "slow-40")
        await asyncio.to_thread(fill, filler)
        await until_no_worker_serves(gateway, load, scene.workers)
        started = time.monotonic()
        os.truncate(filler, filler.stat().st_size - LITTLE_BYTES * scene.workers)
        await asyncio.to_thread(scene.books, gateway, data)
        stored = time.monotonic() - started
        await seconds_until_ready(gateway)
        recovery = await seconds_until_served(gateway)
        ledger = await asyncio.to_thread(scene.books, gateway, data)
        ledger.check_bills(scene.bills)
        ledger.check_answers(load.answers, scene.bills)
    note(f"{len(scene.bills)} answered, all stored after {stored:.1f} s, then served again after {recovery:.1f} s")


def fill(file: Path) -> None:
    """Fill the file system with one file."""
    with file.open("wb", buffering=0) as filler:
        for size in (1024 * 1024, 4096, 1):
            try:
                while True:
                    filler.write(bytes(size))
            except OSError:
                continue


@pytest.mark.fault("every write fails, by RLIMIT_FSIZE", "the journal's, the database's and the log's; load meanwhile")
async def test_requests_in_flight_are_recorded_after_every_write_has_failed(
    scene: Scene, note: Note, long: bool
) -> None:
    """Every write fails, the log's, too. Requests in flight are recorded once writing works again."""
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
    """Let all writes fail for a while under load. Returns the seconds from their end to the first answer."""
    load.start(gateway.port)
    await asyncio.sleep(0.5)
    allow(gateway.pids, 0)
    await until_refused(load, scene.workers)
    before = len(scene.bills)
    for number in range(3):
        answer = await ask_once(gateway, f"single.refused{number}")
        assert (answer.status, answer.code) == (503, "journal_unavailable")
        await asyncio.sleep(0.3)
        assert await readiness(gateway) == (503, "journal_unavailable")
    assert len(scene.bills) == before
    allow(gateway.pids, resource.RLIM_INFINITY)
    return await seconds_until_served(gateway)


@pytest.mark.fault("a report while no worker can write", "by RLIMIT_FSIZE, under load; a report then, and right after")
async def test_a_report_lacks_no_answer_that_a_worker_could_not_write(scene: Scene, note: Note) -> None:
    """Workers cannot even publish how much they have in memory, so that no report may be given."""
    load = Load(clients=CLIENTS)
    with scene.gateway(cache_ttl_seconds=0) as gateway:
        scene.providers(gateway, "slow-40")
        load.start(gateway.port)
        async with asyncio.timeout(FILLING_S):
            while load.statuses[200] < CLIENTS:  # noqa: ASYNC110 - another process must be polled
                await asyncio.sleep(0.02)
        allow(gateway.worker_pids, 0)
        await until_refused(load, scene.workers)
        report = await asyncio.to_thread(gateway.call, "GET", "/api/v1/usage/summary")
        assert (report.status, report.json["code"]) == (503, "database_unavailable")
        allow(gateway.worker_pids, resource.RLIM_INFINITY)
        ledger = await asyncio.to_thread(scene.books, gateway)
        ledger.check_bills(scene.bills)
        ledger.check_answers(load.answers, scene.bills)
        assert ledger.count("ok") == len(scene.bills)
    note(f"{load.statuses[200]} answered, {load.statuses[503]} refused or failed: 503, then all are in the report")
