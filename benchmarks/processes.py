"""Measure what several workers and many service keys cost: CPU a request, memory of each idle process, tail latency.

First a gateway with one worker and one with two take turns on the measured core, at a fixed arrival rate and as fast
as they can. Then a gateway with 50,000 keys gets calls at a fixed rate, in turns alone and while a key is made each
second. All keep full accounts, with journal fsync `always`. Fails if an answer is not a 200 or the accounting does not
add up, never on a figure.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from time import sleep

import msgspec

from benchmarks import calls, open_loop
from benchmarks.jobs import Job, Load, OpenJob, OpenLoad
from benchmarks.ledger import Ledger
from benchmarks.load import BuiltIn
from benchmarks.machine import Cores, facts
from benchmarks.many_keys import KeyMaker, store_keys
from benchmarks.overload import calls_apart
from benchmarks.report import table, with_section
from benchmarks.soak import process_name, resident_mib
from benchmarks.targets import Gateway, TargetFailed
from tests.upstream import UpstreamProcess

RESULTS = Path(__file__).with_name("RESULTS.md")
TITLE = "What processes and keys cost"
CONNECTIONS = 32
LEAD_S = 0.5
REST_S = 2.0
MUST_MB = {"supervisor": 12, "control": 120, "worker": 70}
MUST_RATIO = 1.1
AT_RATE, FULL = "at the rate", "as fast as it can"
ALONE, WHILE_KEYS_ARE_MADE = "nothing changes", "a key is made each second"


class Measured(msgspec.Struct):
    """What the windows of one target and kind of load took: CPU µs a request, and latencies in ms."""

    cpu_us: list[float] = []
    p50_ms: list[float] = []
    p99_ms: list[float] = []
    max_ms: list[float] = []

    def cells(self) -> list[str]:
        """Return the medians with the least and the greatest, and the slowest of all."""
        cpu, p50, p99 = map(_spread, (self.cpu_us, self.p50_ms, self.p99_ms))
        return [cpu, p50, p99, f"{max(self.max_ms):.1f}" if self.max_ms else "–"]


class Runner:
    """Runner of loads at gateways. Each window's accounting is checked, and CPU time read once all is in the database.

    Attributes:
        wrong: what failed or does not add up.
    """

    def __init__(self, mock: UpstreamProcess, seconds: float, rate: float) -> None:
        self.wrong: list[str] = []
        self._mock = mock
        self._seconds, self._rate = seconds, rate
        self._number = 0

    def add_provider(self, gateway: Gateway) -> None:
        """Make the mock vendor a gateway's provider."""
        gateway.add_provider(self._mock.base_url)

    def window(self, gateway: Gateway, kind: str, into: Measured) -> None:
        """Load a gateway for a window and add what was measured."""
        self._number += 1
        plain = calls.surface(gateway.port, "chat/completions")
        job = msgspec.structs.replace(
            plain, connections=CONNECTIONS, seconds=self._seconds, first=calls_apart(self._number)
        )
        books, before = Ledger(gateway, self._mock), gateway.tree.cpu_seconds()
        load: Load | OpenLoad = BuiltIn().run(job) if kind == FULL else self._open(job)
        into.p50_ms.append(load.p50_us / 1000)
        into.p99_ms.append(load.p99_us / 1000)
        if isinstance(load, OpenLoad):
            into.max_ms.append(load.max_us / 1000)
        books.add(load)
        if load.failed or not load.requests:
            self.wrong.append(f"{load.failed:,} of {load.requests:,}: {load.failure!r}")
        if found := books.close(kind, misses=None).wrong:
            self.wrong.append(found)
        into.cpu_us.append((gateway.tree.cpu_seconds() - before) / max(1, load.requests) * 1e6)

    def _open(self, job: Job) -> OpenLoad:
        fields = msgspec.structs.asdict(job)
        return open_loop.run(OpenJob(**fields, rate=self._rate, lead_seconds=LEAD_S, seed=self._number))


def _workers(runner: Runner, start: Callable[[str, int], Gateway], rounds: int) -> tuple[str, str]:
    """Return the table of one and two workers, and that of the memory of the processes of the two."""
    gateways = {count: start(f"workers-{count}", count) for count in (1, 2)}
    sleep(REST_S)
    idle = table(["process", "idle MB", "must"], _memory(gateways[2]))
    for gateway in gateways.values():
        runner.add_provider(gateway)
        for kind in (AT_RATE, FULL):  # the first loads fill caches and pools
            runner.window(gateway, kind, Measured())
    found: dict[tuple[str, int], Measured] = defaultdict(Measured)
    for number in range(rounds):
        for kind in (AT_RATE, FULL):
            for count in (1, 2) if number % 2 else (2, 1):
                runner.window(gateways[count], kind, found[kind, count])
    rows = []
    for kind in (AT_RATE, FULL):
        one, two = (found[kind, count].cpu_us for count in (1, 2))
        ratios = [b / a for a, b in zip(one, two, strict=True)]
        rows += [[kind, "1", *found[kind, 1].cells(), ""]]
        rows += [[kind, "2", *found[kind, 2].cells(), f"{_spread(ratios, 2)}, must {MUST_RATIO}"]]
    head = ["load", "workers", "CPU µs a request", "p50 ms", "p99 ms", "max ms", "2 workers to 1"]
    return table(head, rows), idle


