"""Run the scenarios of the main benchmark in order, and collect their results for `budget` and `report`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import sleep
from typing import NamedTuple

import msgspec

from benchmarks import calls
from benchmarks.findings import Figure, Findings, Speed
from benchmarks.jobs import Job
from benchmarks.ledger import Ledger, NoBooks
from benchmarks.machine import Cores, ProcessTree
from benchmarks.meter import Generator, Meter
from benchmarks.targets import Gateway, Nginx
from tests.upstream import UpstreamProcess

LATE_SECONDS = 0.2


class Options(msgspec.Struct, frozen=True):
    """Length and repetitions of a run."""

    seconds: float = 5.0
    windows: int = 3
    warm_seconds: float = 2.0
    warm_requests: int = 2000
    connections: int = 32
    rest_seconds: float = 2.0
    """Seconds before idle memory is read."""
    soak_seconds: float = 0.0
    """Seconds of additional load before loaded memory is read."""
    settings: dict[str, str] = {}
    """Additional LLM_GATEWAY_… settings for the gateway."""


class Surroundings(NamedTuple):
    """Mock vendor, data folder, cores and class of the gateways, shared by all scenarios of a run."""

    mock: UpstreamProcess
    folder: Path
    cores: Cores
    gateway: type[Gateway] = Gateway


class Bench:
    """The main benchmark: all scenarios, with the same mock vendor."""

    def __init__(
        self, options: Options, generator: Generator, surroundings: Surroundings, say: Callable[[str], None]
    ) -> None:
        self.found = Findings()
        self._options = options
        self._meter = Meter(generator, surroundings.cores, options.connections, say)
        self._mock = surroundings.mock
        self._folder = surroundings.folder
        self._cores = surroundings.cores
        self._gateways = surroundings.gateway
        self._say = say

    def run(self) -> Findings:
        """Run all scenarios. Returns their results."""
        self._nginx()
        self._interval()
        self._always()
        self._starts()
        self.found.failures = self._meter.failures
        return self.found

    def _nginx(self) -> None:
        try:
            nginx = Nginx(self._folder / "nginx", self._mock.port, self._cores)
        except (OSError, RuntimeError) as error:
            self._say(f"plain nginx proxy: not measured. {error}")
            return
        try:
            self.found.speeds["nginx"] = self._speed("plain nginx proxy", calls.vendor(nginx.port), nginx.tree)
        finally:
            nginx.stop()

    def _interval(self) -> None:
        gateway = self._gateway("interval")
        try:
            gateway.add_provider(self._mock.base_url)
            self._scenario("interval", "POST /generate, fsync interval", gateway, calls.generate(gateway.port))
        finally:
            gateway.stop()

    def _always(self) -> None:
        gateway = self._gateway("always")
        try:
            self.found.first_start_s = gateway.start_seconds
            sleep(self._options.rest_seconds)
            self.found.idle_mb = gateway.tree.resident_mb()
            gateway.add_provider(self._mock.base_url)
            self._added_latency(gateway)
            self._scenario("always", "POST /generate, fsync always", gateway, calls.generate(gateway.port))
            self._scenario("hit", "cache hit", gateway, calls.generate(gateway.port, calls.SAME_PROMPT), misses=1)
            if self._options.soak_seconds:
                self._say(f"soaking for {self._options.soak_seconds:.0f} s …")
                self._meter.load(calls.generate(gateway.port), seconds=self._options.soak_seconds)
            self.found.loaded_mb = gateway.tree.resident_mb()
            self._say(f"resident memory: {self.found.idle_mb:.0f} MB idle, {self.found.loaded_mb:.0f} MB after load")
            self._scenario(
                "chat", "chat completion passed through", gateway, calls.surface(gateway.port, "chat/completions")
            )
            self._scenario(
                "messages", "Anthropic message, translated", gateway, calls.surface(gateway.port, "messages")
            )
        finally:
            gateway.stop()

    def _starts(self) -> None:
        """Measure starts on an existing database."""
        took = []
        for _ in range(1 + self._options.windows):
            gateway = self._gateway("always", name="starts")
            gateway.stop()
            took.append(gateway.start_seconds)
        self.found.start_s = Figure.of(took[1:])
        self._say(f"start to first 200: {self.found.start_s.value:.2f} s")

    def _scenario(self, key: str, name: str, gateway: Gateway, job: Job, misses: int | None = None) -> None:
        ledger = Ledger(gateway, self._mock)
        self.found.speeds[key] = self._speed(name, job, gateway.tree, ledger)
        self._close(ledger, name, misses)

    def _added_latency(self, gateway: Gateway) -> None:
        """Measure latency directly and through the gateway in turns, so that drifts of the machine affect both."""
        ledger = Ledger(gateway, self._mock)
        direct_job, through_job = calls.vendor(self._mock.port), calls.generate(gateway.port)
        added = []
        for window in range(-1, self._options.windows):
            seconds = self._options.seconds if window >= 0 else self._options.warm_seconds / 2
            direct = self._meter.load(direct_job, seconds=seconds, connections=1)
            through = self._meter.load(through_job, seconds=seconds, connections=1)
            ledger.add(through, direct)
            if window >= 0:
                added.append((through.p50_us - direct.p50_us) / 1000)
                self._say(f"latency at 1 connection: {direct.p50_us:.0f} µs direct, {through.p50_us:.0f} µs through")
        self.found.added_ms = Figure.of(added)
        self._close(ledger, "1 connection, fsync always", misses=None)

    def _speed(self, name: str, job: Job, tree: ProcessTree, ledger: Ledger | None = None) -> Speed:
        """Warm up, then measure the windows of one scenario."""
        books = ledger or NoBooks()
        books.add(self._meter.load(job, seconds=self._options.warm_seconds, at_least=self._options.warm_requests))
        books.settle()
        windows = []
        for number in range(self._options.windows):
            windows.append(window := self._meter.window(job, tree, books, self._options.seconds))
            self._say(
                f"{name} {number + 1}/{self._options.windows}: {window.cpu_us:.0f} µs CPU/request, "
                f"{window.per_second:,.0f} requests/s, {window.busy:.0%} of its core"
                + (f", recorded {window.late:.1f} s later" if window.late > LATE_SECONDS else "")
            )
        return Speed.of(name, windows)

    def _close(self, ledger: Ledger, name: str, misses: int | None) -> None:
        books = ledger.close(name, misses)
        self.found.books.append(books)
        self._say(f"{name}: accounting of {books.recorded:,} requests {books.wrong or 'OK'}")

    def _gateway(self, policy: str, name: str = "") -> Gateway:
        settings = {"LLM_GATEWAY_JOURNAL_FSYNC": policy, **self._options.settings}
        return self._gateways(self._folder / (name or policy), self._cores, settings)
