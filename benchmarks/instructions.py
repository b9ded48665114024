"""Count the CPU instructions per request in each thread of the gateway, in this tree and in others.

The gateway runs under valgrind's callgrind, whose counts do not depend on the load of the machine: where speed drifts,
it shows a change of 1 % that no clock shows. It does not show the cost of caches, the scheduler and the kernel;
`compare` and `tail` do. Fails if an answer is not a 200, never on a figure.
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, sleep

import msgspec

from benchmarks import calls
from benchmarks.jobs import Job
from benchmarks.load import BuiltIn
from benchmarks.machine import Cores
from benchmarks.report import table
from benchmarks.targets import Gateway, TargetFailed
from benchmarks.trees import Tree, tree_argument, with_this, without_paths
from tests.upstream import UpstreamProcess

SCENARIOS: dict[str, Callable[[int], Job]] = {
    "POST /generate": calls.generate,
    "cache hit": lambda port: calls.generate(port, calls.SAME_PROMPT),
    "chat completion passed through": lambda port: calls.surface(port, "chat/completions"),
    "Anthropic message, translated": lambda port: calls.surface(port, "messages"),
}
NO_SETTINGS: Mapping[str, str] = {}
CONNECTIONS = 32
WARM_REQUESTS = 500
DUMP_SECONDS = 60.0
_TOTAL = re.compile(r"^totals: (\d+)", re.MULTILINE)


class CountedGateway(Gateway):
    """A gateway under callgrind, which counts instructions between `begin` and `end`."""

    def __init__(self, folder: Path, cores: Cores, tree: Path, settings: Mapping[str, str] = NO_SETTINGS) -> None:
        self._counts = folder / "counts"
        self._counts.mkdir(parents=True)
        options = ["--trace-children=yes", "--instr-atstart=no", "--separate-threads=yes"]
        runner = ["valgrind", "--tool=callgrind", *options, f"--callgrind-out-file={self._counts}/%p"]
        super().__init__(folder / "data", cores, settings, tree, runner=runner)

    def begin(self) -> None:
        """Start counting."""
        self._control("-i", "on")

    def end(self) -> list[int]:
        """Stop counting. Returns the instructions of each thread of each process, first those of the calls' loop."""
        self._control("-i", "off")
        self._control("-d")
        return [count for pid in self._processes() for count in self._counts_of(pid)]

    def _processes(self) -> list[int]:
        """Return the ids of the processes, the worker's first. Trees of earlier versions have one process."""
        names = {pid: Path(f"/proc/{pid}/cmdline").read_text() for pid in self.tree.processes()}
        return sorted(names, key=lambda pid: "llm_gateway.worker" not in names[pid])

    def _control(self, *command: str) -> None:
        for pid in self._processes():
            subprocess.run(["callgrind_control", *command, str(pid)], check=True, stdout=subprocess.DEVNULL)

    def _counts_of(self, pid: int) -> list[int]:
        """Wait for the dump's files of a process, one per thread, and return their totals."""
        deadline = monotonic() + DUMP_SECONDS
        while monotonic() < deadline:
            found = [_TOTAL.search(path.read_text()) for path in sorted(self._counts.glob(f"{pid}.1-*"))]
            if found and all(found):
                return [int(match[1]) for match in found if match]
            sleep(0.5)
        raise TargetFailed(f"callgrind wrote no counts of process {pid}")


def count(
    tree: Tree,
    job: Callable[[int], Job],
    requests: int,
    generator: BuiltIn,
    mock: UpstreamProcess,
    cores: Cores,
    settings: Mapping[str, str] = NO_SETTINGS,
) -> list[float]:
    """Start a gateway of the tree and send it `requests`. Returns the instructions per request of each thread.

    Raises:
        TargetFailed: the gateway failed, or an answer was not a 200.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        gateway = CountedGateway(Path(name), cores, tree.path, settings)
        try:
            gateway.add_provider(mock.base_url)
            load = msgspec.structs.replace(job(gateway.port), seconds=0.1)
            warm = _send(generator, msgspec.structs.replace(load, at_least=WARM_REQUESTS))
            gateway.summary(warm)
            gateway.begin()
            sent = _send(generator, msgspec.structs.replace(load, at_least=requests, first=10**6))
            gateway.summary(warm + sent)
            return [of_thread / sent for of_thread in gateway.end()]
        finally:
            gateway.stop()


def _send(generator: BuiltIn, job: Job) -> int:
    load = generator.run(job)
    if load.failed:
        raise TargetFailed(f"{load.failed:,} of {load.requests:,} requests to {job.path} failed: {load.failure!r}")
    return load.requests


def _line(scenario: str, tree: str, there: list[float], here: list[float]) -> list[str]:
    figures = [(there[0], here[0]), (sum(there), sum(here))]
    return [
        scenario,
        tree,
        *(cell for a, b in figures for cell in (f"{a / 1e3:,.1f}", f"{b / 1e3:,.1f}", f"{b / a - 1:+.1%}")),
    ]


def _at_once(job: Callable[[int], Job]) -> Callable[[int], Job]:
    """Return what makes the same job over many connections."""
    return lambda port: msgspec.structs.replace(job(port), connections=CONNECTIONS)


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    """Count and print the table. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks instructions", description=__doc__)
    add = parser.add_argument
    add("--tree", type=tree_argument, action="append", required=True, metavar="[NAME=]PATH", help="the other checkout")
    add("--requests", type=int, default=1000, help="requests that are counted (default: 1000)")
    given = parser.parse_args(arguments)
    if shutil.which("valgrind") is None:
        _say("valgrind is not installed: install your system's package of that name.")
        return 1
    cores, lines = Cores(), []
    cores.leave_measured()
    try:
        *others, this = with_this(given.tree)
        with UpstreamProcess(kept_calls=0) as mock:
            generator = BuiltIn()
            for scenario, job in SCENARIOS.items():
                counts = {}
                for tree in (*others, this):
                    counts[tree.name] = count(tree, _at_once(job), given.requests, generator, mock, cores)
                    _say(f"{scenario}, {tree.name}: {sum(counts[tree.name]) / 1e3:,.1f} thousand a request")
                lines += [_line(scenario, tree.name, counts[tree.name], counts[this.name]) for tree in others]
    except (TargetFailed, ValueError) as failed:
        _say(str(failed))
        return 1
    heads = ("event loop there", "here", "change", "all threads there", "here", "change")
    print(table(("thousand instructions a request", "compared with", *heads), lines))
    command = " ".join(["python -m benchmarks instructions", *without_paths(arguments)])
    print("\n".join(f"- {fact}" for fact in [*others, this, f"{datetime.now(UTC):%Y-%m-%d}, `{command}`"]))
    return 0
