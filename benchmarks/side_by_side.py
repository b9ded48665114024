"""Measure other gateways beside this one: chat completions as fast as each can, 200 streams at once, and memory.

All are in front of the same mock vendors, each on the measured core, in turns. This gateway keeps full accounts, with
journal fsync `always`. The others are installed from the package index at the first run. `tail --peers` measures
latencies at fixed arrival rates. Fails if an answer is not a 200, never on a figure.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import msgspec
import uvloop

from benchmarks import calls
from benchmarks.findings import Figure
from benchmarks.jobs import Job
from benchmarks.load import BuiltIn
from benchmarks.machine import Cores, ProcessTree, facts
from benchmarks.peers import PEERS, Peer, RunningPeer
from benchmarks.report import table, with_section
from benchmarks.streams import MANY_STREAMS, Shape, Vendor, stream_spell
from benchmarks.targets import Gateway, Nginx, TargetFailed
from tests.upstream import UpstreamProcess

RESULTS = Path(__file__).with_name("RESULTS.md")
TITLE = "Beside other gateways"
CONNECTIONS = 32
NUMBERS_PER_JOB = 10**9
WARM_S = 1.0
THIS = "LLM Gateway"


class Options(NamedTuple):
    """Length of a window in seconds, and windows of each target."""

    seconds: float
    rounds: int


class Running(NamedTuple):
    """A target that runs in front of one mock vendor."""

    name: str
    about: str
    job: Job
    tree: ProcessTree
    idle_mb: float


class Calls(NamedTuple):
    """Measurements of one window of chat completions."""

    per_second: float
    cpu_us: float
    p50_ms: float
    p99_ms: float


class Chunks(NamedTuple):
    """Measurements of one window of streams."""

    cpu_us: float
    gap_p99_ms: float
    resident_mb: float


class Measured(msgspec.Struct):
    """What was measured of one target."""

    about: str
    idle_mb: float
    loaded_mb: float = 0.0
    calls: list[Calls] = []
    chunks: list[Chunks] = []
    failure: str = ""


def started(stack: contextlib.ExitStack, folder: Path, upstream: int, cores: Cores) -> Iterator[Running]:
    """Start all targets in front of the vendor at port `upstream`; the stack stops them.

    Raises:
        TargetFailed: one did not start.
    """
    folder.mkdir()
    nginx = Nginx(folder / "nginx", upstream, cores)
    stack.callback(nginx.stop)
    yield Running("nginx", "C, plain proxy", calls.vendor(nginx.port), nginx.tree, nginx.tree.resident_mb())
    for peer in PEERS:
        _say(f"starting {peer.name} …")
        running = RunningPeer(peer, folder / peer.name, upstream, cores)
        stack.callback(running.stop)
        yield Running(peer.name, _about(peer), peer.job(running.port), running.tree, running.tree.resident_mb())
    gateway = Gateway(folder / "gateway", cores, {"LLM_GATEWAY_JOURNAL_FSYNC": "always"})
    stack.callback(gateway.stop)
    gateway.add_provider(f"http://127.0.0.1:{upstream}/v1")
    headers = calls.surface(gateway.port, "").headers
    job = msgspec.structs.replace(calls.vendor(gateway.port), headers=headers)
    yield Running(THIS, "Python, full accounts", job, gateway.tree, gateway.tree.resident_mb())


def _about(peer: Peer) -> str:
    return f"{peer.about}, no accounts"


class SideBySide:
    """Results of all targets by name."""

    def __init__(self, options: Options) -> None:
        self.measured: dict[str, Measured] = {}
        self._options = options
        self._generator = BuiltIn()
        self._jobs = 0

    def measure_calls(self, targets: Sequence[Running]) -> None:
        """Load each target with chat completions, as fast as it answers, in turns."""
        for target in targets:
            self._of(target).idle_mb = target.idle_mb
            self._calls(target, WARM_S)
        for number in range(self._options.rounds):
            for target in [*targets[number % len(targets) :], *targets[: number % len(targets)]]:
                found = self._calls(target, self._options.seconds)
                self._of(target).calls.append(found)
                self._of(target).loaded_mb = target.tree.resident_mb()
                _say(
                    f"{target.name}: {found.per_second:,.0f} requests/s, {found.cpu_us:.0f} µs, p99 {found.p99_ms:.1f}"
                )

    async def measure_streams(self, targets: Sequence[Running]) -> None:
        """Load each target with 200 streams at once, in turns."""
        for _ in range(self._options.rounds):
            for target in targets:
                shape = _shape(target.job)
                found = await stream_spell(target.job.port, shape, target.tree, target.name, self._options.seconds)
                if not found.chunks:
                    self._of(target).failure = "no chunk came"
                self._of(target).chunks.append(Chunks(found.cpu_us, found.gap_p99_ms, found.resident_mb))
                _say(f"{target.name}: {found.cpu_us:.1f} µs a chunk, p99 gap {found.gap_p99_ms:.0f} ms")

    def _of(self, target: Running) -> Measured:
        return self.measured.setdefault(target.name, Measured(target.about, target.idle_mb))

    def _calls(self, target: Running, seconds: float) -> Calls:
        self._jobs += 1
        first = self._jobs * NUMBERS_PER_JOB
        job = msgspec.structs.replace(target.job, connections=CONNECTIONS, seconds=seconds, first=first)
        before = target.tree.cpu_seconds()
        load = self._generator.run(job)
        used = target.tree.cpu_seconds() - before
        if load.failed:
            self._of(target).failure = f"{load.failed:,} of {load.requests:,}: {load.failure!r}"
        answered = max(1, load.requests)
        return Calls(answered / load.seconds, used / answered * 1e6, load.p50_us / 1000, load.p99_us / 1000)


def _shape(job: Job) -> Shape:
    """Return the load of streams with a job's path, model and headers."""
    model = msgspec.json.decode(job.body)["model"]
    names = ("authorization", "x-api-key")
    headers = "".join(f"{name}: {value}\r\n" for name, value in job.headers.items() if name in names)
    return msgspec.structs.replace(MANY_STREAMS, path=job.path, model=model, headers=headers)


