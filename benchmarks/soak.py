"""Load a gateway for minutes, with failures mixed in, and measure how the memory of each of its processes grows.

The load is a part of the peak, which is measured first. Meanwhile one provider fails every few calls, and clients send
invalid requests, leave in the middle of an answer, and read streams. With `--large`, others also send bodies of 32 MiB
and read answers of 10 MB slowly. With `--postgres` the database is a PostgreSQL, with `--redis` limits and cached
answers are in a Valkey, each started for it on the cores of the load. Fails if an answer of the load is not a 200, or
if no other request of some kind gets the answer that it is for; never on a figure.
"""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import linear_regression
from time import perf_counter
from typing import NamedTuple, Self

import msgspec

from benchmarks import calls, open_loop
from benchmarks.jobs import OpenJob
from benchmarks.machine import PAGE, Cores, ProcessTree, facts
from benchmarks.measured_databases import PostgresCluster
from benchmarks.mischief import FLAKY, HUGE, Mischief
from benchmarks.overload import calls_apart, closed_loop_peak
from benchmarks.report import table, with_section
from benchmarks.targets import Gateway, TargetFailed
from tests.gateway_processes import ProcessId
from tests.postgres_server import CannotRun
from tests.redis_server import CannotRun as NoRedis
from tests.redis_server import RedisServer
from tests.upstream import UpstreamProcess

RESULTS = Path(__file__).with_name("RESULTS.md")
TITLE = "Soak"
CONNECTIONS = 64
SHARE = 0.7
PIECE_S, SAMPLE_S = 10.0, 0.25
"""Seconds of a piece of the load, whose least memory counts, and between two looks at the memory."""
WARM_SHARE = 0.2
"""Part of the run that is not counted: caches and pools fill in it."""
CACHE_BYTES = "8388608"
"""Size of the cache, so that it is full after the warm-up."""
MIB = 2**20


class Samples(msgspec.Struct):
    """Resident memory of each process by its name: the least of each piece of the run, and the most of all, in MiB.

    A process holds bodies and answers for a moment and gives them back. What it never gives back is in the least.
    """

    at: dict[str, list[float]] = {}
    least: dict[str, list[float]] = {}
    most: dict[str, float] = {}

    def add(self, name: str, seconds: float, mib: float) -> None:
        """Add the memory of a process at a time, in seconds since the start."""
        at, least = self.at.setdefault(name, []), self.least.setdefault(name, [])
        if at and at[-1] // PIECE_S == seconds // PIECE_S:
            least[-1] = min(least[-1], mib)
        else:
            at.append(seconds)
            least.append(mib)
        self.most[name] = max(self.most.get(name, 0.0), mib)

    def rows(self, warm_s: float) -> list[list[str]]:
        """Return a row for each process: memory after the warm-up and at the end, MiB a minute in between, the most."""
        rows = []
        for name in sorted(self.at):
            pairs = [pair for pair in zip(self.at[name], self.least[name], strict=True) if pair[0] >= warm_s]
            if len(pairs) > 1:
                slope = linear_regression([at / 60 for at, _ in pairs], [mib for _, mib in pairs]).slope
                ends = [f"{pairs[0][1]:.1f}", f"{pairs[-1][1]:.1f}"]
                rows.append([name, *ends, f"{slope:+.2f}", "≤ 1", f"{self.most[name]:.1f}"])
        return rows


class MemoryWatch:
    """Thread that reads the memory of a gateway's processes several times a second within its block."""

    def __init__(self, tree: ProcessTree) -> None:
        self.samples = Samples()
        self._tree = tree
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        began = perf_counter()
        while not self._ended.wait(SAMPLE_S):
            for pid in self._tree.processes():
                name = process_name(pid)
                if name:
                    self.samples.add(name, perf_counter() - began, resident_mib(pid))


def process_name(pid: int) -> str:
    """Return what a process of the gateway is: "worker 123"; empty if it has ended."""
    process = ProcessId.of(pid)
    if process is None:
        return ""
    return f"{process.role if process.role in ('worker', 'control') else 'supervisor'} {pid}"


def resident_mib(pid: int) -> float:
    """Return the resident memory of a process in MiB; 0 if it has ended."""
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE / MIB
    return 0.0


