"""Send a gateway several times the requests that it can serve: what it still answers, and how fast it refuses the rest.

The peak is measured in a closed loop first. Then requests arrive at a multiple of it, whether or not others are
answered (by the built-in generator at random; by h2load at fixed times, `h2load.py`), while
`/api/v1/health` is asked in between. Fails if an answer is neither 200 nor 503, never on a figure.

The table also has what a request and a refusal cost in CPU time, beside a refusal by nginx, and the share of the peak
that these costs leave room for: with `factor` times the peak P of requests that cost W each, and refusals that cost R,
s P W + (factor - s) P R = P W, so s = (W - factor R) / (W - R). On a busy machine that is the figure to trust.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import urllib.request
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

import msgspec

from benchmarks import calls, open_loop
from benchmarks.h2load import HOW_TO_GET_IT, H2load, find_h2load
from benchmarks.jobs import Job, OpenJob, OpenLoad
from benchmarks.load import BuiltIn
from benchmarks.machine import Cores, ProcessTree, facts, free_port
from benchmarks.open_loop import percentile
from benchmarks.report import table, with_section
from benchmarks.targets import KEY, Gateway, RefusingNginx, TargetFailed
from tests.upstream import UpstreamProcess

RESULTS = Path(__file__).with_name("RESULTS.md")
TITLE = "Overload"
CONNECTIONS = 64
WARM_S = 2.0
LOOK_S = 0.1
"""Seconds between two looks at the gateway's health and memory."""
PATIENCE_S = 30.0
LATE_MS = 10
LEAST_SENT = 0.95
"""Share of the requests due that a generator must send to keep up; h2load's clients wait for their answers."""
LATE = "the generator was late: what it counted and timed says little, CPU times hold"
NOT_CACHED = {"cache-control": "no-store"}


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


class Measured(msgspec.Struct):
    """Result of a run. Times are in seconds of CPU time."""

    seconds: float
    factor: float
    peak: float
    request_s: float
    load: OpenLoad
    overload_s: float
    idle_mb: float
    seen: Watched
    nginx_refusal_s: float

    @property
    def rate(self) -> float:
        """The requests per second that were due."""
        return self.peak * self.factor

    @property
    def is_late(self) -> bool:
        """Whether the generator did not keep up."""
        sent = self.load.requests / self.seconds
        return self.load.lag_p99_us > LATE_MS * 1000 or sent < self.rate * LEAST_SENT

    @property
    def refusal_s(self) -> float:
        """What the overload cost beyond its served requests at the price of the peak, for each refusal."""
        served = self.load.requests - self.load.refused - self.load.failed
        return max(0.0, self.overload_s - served * self.request_s) / max(1, self.load.refused)

    def share_left(self, refusal_s: float) -> float:
        """Return the share of the peak that can be served if a refusal costs this; see the module's docstring."""
        return max(0.0, (self.request_s - self.factor * refusal_s) / max(1e-9, self.request_s - refusal_s))


def job_at(port: int) -> Job:
    """Return the job of both loops."""
    headers = {**calls.surface(port, "").headers, **NOT_CACHED}
    return msgspec.structs.replace(calls.vendor(port), headers=headers, connections=CONNECTIONS)


def cpu_and_requests(gateway: Gateway) -> tuple[float, int]:
    """Return the gateway's CPU time and its requests, once all of them are in the database."""
    requests: int = gateway.summary(0)["total_requests"]
    return gateway.tree.cpu_seconds(), requests


def closed_loop_peak(job: Job, seconds: float, program: H2load | None = None) -> float:
    """Return the requests per second that are served to clients that wait for each answer.

    They are sent by the built-in generator without `program`.
    """
    generator = BuiltIn()
    generator.run(msgspec.structs.replace(job, seconds=WARM_S))
    if program is not None:
        return program.run_closed(msgspec.structs.replace(job, seconds=seconds)).in_time / seconds
    load = generator.run(msgspec.structs.replace(job, seconds=seconds, first=calls_apart(1)))
    return (load.requests - load.failed) / load.seconds


def calls_apart(number: int) -> int:
    """Return the first request number of a job, so that no two jobs send the same request."""
    return number * 10**9


def nginx_refusal_s(folder: Path, cores: Cores) -> float:
    """Return the CPU time in which nginx refuses a request by itself: a yardstick for this machine."""
    nginx = RefusingNginx(folder, free_port(), cores)
    try:
        before = nginx.tree.cpu_seconds()
        load = BuiltIn().run(msgspec.structs.replace(job_at(nginx.port), seconds=WARM_S))
        return (nginx.tree.cpu_seconds() - before) / max(1, load.requests)
    finally:
        nginx.stop()