def side_by_side_text(measured: dict[str, Measured], known: Sequence[str]) -> str:
    """Return the table of all targets, with each one's CPU time as a multiple of this gateway's, and the facts."""
    head = (
        "gateway",
        "",
        "requests/s",
        "CPU µs/request",
        "p50 ms",
        "p99 ms",
        "CPU µs/chunk",
        "p99 gap ms",
        "MB idle",
        "MB loaded",
    )
    parts = [table(head, (_line(name, found) for name, found in measured.items()))]
    ours = measured[THIS]
    ratios = [
        [
            name,
            _ratio(ours.calls, found.calls, "cpu_us"),
            _ratio(ours.calls, found.calls, "p99_ms"),
            _ratio(ours.chunks, found.chunks, "cpu_us"),
        ]
        for name, found in measured.items()
        if name != THIS
    ]
    parts.append(table((f"{THIS} to", "CPU a request", "p99, closed loop", "CPU a chunk"), ratios))
    parts.append("\n".join(f"- {fact}" for fact in known))
    failures = [f"- {name}: {found.failure}" for name, found in measured.items() if found.failure]
    if failures:
        parts.append("**Failed answers**\n\n" + "\n".join(failures))
    return "\n\n".join(parts) + "\n"


def _line(name: str, found: Measured) -> list[str]:
    calls_cells = [
        _cell(found.calls, field, digits)
        for field, digits in (("per_second", 0), ("cpu_us", 0), ("p50_ms", 2), ("p99_ms", 1))
    ]
    chunk_cells = [_cell(found.chunks, field, digits) for field, digits in (("cpu_us", 1), ("gap_p99_ms", 0))]
    loaded = max([found.loaded_mb, *(chunk.resident_mb for chunk in found.chunks)])
    return [name, found.about, *calls_cells, *chunk_cells, f"{found.idle_mb:.0f}", f"{loaded:.0f}"]


def _cell(windows: Sequence[Calls] | Sequence[Chunks], field: str, digits: int) -> str:
    figure = Figure.of([getattr(window, field) for window in windows])
    value, low, high = (f"{number:,.{digits}f}" for number in (figure.value, figure.low, figure.high))
    return value if low == high else f"{value} ({low} to {high})"


def _ratio(ours: Sequence[Calls] | Sequence[Chunks], theirs: Sequence[Calls] | Sequence[Chunks], field: str) -> str:
    """Compare two targets round by round, so that changes in the machine's load meet both."""
    ratios = [getattr(a, field) / getattr(b, field) for a, b in zip(ours, theirs, strict=True) if getattr(b, field)]
    return f"{Figure.of(ratios).value:.2f} ×" if ratios else ""


def _measure(options: Options, folder: Path, cores: Cores) -> SideBySide:
    found = SideBySide(options)
    with UpstreamProcess(kept_calls=0) as mock, contextlib.ExitStack() as stack:
        found.measure_calls(list(started(stack, folder / "calls", mock.port, cores)))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_measure_streams(found, folder / "streams", cores))
    return found


async def _measure_streams(found: SideBySide, folder: Path, cores: Cores) -> None:
    server = await asyncio.get_running_loop().create_server(Vendor, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    with contextlib.ExitStack() as stack:
        targets = await asyncio.to_thread(lambda: list(started(stack, folder, port, cores)))
        await found.measure_streams(targets)
        await asyncio.to_thread(stack.close)
    server.close()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str], measure: Callable[[Options, Path, Cores], SideBySide] = _measure) -> int:
    """Measure and print the tables. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks peers", description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a window (default: 4)")
    parser.add_argument(
        "--rounds", type=int, default=3, help="windows of each target, whose median counts (default: 3)"
    )
    parser.add_argument("--write", action="store_true", help=f"also write the tables to benchmarks/{RESULTS.name}")
    given = parser.parse_args(arguments)
    cores = Cores()
    cores.leave_measured()
    try:
        with tempfile.TemporaryDirectory(prefix="bench-") as name:
            known = [
                *facts(Path(name)),
                f"{CONNECTIONS} connections; {given.rounds} × {given.seconds:g} s per target",
                str(cores),
            ]
            found = measure(Options(given.seconds, given.rounds), Path(name), cores)
    except TargetFailed as failed:
        _say(str(failed))
        return 1
    versions = ", ".join(peer.requirement.replace("==", " ") for peer in PEERS)
    command = " ".join(["python -m benchmarks peers", *arguments])
    text = side_by_side_text(found.measured, [*known, versions, f"{datetime.now(UTC):%Y-%m-%d}, `{command}`"])
    print(text)
    if given.write:
        kept = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
        RESULTS.write_text(with_section(kept, TITLE, text), encoding="utf-8")
    return 1 if any(one.failure for one in found.measured.values()) else 0
