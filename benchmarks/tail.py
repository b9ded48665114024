"""Measure tail latency at fixed arrival rates: requests arrive at random, independently of answers (open loop).

Measures the gateway of this tree beside a plain nginx, in alternation, each in front of the same mock vendor; latency
counts from the time a request was due. Then once more beside a busy process on the same core. The gateway keeps full
accounts, with journal fsync `always`. Fails if an answer is not a 200 or the accounting does not add up, never on a
figure.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import sleep
from typing import NamedTuple

import msgspec

from benchmarks import calls, open_loop
from benchmarks.jobs import Job, OpenJob
from benchmarks.ledger import Ledger, NoBooks
from benchmarks.machine import Cores, ProcessTree, facts
from benchmarks.peers import PEERS, Peer, RunningPeer
from benchmarks.report import with_section
from benchmarks.tail_report import FLOOR, Condition, Spell, TailFindings, tail_text
from benchmarks.targets import Gateway, Nginx, TargetFailed
from benchmarks.trees import THIS, Tree, tree_argument, with_this, without_paths
from tests.upstream import UpstreamProcess

RESULTS = Path(__file__).with_name("RESULTS.md")
TITLE = "Tail latency"
CONNECTIONS = 64
NUMBERS_PER_JOB = 10**9
BUSY = "while True: pass"


BUSY_RATE = 200
"""Requests per second beside a busy process: low enough for a slow machine, where the gateway has half the core."""


class TailOptions(msgspec.Struct, frozen=True):
    """Length and repetitions of a run."""

    seconds: float = 5.0
    rounds: int = 3
    rates: tuple[int, ...] = (500, 1500, 2500)
    lead_seconds: float = 1.0
    """Seconds of load before each window that are not measured, so that a window shows sustained load."""
    warm_seconds: float = 2.0
    rest_seconds: float = 0.2


QUICK = TailOptions(seconds=0.15, rounds=1, rates=(200,), lead_seconds=0.1, warm_seconds=0.1, rest_seconds=0.0)


class Target(NamedTuple):
    """A server to send requests to: a gateway, a proxy, or the mock vendor itself."""

    name: str
    job: Job
    tree: ProcessTree | None = None
    """None for the mock itself, which is not on the measured core."""
    gateway: Gateway | None = None
    """The gateway whose accounting is checked."""


class TailBench:
    """Benchmark that measures the targets in turns: in each round, each rate at each target."""

    def __init__(self, options: TailOptions, mock: UpstreamProcess, cores: Cores, say: Callable[[str], None]) -> None:
        self.found = TailFindings()
        self._options = options
        self._mock = mock
        self._cores = cores
        self._say = say
        self._jobs = 0

    def run(self, targets: Sequence[Target]) -> TailFindings:
        """Measure all rates at all targets; results are in `found`."""
        options = self._options
        conditions = [
            *(Condition(rate) for rate in options.rates),
            Condition(min(BUSY_RATE, *options.rates), busy=True),
        ]
        for target in targets:
            self._load(target, min(options.rates), seconds=options.warm_seconds, seed=0)
        for number in range(options.rounds):
            turn = number % len(targets)
            for place, condition in enumerate(conditions):
                for target in [*targets[turn:], *targets[:turn]]:
                    if target.tree is None and condition.busy:
                        continue
                    spell = self._window(target, condition, seed=1 + number * len(conditions) + place)
                    self.found.add(condition, target.name, spell)
                    self._say(
                        f"round {number + 1}/{options.rounds}, {condition}, {target.name}: p50 {spell.p50_ms:.2f}, "
                        f"p99 {spell.p99_ms:.2f}, max {spell.max_ms:.1f} ms, {spell.cpu_us:.0f} µs CPU/request"
                    )
        return self.found

    def _window(self, target: Target, condition: Condition, seed: int) -> Spell:
        with self._busy() if condition.busy else contextlib.nullcontext():
            spell = self._load(target, condition.rate, seconds=self._options.seconds, seed=seed)
        sleep(self._options.rest_seconds)
        return spell

    def _load(self, target: Target, rate: int, *, seconds: float, seed: int) -> Spell:
        """Run one job and measure the target. CPU time is read once everything is in the database."""
        job = self._job(target, rate, seconds, seed)
        books = NoBooks() if target.gateway is None else Ledger(target.gateway, self._mock)
        cpu, core = self._times(target)
        load = open_loop.run(job)
        cpu_now, core_now = self._times(target)
        others = (core_now - core) - (cpu_now - cpu)
        books.add(load)
        books.settle()
        used = self._times(target)[0] - cpu
        if load.failed or not load.requests:
            self.found.failures.append(f"{target.name}: {load.failed:,} of {load.requests:,}: {load.failure!r}")
            self._say(f"FAILED: {self.found.failures[-1]}")
        if isinstance(books, Ledger):
            self.found.account(books.close(target.name, misses=None))
        return Spell(
            p50_ms=load.p50_us / 1000,
            p90_ms=load.p90_us / 1000,
            p99_ms=load.p99_us / 1000,
            p999_ms=load.p999_us / 1000,
            max_ms=load.max_us / 1000,
            cpu_us=used / max(1, load.requests) * 1e6,
            lag_ms=load.lag_p99_us / 1000,
            connections=load.connections,
            others=max(0.0, others) / (seconds + self._options.lead_seconds),
        )

    def _job(self, target: Target, rate: int, seconds: float, seed: int) -> OpenJob:
        """Return the job; the same rate, length and seed give the same arrival times at each target."""
        self._jobs += 1
        return msgspec.structs.replace(
            OpenJob(**msgspec.structs.asdict(target.job)),
            connections=CONNECTIONS,
            seconds=seconds,
            first=self._jobs * NUMBERS_PER_JOB,
            rate=rate,
            lead_seconds=self._options.lead_seconds,
            seed=seed,
        )

    def _times(self, target: Target) -> tuple[float, float]:
        tree = target.tree
        return 0.0 if tree is None else tree.cpu_seconds(), self._cores.measured_seconds()

    @contextlib.contextmanager
    def _busy(self) -> Iterator[None]:
        """Run a busy process of normal priority on the measured core during the block."""
        with self._cores.for_measured():
            process = subprocess.Popen([sys.executable, "-c", BUSY])
        try:
            yield
        finally:
            process.kill()
            process.wait()


def _started(
    stack: contextlib.ExitStack,
    trees: Sequence[Tree],
    mock: UpstreamProcess,
    folder: Path,
    cores: Cores,
    peers: Sequence[Peer],
    gateways: type[Gateway],
) -> Iterator[Target]:
    """Start the targets one after the other; the stack stops them."""
    direct = calls.vendor(mock.port)
    yield Target(FLOOR, direct)
    nginx = Nginx(folder / "nginx", mock.port, cores)
    stack.callback(nginx.stop)
    yield Target("nginx", calls.vendor(nginx.port), nginx.tree)
    for peer in peers:
        running = RunningPeer(peer, folder / peer.name, mock.port, cores)
        stack.callback(running.stop)
        yield Target(peer.name, peer.job(running.port), running.tree)
    for number, tree in enumerate(trees):
        gateway = gateways(folder / f"gateway-{number}", cores, {"LLM_GATEWAY_JOURNAL_FSYNC": "always"}, tree.path)
        stack.callback(gateway.stop)
        gateway.add_provider(mock.base_url)
        job = msgspec.structs.replace(calls.vendor(gateway.port), headers=calls.surface(gateway.port, "").headers)
        yield Target(tree.name, job, gateway.tree, gateway)


def _measure(
    given: argparse.Namespace, options: TailOptions, trees: Sequence[Tree], gateways: type[Gateway]
) -> tuple[TailFindings, list[str]]:
    peers = [peer for peer in PEERS if given.peers and peer.most_per_second >= max(options.rates)]
    cores = Cores()
    cores.leave_measured()
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as name,
        UpstreamProcess(kept_calls=0) as mock,
        contextlib.ExitStack() as stack,
    ):
        folder = Path(name)
        known = [
            *facts(folder),
            f"{CONNECTIONS} connections, more when all are busy; arrivals at random, latency from the due time",
            f"{options.rounds} × {options.seconds:g} s per row, each after {options.lead_seconds:g} s not measured",
            str(cores),
            *(["peers: " + ", ".join(peer.requirement.replace("==", " ") for peer in peers)] if peers else []),
            *map(str, trees),
        ]
        targets = list(_started(stack, trees, mock, folder, cores, peers, gateways))
        return TailBench(options, mock, cores, _say).run(targets), known


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks tail", description=__doc__)
    add, default = parser.add_argument, TailOptions()
    add("--quick", action="store_true", help="some seconds, to see that it works; the figures mean little")
    add("--seconds", type=float, help=f"length of a window (default: {default.seconds:g})")
    add("--rounds", type=int, help=f"windows per rate and target, whose median counts (default: {default.rounds})")
    add(
        "--rates",
        type=int,
        nargs="+",
        metavar="RATE",
        help=f"requests/s (default: {' '.join(map(str, default.rates))})",
    )
    add(
        "--peers",
        action="store_true",
        help="also measure other gateways, installed from the package index on first use",
    )
    add("--tree", type=tree_argument, action="append", default=[], metavar="[NAME=]PATH", help="another checkout")
    add("--write", action="store_true", help=f"also write the tables to benchmarks/{RESULTS.name}")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str], gateway: type[Gateway] = Gateway) -> int:
    """Measure and print the tables. Returns the exit code."""
    given = _parse(arguments)
    rates = tuple(given.rates) if given.rates else None
    changes = {"seconds": given.seconds, "rounds": given.rounds, "rates": rates}
    chosen = {name: value for name, value in changes.items() if value is not None}
    options = msgspec.structs.replace(QUICK if given.quick else TailOptions(), **chosen)
    try:
        found, known = _measure(given, options, with_this(given.tree), gateway)
    except (TargetFailed, ValueError, OSError, RuntimeError) as failed:
        _say(str(failed))
        return 1
    command = " ".join(["python -m benchmarks tail", *without_paths(arguments)])
    text = tail_text(found, THIS.name, [*known, f"{datetime.now(UTC):%Y-%m-%d}, `{command}`"])
    print(text)
    if given.write:
        kept = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
        RESULTS.write_text(with_section(kept, TITLE, text), encoding="utf-8")
    return 1 if found.wrong else 0
