"""Compare another checkout of this project with this one: the figures of the main benchmark, measured in alternation.

In each round both gateways are started again, each with an empty database, and take turns: short windows of each
scenario alternate between them, and the next turn reverses the order. A change is the median, over all pairs of
neighbouring windows, of this tree's figure relative to the other's, with its 95 % confidence interval: a machine whose
speed drifts changes both of a pair. Fails if an answer is not a 200 or the accounting does not add up, never on a
figure.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from math import comb
from pathlib import Path
from statistics import median
from time import sleep
from typing import NamedTuple

import msgspec

from benchmarks import calls
from benchmarks.findings import Books, Window
from benchmarks.jobs import Job, Load
from benchmarks.ledger import Ledger
from benchmarks.load import BuiltIn
from benchmarks.machine import Cores, facts
from benchmarks.meter import Meter
from benchmarks.report import CROWDED, books_table, table
from benchmarks.scenarios import Surroundings
from benchmarks.targets import Gateway, TargetFailed
from benchmarks.trees import Tree, tree_argument, with_this, without_paths
from tests.upstream import UpstreamProcess

TOLERATED = 0.03
"""Relative change for the worse above which a figure is marked."""


class CompareOptions(msgspec.Struct, frozen=True):
    """Length and repetitions of a run."""

    seconds: float = 0.6
    turns: int = 6
    rounds: int = 5
    connections: int = 32
    warm_seconds: float = 1.0
    rest_seconds: float = 2.0
    """Seconds before idle memory is read."""


QUICK = CompareOptions(seconds=0.05, turns=1, rounds=1, warm_seconds=0.02, rest_seconds=0.0)


class _Scenario(NamedTuple):
    name: str
    job: Callable[[int], Job]
    """Return the job for a gateway at this port."""
    repeats: bool = False
    """True if all requests are the same, so that the cache answers all but the first."""


INTERVAL = [_Scenario("POST /generate, fsync interval", calls.generate)]
ALWAYS = [
    _Scenario("POST /generate, fsync always", calls.generate),
    _Scenario("cache hit", lambda port: calls.generate(port, calls.SAME_PROMPT), repeats=True),
    _Scenario("chat completion passed through", lambda port: calls.surface(port, "chat/completions")),
    _Scenario("Anthropic message, translated", lambda port: calls.surface(port, "messages")),
]
BETTER_WHEN_MORE = "requests/s"


class Comparison:
    """Measured values of each figure for each tree, in the order of measuring, and the accounting."""

    def __init__(self) -> None:
        self.values: dict[str, dict[str, list[float]]] = {}
        self.books: dict[str, Books] = {}
        self.crowded = False

    def add(self, figure: str, tree: str, value: float) -> None:
        self.values.setdefault(figure, {}).setdefault(tree, []).append(value)

    def add_window(self, scenario: str, tree: str, window: Window) -> None:
        self.add(f"{scenario}, µs CPU/request", tree, window.cpu_us)
        self.add(f"{scenario}, {BETTER_WHEN_MORE}", tree, window.per_second)
        self.add(f"{scenario}, p50 ms", tree, window.p50_ms)
        self.add(f"{scenario}, p99 ms", tree, window.p99_ms)
        self.crowded |= window.others > CROWDED

    def account(self, books: Books) -> None:
        kept = self.books.get(books.name)
        self.books[books.name] = books if kept is None else kept.plus(books)


class CompareBench:
    """Benchmark that measures gateways of several trees in turns."""

    def __init__(self, options: CompareOptions, surroundings: Surroundings, say: Callable[[str], None]) -> None:
        self.found = Comparison()
        self.meter = Meter(BuiltIn(), surroundings.cores, options.connections, say)
        self._options = options
        self._mock = surroundings.mock
        self._cores = surroundings.cores
        self._folder = surroundings.folder
        self._gateways = surroundings.gateway
        self._say = say

    def run(self, trees: Sequence[Tree]) -> None:
        """Measure all scenarios for all trees; results are in `found`."""
        for number in range(self._options.rounds):
            turn = number % len(trees)
            order = [*trees[turn:], *trees[:turn]]
            self._say(f"round {number + 1}/{self._options.rounds}, {order[0].name} first")
            with ExitStack() as stack:
                self._scenarios(INTERVAL, self._start(order, "interval", number, stack))
            with ExitStack() as stack:
                gateways = self._start(order, "always", number, stack)
                self._at_rest(gateways)
                self._latency(gateways)
                self._scenarios(ALWAYS, gateways)
                for name, gateway in gateways.items():
                    self.found.add("resident memory after this load, MB", name, gateway.tree.resident_mb())

    def _start(self, trees: Sequence[Tree], policy: str, number: int, stack: ExitStack) -> dict[str, Gateway]:
        """Start a gateway of each tree. Returns them by the tree's name; the stack stops them."""
        gateways = {}
        for place, tree in enumerate(trees):
            folder = self._folder / f"{policy}-{number}-{place}"
            gateway = self._gateways(folder, self._cores, {"LLM_GATEWAY_JOURNAL_FSYNC": policy}, tree.path)
            stack.callback(gateway.stop)
            gateway.add_provider(self._mock.base_url)
            self.found.add(f"first start to first 200, fsync {policy}, s", tree.name, gateway.start_seconds)
            gateways[tree.name] = gateway
        return gateways

    def _at_rest(self, gateways: dict[str, Gateway]) -> None:
        sleep(self._options.rest_seconds)
        for name, gateway in gateways.items():
            self.found.add("resident memory idle, MB", name, gateway.tree.resident_mb())

    def _latency(self, gateways: dict[str, Gateway]) -> None:
        """Measure the latency of one request at a time, minus its latency without a gateway."""
        for name, gateway in gateways.items():
            ledger = Ledger(gateway, self._mock)
            ledger.add(self._one_by_one(calls.generate(gateway.port), self._options.warm_seconds))
            self._close(ledger, name, misses=None)
        for name, gateway in self._turns(gateways):
            ledger = Ledger(gateway, self._mock)
            direct = self._one_by_one(calls.vendor(self._mock.port), self._options.seconds / 2)
            through = self._one_by_one(calls.generate(gateway.port), self._options.seconds)
            ledger.add(through, direct)
            self._close(ledger, name, misses=None)
            self.found.add("added latency at 1 connection, p50 ms", name, (through.p50_us - direct.p50_us) / 1000)
            self.found.add("latency at 1 connection, p50 ms", name, through.p50_us / 1000)
            self.found.add("latency at 1 connection, p99 ms", name, through.p99_us / 1000)

    def _one_by_one(self, job: Job, seconds: float) -> Load:
        return self.meter.load(job, seconds=seconds, connections=1)

    def _scenarios(self, scenarios: Sequence[_Scenario], gateways: dict[str, Gateway]) -> None:
        for scenario in scenarios:
            self._say(f"  {scenario.name}")
            self._scenario(scenario, gateways)

    def _scenario(self, scenario: _Scenario, gateways: dict[str, Gateway]) -> None:
        for name, gateway in gateways.items():
            ledger = Ledger(gateway, self._mock)
            ledger.add(self.meter.load(scenario.job(gateway.port), seconds=self._options.warm_seconds))
            self._close(ledger, name, misses=1 if scenario.repeats else None)
        for name, gateway in self._turns(gateways):
            ledger = Ledger(gateway, self._mock)
            window = self.meter.window(scenario.job(gateway.port), gateway.tree, ledger, self._options.seconds)
            self._close(ledger, name, misses=0 if scenario.repeats else None)
            self.found.add_window(scenario.name, name, window)

    def _turns(self, gateways: dict[str, Gateway]) -> Iterator[tuple[str, Gateway]]:
        """Yield the gateways in turns, each first equally often."""
        order = list(gateways.items())
        for turn in range(self._options.turns):
            yield from order if turn % 2 == 0 else reversed(order)

    def _close(self, ledger: Ledger, tree: str, misses: int | None) -> None:
        self.found.account(ledger.close(tree, misses))


