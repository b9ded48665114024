"""Send a gateway several times the requests that it can serve: what it still answers, and how fast it refuses the rest.

The peak is measured in a closed loop first. Then requests arrive at random at a multiple of it (open loop), while
`/api/v1/health` is asked in between. Fails if an answer is neither 200 nor 503, never on a figure. Usage is checked as
in the other benchmarks: each served request has one record.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

import msgspec

from benchmarks import calls, open_loop
from benchmarks.jobs import Job, OpenJob
from benchmarks.load import BuiltIn
from benchmarks.machine import Cores, ProcessTree, facts
from benchmarks.open_loop import percentile
from benchmarks.report import table, with_section
from benchmarks.targets import KEY, Gateway, TargetFailed
from tests.upstream import UpstreamProcess

RESULTS = Path(__file__).with_name("RESULTS.md")
TITLE = "Overload"
CONNECTIONS = 64
WARM_S = 2.0
LOOK_S = 0.1
"""Seconds between two looks at the gateway's health and memory."""
PATIENCE_S = 30.0


class Watched(msgspec.Struct):
    """What was seen of a gateway while it was under load."""

    health_ms: list[float] = []
    unhealthy: int = 0
    most_mb: float = 0.0


class Watch:
    """A thread that asks for the gateway's health and reads its memory during the block."""

    def __init__(self, port: int, tree: ProcessTree) -> None:
        self.seen = Watched()
        self._url = f"http://127.0.0.1:{port}/api/v1/health"
        self._tree = tree
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Watched:
        self._thread.start()
        return self.seen

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        request = urllib.request.Request(self._url, headers={"X-Service-Key": KEY})
        while not self._ended.wait(LOOK_S):
            at = perf_counter()
            try:
                opener.open(request, timeout=PATIENCE_S).read()
            except OSError:
                self.seen.unhealthy += 1
            self.seen.health_ms.append((perf_counter() - at) * 1000)
            self.seen.most_mb = max(self.seen.most_mb, self._tree.resident_mb())


def closed_loop_peak(job: Job, seconds: float) -> float:
    """Return the requests per second that are served to clients that wait for each answer."""
    generator = BuiltIn()
    generator.run(msgspec.structs.replace(job, connections=CONNECTIONS, seconds=WARM_S))
    load = generator.run(msgspec.structs.replace(job, connections=CONNECTIONS, seconds=seconds, first=calls_apart(1)))
    return (load.requests - load.failed) / load.seconds


def calls_apart(number: int) -> int:
    """Return the first request number of a job, so that no two jobs send the same request."""
    return number * 10**9


def measure(gateway: Gateway, seconds: float, factor: float, say: Callable[[str], None]) -> tuple[list[list[str]], str]:
    """Measure a started gateway. Returns the rows of the table, and the first answer that was no 200 and no 503."""
    job = msgspec.structs.replace(
        calls.vendor(gateway.port), headers=calls.surface(gateway.port, "").headers, connections=CONNECTIONS
    )
    peak = closed_loop_peak(job, min(seconds, 10.0))
    idle_mb = gateway.tree.resident_mb()
    say(f"peak {peak:,.0f} requests/s; {factor:g} times that for {seconds:g} s …")
    overload = OpenJob(
        **msgspec.structs.asdict(msgspec.structs.replace(job, seconds=seconds, first=calls_apart(2))),
        rate=peak * factor,
        may_refuse=True,
    )
    with Watch(gateway.port, gateway.tree) as seen:
        load = open_loop.run(overload)
    looks = sorted(seen.health_ms)
    rows = [
        ["peak, closed loop", f"{peak:,.0f}/s", ""],
        ["requests sent", f"{load.requests / seconds:,.0f}/s", ""],
        ["served", f"{load.in_time / seconds:,.0f}/s", ""],
        ["served, to the peak", f"{load.in_time / seconds / peak:.0%}", "≥ 90 %"],
        ["refused with 503, p99", f"{load.refused_p99_us / 1000:,.0f} ms ({load.refused:,})", "≤ 50 ms"],
        ["served, p50 / p99", f"{load.p50_us / 1000:,.0f} / {load.p99_us / 1000:,.0f} ms", ""],
        [
            "health, p50 / p99",
            (
                f"{percentile(looks, 0.5):,.0f} / {percentile(looks, 0.99):,.0f} ms "
                f"({len(looks)} asked, {seen.unhealthy} failed)"
            ),
            "≤ 100 ms",
        ],
        ["resident memory before / most", f"{idle_mb:,.0f} / {seen.most_mb:,.0f} MB", ""],
        ["the generator's own delay, p99", f"{load.lag_p99_us / 1000:,.1f} ms", ""],
    ]
    return rows, load.failure


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str], gateway: type[Gateway] = Gateway) -> int:
    """Measure and print the table. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0, help="length of the overload (default: 60)")
    parser.add_argument("--factor", type=float, default=5.0, help="arrivals as a multiple of the peak (default: 5)")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="an LLM_GATEWAY_… setting")
    parser.add_argument("--write", action="store_true", help=f"also write the table to benchmarks/{RESULTS.name}")
    given = parser.parse_args(arguments)
    cores = Cores()
    cores.leave_measured()
    settings = {"LLM_GATEWAY_JOURNAL_FSYNC": "always", **dict(setting.split("=", 1) for setting in given.set)}
    with tempfile.TemporaryDirectory(prefix="bench-") as name, UpstreamProcess(kept_calls=0) as mock:
        try:
            running = gateway(Path(name) / "gateway", cores, settings)
            try:
                running.add_provider(mock.base_url)
                rows, failure = measure(running, given.seconds, given.factor, _say)
            finally:
                running.stop()
        except (TargetFailed, RuntimeError) as failed:
            _say(str(failed))
            return 1
        known = [*facts(Path(name)), str(cores)]
    command = " ".join(["python -m benchmarks overload", *arguments])
    known.append(f"{datetime.now(UTC):%Y-%m-%d}, `{command}`")
    text = table(("figure", "measured", "must"), rows) + "\n\n" + "\n".join(f"- {fact}" for fact in known) + "\n"
    print(text)
    if failure:
        _say(f"FAILED: {failure!r}")
    if given.write:
        kept = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
        RESULTS.write_text(with_section(kept, TITLE, text), encoding="utf-8")
    return 1 if failure else 0
