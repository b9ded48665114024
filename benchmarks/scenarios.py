"""The measurements, in the order they run. What they find is held against the budget in `budget`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, sleep
from typing import Any, NamedTuple, Protocol

import msgspec

from benchmarks.findings import Books, Figure, Findings, Speed, Window
from benchmarks.jobs import NUMBER, Job, Load
from benchmarks.machine import Cores, ProcessTree
from benchmarks.targets import KEY, MODEL, Gateway, Nginx
from tests.upstream import UpstreamProcess

PROMPT = f"Request {NUMBER}: what is the capital of France, and which river does it lie on?"
SAME_PROMPT = PROMPT.replace(NUMBER, "0" * len(NUMBER))
NUMBERS_PER_JOB = 10**9
LATE_SECONDS = 0.2


class Generator(Protocol):
    """Makes load."""

    name: str

    def run(self, job: Job) -> Load: ...


class Options(msgspec.Struct, frozen=True):
    """How thorough a run is."""

    seconds: float = 5.0
    windows: int = 3
    warm_seconds: float = 2.0
    warm_requests: int = 2000
    connections: int = 32
    rest_seconds: float = 2.0
    """Before idle memory is read."""
    soak_seconds: float = 0.0
    """More load before loaded memory is read."""
    settings: dict[str, str] = {}
    """LLM_GATEWAY_… for the gateway, beyond what the bench sets."""


class Surroundings(NamedTuple):
    """What all scenarios of a run share."""

    mock: UpstreamProcess
    folder: Path
    cores: Cores


class Bench:
    """Runs the scenarios, each against the one mock that runs all along."""

    def __init__(
        self, options: Options, generator: Generator, surroundings: Surroundings, say: Callable[[str], None]
    ) -> None:
        self.found = Findings()
        self._options = options
        self._generator = generator
        self._mock = surroundings.mock
        self._folder = surroundings.folder
        self._cores = surroundings.cores
        self._say = say
        self._jobs = 0

    def run(self) -> Findings:
        """Measure everything."""
        self._nginx()
        self._interval()
        self._always()
        self._starts()
        return self.found

    def _nginx(self) -> None:
        try:
            nginx = Nginx(self._folder / "nginx", self._mock.port, self._cores)
        except (OSError, RuntimeError) as error:
            self._say(f"plain nginx proxy: not measured. {error}")
            return
        try:
            self.found.speeds["nginx"] = self._speed("plain nginx proxy", self._to_vendor(nginx.port), nginx.tree)
        finally:
            nginx.stop()

    def _interval(self) -> None:
        gateway = self._gateway("interval")
        try:
            gateway.add_provider(self._mock.base_url)
            self._scenario("interval", "POST /generate, fsync interval", gateway, self._to_gateway(gateway))
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
            self._scenario("always", "POST /generate, fsync always", gateway, self._to_gateway(gateway))
            self._scenario("hit", "cache hit", gateway, self._to_gateway(gateway, SAME_PROMPT), misses=1)
            if self._options.soak_seconds:
                self._say(f"soaking for {self._options.soak_seconds:.0f} s …")
                self._load(self._to_gateway(gateway), seconds=self._options.soak_seconds)
            self.found.loaded_mb = gateway.tree.resident_mb()
            self._say(f"resident memory: {self.found.idle_mb:.0f} MB idle, {self.found.loaded_mb:.0f} MB after load")
            self._scenario(
                "chat", "chat completion passed through", gateway, self._to_surface(gateway, "chat/completions")
            )
            self._scenario("messages", "Anthropic message, translated", gateway, self._to_surface(gateway, "messages"))
        finally:
            gateway.stop()

    def _starts(self) -> None:
        """Starts over a database that is there already."""
        took = []
        for _ in range(1 + self._options.windows):
            gateway = self._gateway("always", name="starts")
            gateway.stop()
            took.append(gateway.start_seconds)
        self.found.start_s = Figure.of(took[1:])
        self._say(f"start to first 200: {self.found.start_s.value:.2f} s")

    def _scenario(self, key: str, name: str, gateway: Gateway, job: Job, misses: int | None = None) -> None:
        ledger = _Ledger(gateway, self._mock)
        self.found.speeds[key] = self._speed(name, job, gateway.tree, ledger)
        self._close(ledger, name, misses)

    def _added_latency(self, gateway: Gateway) -> None:
        """Direct and through the gateway in turns, so that the machine's moods meet both."""
        ledger = _Ledger(gateway, self._mock)
        direct_job, through_job = self._to_vendor(self._mock.port), self._to_gateway(gateway)
        added = []
        for window in range(-1, self._options.windows):
            seconds = self._options.seconds if window >= 0 else self._options.warm_seconds / 2
            direct = self._load(direct_job, seconds=seconds, connections=1)
            through = self._load(through_job, seconds=seconds, connections=1)
            ledger.add(through, direct)
            if window >= 0:
                added.append((through.p50_us - direct.p50_us) / 1000)
                self._say(f"latency at 1 connection: {direct.p50_us:.0f} µs direct, {through.p50_us:.0f} µs through")
        self.found.added_ms = Figure.of(added)
        self._close(ledger, "1 connection, fsync always", misses=None)

    def _speed(self, name: str, job: Job, tree: ProcessTree, ledger: _Ledger | None = None) -> Speed:
        """Warm up, then measure windows."""
        books = ledger or _NoBooks()
        books.add(self._load(job, seconds=self._options.warm_seconds, at_least=self._options.warm_requests))
        books.settle()
        windows = []
        for number in range(self._options.windows):
            windows.append(window := self._window(job, tree, books))
            self._say(
                f"{name} {number + 1}/{self._options.windows}: {window.cpu_us:.0f} µs CPU/request, "
                f"{window.per_second:,.0f} requests/s, {window.busy:.0%} of its core"
                + (f", recorded {window.late:.1f} s later" if window.late > LATE_SECONDS else "")
            )
        return Speed.of(name, windows)

    def _window(self, job: Job, tree: ProcessTree, books: _Ledger | _NoBooks) -> Window:
        """One spell of load. CPU time is read once everything of it is in the database."""
        before, core_before = tree.cpu_seconds(), self._cores.measured_seconds()
        load = self._load(job, seconds=self._options.seconds)
        used, core_used = tree.cpu_seconds() - before, self._cores.measured_seconds() - core_before
        at = perf_counter()
        books.add(load)
        books.settle()
        late = perf_counter() - at
        return Window(
            cpu_us=(tree.cpu_seconds() - before) / max(1, load.requests) * 1e6,
            per_second=load.requests / load.seconds,
            p50_ms=load.p50_us / 1000,
            p99_ms=load.p99_us / 1000,
            busy=used / load.seconds,
            others=max(0.0, core_used - used) / load.seconds,
            late=late,
        )

    def _load(self, job: Job, *, seconds: float, at_least: int = 0, connections: int = 0) -> Load:
        self._jobs += 1
        load = self._generator.run(
            msgspec.structs.replace(
                job,
                seconds=seconds,
                at_least=at_least,
                connections=connections or self._options.connections,
                first=self._jobs * NUMBERS_PER_JOB,
            )
        )
        if load.failed or not load.requests:
            self.found.failures.append(f"{load.failed:,} of {load.requests:,} to {job.path}: {load.failure!r}")
            self._say(f"FAILED: {self.found.failures[-1]}")
        return load

    def _close(self, ledger: _Ledger, name: str, misses: int | None) -> None:
        books = ledger.close(name, misses)
        self.found.books.append(books)
        self._say(f"{name}: accounting of {books.recorded:,} requests {books.wrong or 'OK'}")

    def _gateway(self, policy: str, name: str = "") -> Gateway:
        settings = {"LLM_GATEWAY_JOURNAL_FSYNC": policy, **self._options.settings}
        return Gateway(self._folder / (name or policy), self._cores, settings)

    @staticmethod
    def _to_gateway(gateway: Gateway, prompt: str = PROMPT) -> Job:
        body = {"user_id": "customer-1", "service": "bench", "prompt": prompt, "max_tokens": 200}
        headers = {"content-type": "application/json", "x-service-key": KEY}
        return Job(gateway.port, "/api/v1/generate", json.dumps(body), headers)

    @staticmethod
    def _to_surface(gateway: Gateway, path: str) -> Job:
        body = {"model": MODEL, "messages": [{"role": "user", "content": PROMPT}], "max_tokens": 200}
        headers = {"content-type": "application/json", "x-api-key": KEY}
        return Job(gateway.port, f"/v1/{path}", json.dumps(body), headers)

    @staticmethod
    def _to_vendor(port: int) -> Job:
        messages = [{"role": "user", "content": PROMPT}]
        body = {"model": MODEL, "messages": messages, "max_tokens": 200, "temperature": 0.7}
        headers = {"content-type": "application/json", "authorization": "Bearer sk-benchmark-0123456789"}
        return Job(port, "/v1/chat/completions", json.dumps(body), headers)


