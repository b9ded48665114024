"""Measure what telemetry adds to a call on the line: the worker's CPU time, and the instructions of its event loop.

Two gateways run side by side: one plain, one that sends traces, metrics and logs to a collector. A client sends short
blocks of calls in random order: to the plain one, to the other one, and to that one with `traceparent` and `tracestate`
("everything on"). So a busy machine slows all alike, and the differences of neighbouring blocks count; both gateways
are started anew several times, because two processes of the same code differ by a few microseconds. Instructions are
counted under valgrind, where it is installed; they contain what a worker does once a second, which differs by some
thousands a call from run to run. What control does afterwards is not on the line: docs/OBSERVABILITY.md has its
figures. Fails if an answer is not a 200, never on a figure.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import statistics
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import count
from math import sqrt
from pathlib import Path
from random import Random
from typing import NamedTuple

import msgspec

from benchmarks import calls, instructions
from benchmarks.answers import AnswerReader, is_ok
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
WARM_CALLS, BLOCK_CALLS, COUNTED_CALLS = 2_000, 50, 1_000
LEAD_CALLS = 10
"""Calls before each block, not measured: the first ones after another gateway find the caches full of its data."""
PATIENCE_S = 30.0


class Variant(NamedTuple):
    """What is measured: a gateway's settings, and the headers that its client sends besides."""

    name: str
    settings: Mapping[str, str]
    headers: Mapping[str, str]

    def job(self, port: int) -> Job:
        """Return the call that is measured."""
        plain = calls.surface(port, "chat/completions")
        return msgspec.structs.replace(plain, headers={**plain.headers, **self.headers})


class MeasuredGateway:
    """A running gateway, and a client with one connection to it. `numbers` makes each of the calls different."""

    def __init__(self, settings: Mapping[str, str], folder: Path, cores: Cores, mock: UpstreamProcess) -> None:
        self._gateway = Gateway(folder, cores, settings)
        self.port, self.stop = self._gateway.port, self._gateway.stop
        self._socket: socket.socket | None = None
        try:
            self._gateway.add_provider(mock.base_url)
            pids = self._gateway.tree.processes()
            [self._worker] = [p for p in pids if "llm_gateway.worker" in Path(f"/proc/{p}/cmdline").read_text()]
        except BaseException:  # edge: nobody else could stop it
            self.stop()
            raise

    def block(self, job: Job, numbers: Sequence[int]) -> float:
        """Send a call for each number. Returns the worker's CPU time per call in microseconds.

        Raises:
            TargetFailed: an answer was not a 200.
        """
        if self._socket is None:  # an idle connection would be closed while another gateway starts
            self._socket = socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)
        before, after = job.parts()
        reader, began = AnswerReader(), self._worker_ns()
        for number in numbers:
            self._socket.sendall(b"%b%012d%b" % (before, number, after))
            while not (answer := reader.feed(data := self._socket.recv(65_536))):
                if not data:
                    raise TargetFailed("the gateway closed the connection")
            if not is_ok(answer):
                raise TargetFailed(f"an answer was not a 200: {answer[:500]!r}")
        return (self._worker_ns() - began) / len(numbers) / 1000

    def _worker_ns(self) -> int:
        """Return the CPU time of the worker so far (proc(5): the first field of schedstat)."""
        return sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{self._worker}/task").glob("*/schedstat"))


def cpu_rounds(variants: Sequence[Variant], rounds: int, cores: Cores, mock: UpstreamProcess) -> list[list[float]]:
    """Start a gateway for each setting and send it blocks. Returns microseconds per call in each round, by variant."""
    found: list[list[float]] = [[] for _ in variants]
    numbers, gateways = count(), dict[int, MeasuredGateway]()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        try:
            for variant in variants:
                if id(variant.settings) not in gateways:
                    folder = Path(name) / str(len(gateways))
                    gateways[id(variant.settings)] = MeasuredGateway(variant.settings, folder, cores, mock)
            runs: list[Callable[[Sequence[int]], float]] = []
            for variant in variants:
                gateway = gateways[id(variant.settings)]
                runs.append(partial(gateway.block, variant.job(gateway.port)))
                runs[-1]([next(numbers) for _ in range(WARM_CALLS)])
            order, random = list(range(len(runs))), Random()
            for _ in range(rounds):
                random.shuffle(order)
                for at in order:
                    runs[at]([next(numbers) for _ in range(LEAD_CALLS)])
                    found[at].append(runs[at]([next(numbers) for _ in range(BLOCK_CALLS)]))
        finally:
            for gateway in gateways.values():
                gateway.stop()
    return found