def measure(gateway: Gateway, seconds: float, factor: float, nginx_s: float, program: H2load | None) -> Measured:
    """Measure a started gateway, by the built-in generators without `program`."""
    before, requests = cpu_and_requests(gateway)
    peak = closed_loop_peak(job_at(gateway.port), min(seconds, 10.0), program)
    after, all_requests = cpu_and_requests(gateway)
    request_s = (after - before) / max(1, all_requests - requests)
    idle_mb = gateway.tree.resident_mb()
    _say(f"peak {peak:,.0f} requests/s; {factor:g} times that for {seconds:g} s …")
    job = msgspec.structs.replace(job_at(gateway.port), seconds=seconds, first=calls_apart(2))
    with Watch(gateway.port, gateway.tree) as seen:
        send = open_loop.run if program is None else program.run
        load = send(OpenJob(**msgspec.structs.asdict(job), rate=peak * factor, may_refuse=True))
    return Measured(
        seconds, factor, peak, request_s, load, cpu_and_requests(gateway)[0] - after, idle_mb, seen, nginx_s
    )


def rows(found: Measured) -> list[list[str]]:
    """Return the rows of the table; the last one only if the generator tells its delay."""
    load, looks = found.load, sorted(found.seen.health_ms)
    served = load.in_time / found.seconds
    health = f"{percentile(looks, 0.5):,.0f} / {percentile(looks, 0.99):,.0f} ms"
    found_rows = [
        ["peak, closed loop", f"{found.peak:,.0f}/s", ""],
        ["requests sent, of those due", f"{load.requests / found.seconds:,.0f} of {found.rate:,.0f}/s", ""],
        ["served", f"{served:,.0f}/s", ""],
        ["served, to the peak", f"{served / found.peak:.0%}", "≥ 90 %"],
        ["refused with 503, p99", f"{load.refused_p99_us / 1000:,.0f} ms ({load.refused:,})", "≤ 50 ms"],
        ["served, p50 / p99", f"{load.p50_us / 1000:,.0f} / {load.p99_us / 1000:,.0f} ms", ""],
        ["health, p50 / p99", f"{health} ({len(looks)} asked, {found.seen.unhealthy} failed)", "≤ 100 ms"],
        ["resident memory before / most", f"{found.idle_mb:,.0f} / {found.seen.most_mb:,.0f} MB", ""],
        ["CPU a request at the peak", f"{found.request_s * 1e6:,.0f} µs", ""],
        ["CPU a refusal, with all that overload costs", f"{found.refusal_s * 1e6:,.1f} µs", ""],
        ["CPU a refusal by nginx alone", f"{found.nginx_refusal_s * 1e6:,.1f} µs", ""],
        ["share of the peak that this leaves", f"{found.share_left(found.refusal_s):.0%}", ""],
        ["the same if nginx refused", f"{found.share_left(found.nginx_refusal_s):.0%}", ""],
    ]
    if load.lag_p99_us:
        found_rows.append(["the generator's own delay, p99", f"{load.lag_p99_us / 1000:,.1f} ms", f"≤ {LATE_MS} ms"])
    return found_rows


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
    cores, program = Cores(), find_h2load()
    cores.leave_measured()
    if program is None:
        _say(f"h2load is not installed ({HOW_TO_GET_IT}): taking the built-in generator, which needs a fast machine.")
    settings = {"LLM_GATEWAY_JOURNAL_FSYNC": "always", **dict(setting.split("=", 1) for setting in given.set)}
    with tempfile.TemporaryDirectory(prefix="bench-") as name, UpstreamProcess(kept_calls=0) as mock:
        try:
            running = gateway(Path(name) / "gateway", cores, settings)
            try:
                running.add_provider(mock.base_url)
                nginx_s = nginx_refusal_s(Path(name) / "nginx", cores)
                found = measure(running, given.seconds, given.factor, nginx_s, program)
            finally:
                running.stop()
        except (TargetFailed, RuntimeError) as failed:
            _say(str(failed))
            return 1
        known = [*facts(Path(name)), str(cores)]
    command = " ".join(["python -m benchmarks overload", *arguments])
    known.append(f"{datetime.now(UTC):%Y-%m-%d}, `{command}`")
    known.append(
        "sent by the built-in generator; times count from when a request was due"
        if program is None
        else "sent by h2load, which sends what is due once a client's last request is answered; times count from then"
    )
    if found.is_late:
        known.append(LATE)
    text = table(("figure", "measured", "must"), rows(found)) + "\n\n" + "\n".join(f"- {fact}" for fact in known) + "\n"
    print(text)
    if found.load.failure:
        _say(f"FAILED: {found.load.failure!r}")
    if given.write:
        kept = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
        RESULTS.write_text(with_section(kept, TITLE, text), encoding="utf-8")
    return 1 if found.load.failure else 0