def comparison_text(found: Comparison, trees: Sequence[str], facts: Sequence[str]) -> str:
    """Return the table: a line for each figure and each tree that the last tree is compared with."""
    *others, this = trees
    lines = [_line(figure, of_tree, other, this) for other in others for figure, of_tree in found.values.items()]
    parts = [
        table(("figure", "compared with", "there", "here", "change", "95 % sure", ""), lines),
        books_table(found.books.values()),
        "\n".join(f"- {fact}" for fact in facts),
    ]
    if found.crowded:
        parts.append("**Other programs used much of the measured core: repeat this when the machine is quiet.**")
    return "\n\n".join(parts) + "\n"


def _line(figure: str, of_tree: dict[str, list[float]], other: str, this: str) -> list[str]:
    there, here = of_tree[other], of_tree[this]
    changes = [b / a - 1 if a else 0.0 for a, b in zip(there, here, strict=True)]
    low, high = median_range(changes)
    sign = -1 if figure.endswith(BETTER_WHEN_MORE) else 1
    at_best = min(sign * low, sign * high)
    change = median(changes)
    return [
        figure,
        other,
        _number(median(there)),
        _number(median(here)),
        f"{change:+.1%}",
        f"{low:+.1%} to {high:+.1%}",
        ("WORSE" if at_best > 0 else "worse, but not surely") if sign * change > TOLERATED else "",
    ]