class _NoBooks:
    """The books of a target that keeps none."""

    def add(self, load: Load) -> None: ...

    def settle(self) -> None: ...


class _Ledger:
    """A gateway's books over one scenario: opened before its first request, closed after its last."""

    def __init__(self, gateway: Gateway, mock: UpstreamProcess) -> None:
        self._gateway = gateway
        self._mock = mock
        self._before = gateway.summary(0)
        self._bought_before = mock.seen().total
        self._sent = self._slack = 0

    def add(self, load: Load, direct: Load | None = None) -> None:
        """Count what was sent; `direct` went past the gateway to the mock."""
        self._sent += load.requests
        self._slack += load.unread
        if direct is not None:
            self._bought_before += direct.requests
            self._slack += direct.unread

    def settle(self) -> dict[str, Any]:
        """Wait until everything sent is in the database."""
        return self._gateway.summary(self._before["total_requests"] + self._sent)

    def close(self, name: str, misses: int | None) -> Books:
        """The books; `misses` is how many the cache could not answer, None for all."""
        after = self.settle()
        return Books(
            name=name,
            sent=self._sent,
            slack=self._slack,
            recorded=after["total_requests"] - self._before["total_requests"],
            hits_expected=0 if misses is None else self._sent - misses,
            hits=after["cached_requests"] - self._before["cached_requests"],
            bought=self._mock.seen().total - self._bought_before,
        )