def _memory(gateway: Gateway) -> list[list[str]]:
    rows = []
    for pid in gateway.tree.processes():
        kind = process_name(pid).split(" ")[0]
        if kind:
            rows.append([kind, f"{resident_mib(pid) * 2**20 / 1e6:.0f}", f"≤ {MUST_MB[kind]}"])
    return sorted(rows)


def _keys(runner: Runner, gateway: Gateway, rounds: int) -> str:
    """Return the table of a gateway with many keys, alone and while keys are made."""
    runner.add_provider(gateway)
    found: dict[str, Measured] = defaultdict(Measured)
    runner.window(gateway, AT_RATE, Measured())
    for number in range(rounds):
        for kind in (ALONE, WHILE_KEYS_ARE_MADE) if number % 2 else (WHILE_KEYS_ARE_MADE, ALONE):
            with KeyMaker(gateway.port, at_work=kind == WHILE_KEYS_ARE_MADE):
                runner.window(gateway, AT_RATE, found[kind])
    head = ["meanwhile", "CPU µs a request", "p50 ms", "p99 ms", "max ms"]
    return table(head, [[kind, *found[kind].cells()] for kind in (ALONE, WHILE_KEYS_ARE_MADE)])


def _spread(values: list[float], digits: int = 1) -> str:
    return f"{median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def _measure(given: argparse.Namespace, kind: type[Gateway]) -> tuple[list[str], list[str]]:
    """Run everything. Returns the parts of the report, and what was wrong."""
    cores = Cores()
    cores.leave_measured()
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as name,
        UpstreamProcess(kept_calls=0) as mock,
        ExitStack() as stack,
    ):
        folder = Path(name)

        def start(name: str, workers: int) -> Gateway:
            settings = {"LLM_GATEWAY_JOURNAL_FSYNC": "always", "LLM_GATEWAY_WORKERS": str(workers)}
            gateway = kind(folder / name, cores, settings)
            stack.callback(gateway.stop)
            return gateway

        runner = Runner(mock, given.seconds, given.rate)
        _say("one worker and two …")
        speeds, idle = _workers(runner, start, given.rounds)
        stack.pop_all().close()
        _say(f"{given.keys:,} service keys …")
        start("keys", 1).stop()
        store_keys(folder / "keys", given.keys)
        gateway = start("keys", 1)
        took = f"Start with {given.keys:,} service keys to the first 200: {gateway.start_seconds:.1f} s."
        keys = _keys(runner, gateway, given.rounds)
        size = f"{given.rounds} × {given.seconds:g} s a row, at {given.rate:g} requests/s"
        known = [*facts(folder), str(cores), size]
    return [speeds, idle, f"{took} Calls meanwhile:", keys, "\n".join(f"- {fact}" for fact in known)], runner.wrong


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str], gateway: type[Gateway] = Gateway) -> int:
    """Measure and print the tables. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks processes", description=__doc__)
    add = parser.add_argument
    add("--seconds", type=float, default=5.0, help="length of a window (default: 5)")
    add("--rounds", type=int, default=6, help="windows of a row, whose median counts (default: 6)")
    add("--rate", type=float, default=500.0, help="requests/s at a fixed rate (default: 500)")
    add("--keys", type=int, default=50_000, help="service keys of the gateway with many (default: 50,000)")
    add("--write", action="store_true", help=f"also write the tables to benchmarks/{RESULTS.name}")
    given = parser.parse_args(arguments)
    try:
        parts, wrong = _measure(given, gateway)
    except (TargetFailed, OSError, RuntimeError) as failed:
        _say(str(failed))
        return 1
    command = " ".join(["python -m benchmarks processes", *arguments])
    text = "\n\n".join(parts) + f"\n- {datetime.now(UTC):%Y-%m-%d}, `{command}`\n"
    print(text)
    for line in wrong:
        _say(f"FAILED: {line}")
    if given.write and not wrong:
        kept = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
        RESULTS.write_text(with_section(kept, TITLE, text), encoding="utf-8")
    return 1 if wrong else 0