def _counted(variants: Sequence[Variant], times: int, cores: Cores, mock: UpstreamProcess) -> list[float] | None:
    """Return thousands of instructions of the event loop for a call, by variant; None without valgrind."""
    if not times or shutil.which("valgrind") is None:
        return None
    tree, generator, found = Tree("this tree", ROOT), BuiltIn(), [list[float]() for _ in variants]
    try:
        for turn in range(times):
            _say(f"counting instructions, {turn + 1} of {times} …")
            for each, counts in zip(variants, found, strict=True):
                threads = instructions.count(tree, each.job, COUNTED_CALLS, generator, mock, cores, each.settings)
                counts.append(threads[0] / 1000)
    except TargetFailed as failed:
        _say(f"Instructions were not counted: {failed}")
        return None
    return [statistics.median(counts) for counts in found]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    """Measure and print the table. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks telemetry", description=__doc__)
    parser.add_argument("--starts", type=int, default=4, help="times that the gateways are started (default: 4)")
    parser.add_argument(
        "--rounds", type=int, default=400, help=f"rounds of {BLOCK_CALLS} calls for each after a start (default: 400)"
    )
    parser.add_argument("--counts", type=int, default=3, help="times that instructions are counted (default: 3)")
    given = parser.parse_args(arguments)
    cores = Cores()
    cores.leave_measured()
    try:
        with UpstreamProcess(kept_calls=0) as mock, OtlpCollector() as collector:
            exporting = {"LLM_GATEWAY_OTLP_ENDPOINT": collector.url}
            variants = (
                Variant("without", {}, {}),
                Variant("exporting", exporting, {}),
                Variant("everything on", exporting, CONTEXT),
            )
            starts = []
            for start in range(given.starts):
                _say(f"start {start + 1} of {given.starts} …")
                starts.append(cpu_rounds(variants, given.rounds, cores, mock))
                for kept in (collector.spans, collector.logs, collector.metrics):
                    kept.clear()
            counts = _counted(variants, given.counts, cores, mock)
            if not collector.requests:
                raise TargetFailed("the collector got nothing")
    except TargetFailed as failed:
        _say(str(failed))
        return 1
    print(table(("a call", *(variant.name for variant in variants), "of it the headers", "all"), _rows(starts, counts)))
    print(f"- {datetime.now(UTC):%Y-%m-%d}, `{' '.join(['python -m benchmarks telemetry', *arguments])}`")
    return 0


def _rows(starts: Sequence[Sequence[Sequence[float]]], counts: Sequence[float] | None) -> list[list[str]]:
    """Return the rows of the table. `starts` has the microseconds of each round by variant, by start."""
    medians = [statistics.median([each for start in starts for each in start[at]]) for at in range(3)]
    rows = [
        [
            "CPU time of the worker, µs",
            *(f"{value:,.1f}" for value in medians),
            _difference(starts, 1),
            _difference(starts, 0),
        ]
    ]
    if counts is not None:
        added = (f"{counts[2] - counts[at]:+,.1f}" for at in (1, 0))
        rows.append(
            ["instructions of the event loop, thousands, median", *(f"{value:,.1f}" for value in counts), *added]
        )
    return rows


def _difference(starts: Sequence[Sequence[Sequence[float]]], base: int) -> str:
    """Return what the last variant takes more than another one: the mean of the starts' medians, and its error."""
    found = [statistics.median([on - off for off, on in zip(start[base], start[2], strict=True)]) for start in starts]
    error = statistics.stdev(found) / sqrt(len(found)) if len(found) > 1 else 0.0
    return f"{statistics.mean(found):+.2f} ± {error:.2f}"