def soak(gateway: Gateway, options: argparse.Namespace) -> tuple[list[list[str]], list[str]]:
    """Load a started gateway. Returns the rows of the table, and what failed."""
    job = msgspec.structs.replace(
        calls.vendor(gateway.port), headers=calls.surface(gateway.port, "").headers, connections=CONNECTIONS
    )
    rate = closed_loop_peak(job, min(PIECE_S, options.seconds)) * options.share
    _say(f"{rate:,.0f} requests/s for {options.seconds:g} s …")
    failures, began = [], perf_counter()
    with Mischief(gateway.port, large=options.large) as mischief, MemoryWatch(gateway.tree) as watch:
        number = 2
        while (seconds := perf_counter() - began) < options.seconds:
            piece = OpenJob(
                **msgspec.structs.asdict(msgspec.structs.replace(job, seconds=min(PIECE_S, options.seconds))),
                rate=rate,
                seed=number,
            )
            load = open_loop.run(msgspec.structs.replace(piece, first=calls_apart(number)))
            if load.failed:
                failures.append(f"{load.failed:,} of {load.requests:,}: {load.failure!r}")
            number += 1
            _say(f"{seconds:5.0f} s: p99 {load.p99_us / 1000:.0f} ms, {gateway.tree.resident_mb():.0f} MB in all")
    others = ", ".join(f"{kind} {count:,}" for kind, count in sorted(mischief.answers.items()))
    _say(f"other requests: {others}")
    return watch.samples.rows(options.seconds * WARM_SHARE), failures + mischief.failures()


class Servers(NamedTuple):
    """Started servers, and the settings of a gateway that uses them."""

    postgres: PostgresCluster | None
    redis: RedisServer | None
    settings: dict[str, str]


@contextlib.contextmanager
def servers(folder: Path, *, postgres: bool, redis: bool) -> Iterator[Servers]:
    """Start a PostgreSQL and a Valkey, or one of them.

    Raises:
        CannotRun, NoRedis: a server cannot run here; the text says why.
    """
    settings: dict[str, str] = {}
    cluster, server = None, None
    with contextlib.ExitStack() as stack:
        if postgres:
            cluster = PostgresCluster(folder)
            stack.callback(cluster.delete)
            settings["LLM_GATEWAY_DATABASE_URL"] = cluster.start()
            stack.callback(cluster.close)
        if redis:
            directory = Path(tempfile.mkdtemp(prefix="bench-redis-"))  # short: a socket's path has 107 bytes
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
            server = stack.enter_context(RedisServer(directory))
            settings["LLM_GATEWAY_REDIS_URL"] = server.url
        yield Servers(cluster, server, settings)


def _title(options: argparse.Namespace) -> str:
    parts = [name for name, is_on in (("PostgreSQL", options.postgres), ("Redis", options.redis)) if is_on]
    parts += ["large bodies"] if options.large else []
    return TITLE + (f" with {' and '.join(parts)}" if parts else "")


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str], gateway: type[Gateway] = Gateway) -> int:
    """Measure and print the table. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks soak", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="length of the load (default: 600)")
    parser.add_argument("--share", type=float, default=SHARE, help=f"part of the peak (default: {SHARE:g})")
    parser.add_argument("--large", action="store_true", help="bodies of 32 MiB and slow readers")
    parser.add_argument("--postgres", action="store_true", help="on a PostgreSQL in place of SQLite")
    parser.add_argument("--redis", action="store_true", help="with a Valkey for limits and cached answers")
    parser.add_argument("--workers", type=int, default=2, help="worker processes (default: 2)")
    parser.add_argument("--write", action="store_true", help=f"also write the table to benchmarks/{RESULTS.name}")
    given = parser.parse_args(arguments)
    cores = Cores()
    settings = {
        "LLM_GATEWAY_JOURNAL_FSYNC": "always",
        "LLM_GATEWAY_WORKERS": str(given.workers),
        "LLM_GATEWAY_CACHE_MAX_BYTES": CACHE_BYTES,
    }
    cores.leave_measured()
    with tempfile.TemporaryDirectory(prefix="bench-") as name, UpstreamProcess(kept_calls=0) as mock:
        try:
            with servers(Path(name), postgres=given.postgres, redis=given.redis) as shared:
                running = gateway(Path(name) / "gateway", cores, settings | shared.settings)
                try:
                    running.add_provider(mock.base_url)
                    running.add_provider(mock.base_url, name="flaky", model=FLAKY)
                    running.add_provider(mock.base_url, name="huge", model=HUGE)
                    rows, failures = soak(running, given)
                finally:
                    running.stop()
        except (TargetFailed, RuntimeError, CannotRun, NoRedis) as failed:
            _say(str(failed))
            return 1
        known = [*facts(Path(name)), str(cores)]
    known.append(f"{datetime.now(UTC):%Y-%m-%d}, `{' '.join(['python -m benchmarks soak', *arguments])}`")
    head = ("process", "MiB after the warm-up", "MiB at the end", "MiB a minute", "must", "most MiB")
    least = f"Memory is the least of each {PIECE_S:g} s, but for the last column, where bodies and answers count."
    text = f"{table(head, rows)}\n\n{least}\n\n" + "\n".join(f"- {fact}" for fact in known) + "\n"
    print(text)
    for failure in failures:
        _say(f"FAILED: {failure}")
    if given.write:
        kept = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
        RESULTS.write_text(with_section(kept, _title(given), text), encoding="utf-8")
    return 1 if failures else 0
