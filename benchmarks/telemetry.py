"""Measure what telemetry adds to a call on the line: the worker's CPU time, and the instructions of its event loop.

Two gateways run side by side: one plain, one that sends traces, metrics and logs to a collector, and whose clients send
`traceparent` and `tracestate`. Rounds alternate between both, so that a busy machine slows both; the median of the
rounds' differences counts. Instructions are counted under valgrind, where it is installed. What control does
afterwards is not on the line: docs/OBSERVABILITY.md has its figures. Fails if an answer is not a 200,
never on a figure.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec

from benchmarks import calls, instructions
from benchmarks.jobs import Job
from benchmarks.load import BuiltIn
from benchmarks.machine import Cores
from benchmarks.report import table
from benchmarks.targets import ROOT, Gateway, TargetFailed
from benchmarks.trees import Tree
from tests.otlp_collector import OtlpCollector
from tests.upstream import UpstreamProcess

CONTEXT = {
    "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "tracestate": "vendor=00f067aa0ba902b7",
}
CONNECTIONS = 16
WARM_REQUESTS, ROUND_REQUESTS, COUNTED_REQUESTS = 2_000, 1_000, 1_000
NUMBERS_PER_JOB = 10**6


class Variant(NamedTuple):
    """A gateway's settings, and the headers of its clients."""

    name: str
    settings: Mapping[str, str]
    headers: Mapping[str, str]

    def job(self, port: int) -> Job:
        """Return the calls that are measured."""
        plain = calls.surface(port, "chat/completions")
        return msgspec.structs.replace(plain, headers={**plain.headers, **self.headers}, connections=CONNECTIONS)


class MeasuredGateway:
    """A running gateway of a variant; `round` sends calls and measures them."""

    def __init__(self, variant: Variant, folder: Path, cores: Cores, generator: BuiltIn, mock: UpstreamProcess) -> None:
        self._gateway = Gateway(folder / variant.name, cores, variant.settings)
        self._generator = generator
        self._job = variant.job(self._gateway.port)
        self._jobs = 0
        self.stop = self._gateway.stop
        try:
            self._gateway.add_provider(mock.base_url)
            self.round(WARM_REQUESTS)
        except BaseException:  # edge: nobody else could stop it
            self.stop()
            raise

    def round(self, requests: int) -> float:
        """Send at least `requests` calls. Returns the worker's CPU time per call in microseconds.

        Raises:
            TargetFailed: an answer was not a 200.
        """
        self._jobs += 1
        job = msgspec.structs.replace(self._job, seconds=0.0, at_least=requests, first=self._jobs * NUMBERS_PER_JOB)
        before = self._worker_ns()
        load = self._generator.run(job)
        if load.failed:
            raise TargetFailed(f"{load.failed:,} of {load.requests:,} requests failed: {load.failure!r}")
        return (self._worker_ns() - before) / load.requests / 1000

    def _worker_ns(self) -> int:
        """Return the CPU time of the worker so far (proc(5): the first field of schedstat)."""
        pids = self._gateway.tree.processes()
        [worker] = [pid for pid in pids if "llm_gateway.worker" in Path(f"/proc/{pid}/cmdline").read_text()]
        return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{worker}/task").glob("*/schedstat"))


def cpu_rounds(
    variants: Sequence[Variant], rounds: int, cores: Cores, generator: BuiltIn, mock: UpstreamProcess
) -> list[list[float]]:
    """Return the CPU time of a call in each round, in microseconds, by variant."""
    found: list[list[float]] = [[] for _ in variants]
    gateways: list[MeasuredGateway] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        try:
            for variant in variants:
                gateways.append(MeasuredGateway(variant, Path(name), cores, generator, mock))  # noqa: PERF401 - those started are stopped
            for number in range(rounds):
                order = range(len(gateways)) if number % 2 else reversed(range(len(gateways)))
                for at in order:
                    found[at].append(gateways[at].round(ROUND_REQUESTS))
        finally:
            for gateway in gateways:
                gateway.stop()
    return found


def _counted(
    variants: Sequence[Variant], cores: Cores, generator: BuiltIn, mock: UpstreamProcess
) -> list[float] | None:
    """Return thousands of instructions of the event loop for a call, by variant; None without valgrind."""
    if shutil.which("valgrind") is None:
        return None
    tree, found = Tree("this tree", ROOT), []
    try:
        for each in variants:
            threads = instructions.count(tree, each.job, COUNTED_REQUESTS, generator, mock, cores, each.settings)
            found.append(threads[0] / 1000)
    except TargetFailed as failed:
        _say(f"Instructions were not counted: {failed}")
        return None
    return found


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    """Measure and print the table. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks telemetry", description=__doc__)
    parser.add_argument("--rounds", type=int, default=30, help="rounds of 1,000 calls for each gateway (default: 30)")
    given = parser.parse_args(arguments)
    cores, generator = Cores(), BuiltIn()
    cores.leave_measured()
    try:
        with UpstreamProcess(kept_calls=0) as mock, OtlpCollector() as collector:
            plain = Variant("without", {}, {})
            everything = Variant("everything on", {"LLM_GATEWAY_OTLP_ENDPOINT": collector.url}, CONTEXT)
            without, on = cpu_rounds((plain, everything), given.rounds, cores, generator, mock)
            counts = _counted((plain, everything), cores, generator, mock)
            if not collector.requests:
                raise TargetFailed("the collector got nothing")
    except TargetFailed as failed:
        _say(str(failed))
        return 1
    added = [one - other for one, other in zip(on, without, strict=True)]
    low, _, high = statistics.quantiles(added, n=4)
    rows = [
        [
            "CPU time of the worker, median of the rounds, µs",
            *_cells(statistics.median(without), statistics.median(on)),
        ],
        [
            "added in a round, median (and quartiles), µs",
            "",
            "",
            f"{statistics.median(added):+.2f} ({low:+.2f} to {high:+.2f})",
        ],
    ]
    if counts is not None:
        rows.append(["instructions of the event loop, thousands", *_cells(*counts)])
    print(table(("a call", "without", "everything on", "difference"), rows))
    print(f"- {datetime.now(UTC):%Y-%m-%d}, `python -m benchmarks telemetry --rounds {given.rounds}`")
    return 0


def _cells(without: float, on: float) -> list[str]:
    return [f"{without:,.2f}", f"{on:,.2f}", f"{on - without:+,.2f}"]
