"""Clients that disconnect at any point: their requests are recorded, and nothing leaks."""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

import msgspec
import pytest

from tests.e2e.process import GatewayProcess
from tests.faults.client import BROKEN, PATH, Client, generate_body, http_request
from tests.faults.conftest import Note
from tests.faults.ledger import Ledger
from tests.faults.scene import Scene

QUICK, LONG = 200, 1_000
AT_ONCE = 25
SETTLED_S = 20.0
FEW = 10
MAX_TOKENS = 100
WINDOW_S = 60.0


class Wave:
    """Clients that disconnect at random points, and the sets of what they did."""

    def __init__(self, gateway: GatewayProcess, name: str) -> None:
        self.complete: set[str] = set()
        """Markers of requests that were sent whole and not reset, so the gateway must have read them."""
        self.reset: set[str] = set()
        self.cut: set[str] = set()
        self._gateway = gateway
        self._name = name
        self._slots = asyncio.Semaphore(AT_ONCE)

    async def run(self, count: int) -> None:
        await asyncio.gather(*(self._leave(number) for number in range(count)))

    async def _leave(self, number: int) -> None:
        marker = f"{self._name}.{number}"
        data = http_request("POST", PATH, generate_body(marker, self._name))
        upto = random.choice((random.randrange(len(data)), len(data), len(data), len(data)))
        async with self._slots:
            client = Client(self._gateway.port)
            await client.send(data[:upto])
            pause = random.choice((0.0, random.uniform(0, 0.15)))
            if random.random() < 0.2 and upto == len(data):
                try:
                    await client.read()
                except BROKEN as error:
                    raise AssertionError(marker) from error
            else:
                await asyncio.sleep(pause)
            if upto < len(data):
                self.cut.add(marker)
            if random.random() < 0.5:
                client.reset()
                if upto == len(data):
                    self.reset.add(marker)
            else:
                client.close()
                if upto == len(data):
                    self.complete.add(marker)


def metric(gateway: GatewayProcess, name: str) -> float:
    lines = gateway.call("GET", "/metrics").body.decode().splitlines()
    return next(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def open_files(gateway: GatewayProcess) -> int:
    """Return the number of files that the gateway's workers have open."""
    return sum(len(list(Path(f"/proc/{pid}/fd").iterdir())) for pid in gateway.worker_pids)


def descriptors(scene: Scene, gateway: GatewayProcess) -> int:
    """Return the number of the gateway's open files, without its connections to the vendor."""
    return open_files(gateway) - (scene.mock.seen().connections - 1)


async def none_in_flight(gateway: GatewayProcess) -> None:
    async with asyncio.timeout(SETTLED_S):
        while metric(gateway, "llm_gateway_requests_in_flight"):  # noqa: ASYNC110 - another process must be polled
            await asyncio.sleep(0.05)


def threads(gateway: GatewayProcess) -> int:
    return sum(len(list(Path(f"/proc/{pid}/task").iterdir())) for pid in gateway.worker_pids)


async def check_reservations(gateway: GatewayProcess, provider: str, ledger: Ledger) -> int:
    """Check that the limiter's count equals the records' tokens: one more request fits exactly. Returns the tokens."""
    used = sum(attempt.limit_tokens for row in ledger.rows for attempt in row.sent)
    marker = "wave.last"
    prompt: str = msgspec.json.decode(generate_body(marker, "wave"))["prompt"]
    needed = len(prompt) // 4 + 8 + MAX_TOKENS
    client = Client(gateway.port)
    for limit, expected in ((used + needed - 1, 429), (used + needed, 200)):
        response = await asyncio.to_thread(gateway.call, "PATCH", provider, {"rate_limit_tpm": limit})
        assert response.status == 200
        answer = await client.generate(marker, "wave")
        assert answer.status == expected, (limit, answer)
    client.close()
    return used


@pytest.mark.fault(
    "clients disconnect at random points", "sockets closed or reset in the request, or while it is served"
)
async def test_requests_of_disconnected_clients_are_recorded_and_leak_nothing(
    scene: Scene, note: Note, long: bool
) -> None:
    began = time.monotonic()
    with scene.gateway() as gateway:
        (provider,) = scene.providers(gateway, "slow-100")
        warm = Wave(gateway, "warm")
        await warm.run(AT_ONCE * 2)
        await none_in_flight(gateway)
        await asyncio.sleep(0.3)
        before, threads_before = descriptors(scene, gateway), threads(gateway)
        wave = Wave(gateway, "wave")
        await wave.run(LONG if long else QUICK)
        await asyncio.sleep(0.3)
        await none_in_flight(gateway)
        ledger = await asyncio.to_thread(scene.books, gateway)
        bills = scene.bills
        ledger.check_bills(bills)
        billed = {bill.marker for bill in bills}
        assert not (warm.cut | wave.cut) & billed
        # A request is sent unless its client left before: every other one is billed, and those alone cost something.
        unsent = ledger.check_unsent()
        assert len((warm.complete | wave.complete) - billed) <= unsent
        assert len(ledger.rows) == len(billed) + unsent
        # Records contain no prompt to identify them by, so their number is compared.
        known, possible = len(warm.complete | wave.complete), len(warm.reset | wave.reset)
        assert known <= len(ledger.rows) <= known + possible
        after, threads_after = descriptors(scene, gateway), threads(gateway)
        assert after <= before + FEW
        assert threads_after <= threads_before + FEW
        assert scene.mock.seen().connections <= 4 * AT_ONCE  # bounded by the concurrent calls, not by all calls
        used = await check_reservations(gateway, provider, ledger)
        assert time.monotonic() - began < WINDOW_S, "too slow a machine: the first calls left the limit's window"
    note(
        f"{len(wave.cut)} left before, {len(wave.complete | wave.reset)} after the whole request was sent: "
        f"{len(ledger.rows)} records for {len(billed)} calls and {unsent} that were not sent; open files {before} "
        f"before, {after} after, threads {threads_before} and {threads_after}; {used} tokens reserved, as recorded; "
        "0 in flight"
    )