def median_range(values: Sequence[float]) -> tuple[float, float]:
    """Return the 95 % confidence interval of the median, by the sign test; the whole range for fewer than 6 values.

    Its ends are the order statistics whose rank is the 2.5 % and 97.5 % quantile of a binomial distribution with p ½.
    """
    ordered, number = sorted(values), len(values)
    below, tail = 0, 0.0
    for rank in range(number // 2):
        tail += comb(number, rank) / 2**number
        if tail > 0.025:
            break
        below = rank
    return ordered[below], ordered[-1 - below]


def _number(value: float) -> str:
    return f"{value:,.{0 if value >= 1000 else 1 if value >= 20 else 3}f}"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str], gateway: type[Gateway] = Gateway) -> int:
    """Measure and print the table. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks compare", description=__doc__)
    add, default = parser.add_argument, CompareOptions()
    add("--tree", type=tree_argument, action="append", required=True, metavar="[NAME=]PATH", help="the other checkout")
    add("--quick", action="store_true", help="some seconds, to see that it works; the figures mean little")
    add("--seconds", type=float, help=f"length of a window (default: {default.seconds:g})")
    add("--turns", type=int, help=f"windows per round, scenario and tree; best even (default: {default.turns})")
    add("--rounds", type=int, help=f"how often all gateways are started anew (default: {default.rounds})")
    given = parser.parse_args(arguments)
    chosen = {name: value for name in ("seconds", "turns", "rounds") if (value := getattr(given, name)) is not None}
    options = msgspec.structs.replace(QUICK if given.quick else default, **chosen)
    cores = Cores()
    cores.leave_measured()
    try:
        trees = with_this(given.tree)
        with tempfile.TemporaryDirectory(prefix="bench-") as name, UpstreamProcess(kept_calls=0) as mock:
            known = [*facts(Path(name)), str(cores), *map(str, trees)]
            bench = CompareBench(options, Surroundings(mock, Path(name), cores, gateway), _say)
            bench.run(trees)
    except (TargetFailed, ValueError) as failed:
        _say(str(failed))
        return 1
    command = " ".join(["python -m benchmarks compare", *without_paths(arguments)])
    known.append(f"{datetime.now(UTC):%Y-%m-%d}, {options.rounds} rounds, `{command}`")
    print(comparison_text(bench.found, [tree.name for tree in trees], known))
    wrong = bench.meter.failures or [books.wrong for books in bench.found.books.values() if books.wrong]
    return 1 if wrong else 0
