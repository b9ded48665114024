"""Measure what several hosts on one PostgreSQL and one Valkey take for a request, each process for itself.

All gateways run on the measured core, the servers, load and mock on the others. Requests arrive at random at a rate
far below the peak. CPU time is counted until all records are in the database. It says what a request costs, not how
many a machine serves: hosts, PostgreSQL and Valkey share two cores here. Fails if an answer is not a 200 or a record
is missing, never on a figure.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
import urllib.request
from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from time import monotonic, sleep

import msgspec
import sqlalchemy as sa

from benchmarks import calls, open_loop
from benchmarks.jobs import OpenJob, OpenLoad
from benchmarks.machine import Cores, ProcessTree, cpu_seconds_of, facts
from benchmarks.overload import calls_apart
from benchmarks.report import table, with_section
from benchmarks.soak import Servers, process_name, servers
from benchmarks.targets import KEY, Gateway, TargetFailed
from tests.postgres_server import CannotRun
from tests.redis_server import CannotRun as NoRedis
from tests.redis_server import RedisServer
from tests.upstream import UpstreamProcess

RESULTS = Path(__file__).with_name("RESULTS.md")
TITLE = "What a request costs on several hosts"
WARM_S, SHARED_WITHIN_S = 2.0, 150.0
SHARED = "llm_gateway_redis_limits_shared{"
CONNECTIONS = 32
HEAD = (
    "hosts × workers", "requests", "p50 ms", "worker µs", "control µs", "PostgreSQL µs", "Valkey µs",
    "workers' disk bytes", "WAL bytes", "database bytes", "bytes to and from Valkey",
)  # fmt: skip


class Site:
    """Gateways on the same servers, and what all of them have used so far."""

    def __init__(self, gateways: Sequence[Gateway], shared: Servers) -> None:
        assert shared.postgres is not None
        assert shared.redis is not None
        self.gateways = gateways
        self._postgres, self._redis = shared.postgres, shared.redis
        self._server = ProcessTree(shared.postgres.pid)
        url = sa.make_url(shared.settings["LLM_GATEWAY_DATABASE_URL"]).set(drivername="postgresql+psycopg")
        self._engine = sa.create_engine(url)

    def wait_for_redis(self) -> None:
        """Wait until Redis alone decides on limits, which takes a minute after the start of the second host.

        Raises:
            TargetFailed: it takes much longer.
        """
        deadline = monotonic() + SHARED_WITHIN_S
        while not all(map(_is_shared, self.gateways)):
            if monotonic() > deadline:
                raise TargetFailed("Redis does not answer in time again and again: the machine is too busy")
            sleep(1.0)

    def load(self, rate: float, seconds: float, number: int) -> list[OpenLoad]:
        """Send requests to all gateways at once, at `rate` together. Returns what came of each."""
        jobs = []
        for place, gateway in enumerate(self.gateways):
            plain = msgspec.structs.replace(calls.generate(gateway.port), connections=CONNECTIONS, seconds=seconds)
            first = calls_apart(number * len(self.gateways) + place)
            fields = msgspec.structs.asdict(msgspec.structs.replace(plain, first=first))
            jobs.append(OpenJob(**fields, rate=rate / len(self.gateways), seed=first))
        with ThreadPoolExecutor() as threads:
            return list(threads.map(open_loop.run, jobs))

    def used(self, expected: int) -> dict[str, float]:
        """Return CPU seconds and bytes so far, once all records are stored; `expected` is their number.

        Raises:
            TargetFailed: a record is missing.
        """
        found = min(gateway.summary(expected)["total_requests"] for gateway in self.gateways)
        if found != expected:
            raise TargetFailed(f"{found} of {expected} records are in the database")
        used: dict[str, float] = defaultdict(float)
        for gateway in self.gateways:
            for pid in gateway.tree.processes():
                kind = process_name(pid).partition(" ")[0]
                used[f"{kind} s"] += cpu_seconds_of(pid)
                used[f"{kind} disk"] += _written(pid)
        redis = _figures(self._redis)
        used["postgres s"] = self._server.cpu_seconds()
        used["redis s"] = redis["used_cpu_sys"] + redis["used_cpu_user"]
        used["redis bytes"] = int(redis["total_net_input_bytes"] + redis["total_net_output_bytes"])
        with self._engine.connect() as connection:
            used["wal"] = int(connection.execute(sa.text("SELECT pg_current_wal_lsn() - '0/0'")).scalar_one())
        used["database"] = self._postgres.size()
        return used

    def close(self) -> None:
        """End the connection to the database."""
        self._engine.dispose()


def _is_shared(gateway: Gateway) -> bool:
    request = urllib.request.Request(f"http://127.0.0.1:{gateway.port}/metrics", headers={"x-service-key": KEY})
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=10) as response:
        lines = [line for line in response.read().decode().splitlines() if line.startswith(SHARED)]
    return bool(lines) and all(line.endswith(" 1.0") for line in lines)


def _written(pid: int) -> int:
    """Return the bytes that a process has caused to be written to disks."""
    lines = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    return int(lines["write_bytes"])


def _figures(server: RedisServer) -> Mapping[str, float]:
    pairs = [line.split(":") for line in server.ask(b"INFO everything").decode().split("\r\n") if line.count(":") == 1]
    wanted = ("used_cpu_sys", "used_cpu_user", "total_net_input_bytes", "total_net_output_bytes")
    return {name: float(value) for name, value in pairs if name in wanted}


def measure(folder: Path, shape: tuple[int, int], options: argparse.Namespace, cores: Cores) -> list[str]:
    """Start hosts with workers and return their row.

    Raises:
        TargetFailed: a gateway does not start, or an answer or record is missing.
        CannotRun, NoRedis: a server cannot run here.
    """
    (hosts, workers), common = shape, secrets.token_hex(32)
    with ExitStack() as stack:
        shared = stack.enter_context(servers(folder, postgres=True, redis=True))
        mock = stack.enter_context(UpstreamProcess(kept_calls=0))
        settings = {
            **shared.settings,
            "LLM_GATEWAY_JOURNAL_FSYNC": "always",
            "LLM_GATEWAY_WORKERS": str(workers),
            "LLM_GATEWAY_ENCRYPTION_KEYS": common,
            "LLM_GATEWAY_KEY_PEPPERS": f"1:{common}",
        }
        gateways = []
        for number in range(hosts):
            gateways.append(Gateway(folder / f"host-{number}", cores, settings))
            stack.callback(gateways[-1].stop)
        gateways[0].add_provider(mock.base_url)
        site = Site(gateways, shared)
        stack.callback(site.close)
        site.wait_for_redis()
        warm = site.load(options.rate, WARM_S, 1)
        sent = sum(load.requests for load in warm)
        before = site.used(sent)
        loads = site.load(options.rate, options.seconds, 2)
        count = sum(load.requests for load in loads)
        used = {name: amount - before[name] for name, amount in site.used(sent + count).items()}
        for load in [*warm, *loads]:
            if load.failed:
                raise TargetFailed(f"{load.failed:,} of {load.requests:,} failed: {load.failure}")
    seconds = [f"{used[f'{kind} s'] / count * 1e6:.0f}" for kind in ("worker", "control", "postgres", "redis")]
    sizes = [f"{used[name] / count:,.0f}" for name in ("worker disk", "wal", "database", "redis bytes")]
    p50_ms = sum(load.p50_us for load in loads) / len(loads) / 1000
    return [f"{hosts} × {workers}", f"{count:,}", f"{p50_ms:.1f}", *seconds, *sizes]


def main(arguments: Sequence[str]) -> int:
    """Measure and print the table. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks hosts", description=__doc__)
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the load (default: 10)")
    parser.add_argument("--rate", type=float, default=800.0, help="requests a second of all hosts (default: 800)")
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2], help="workers of each host (default: 1 2)")
    parser.add_argument("--hosts", type=int, default=2, help="hosts (default: 2)")
    parser.add_argument("--write", action="store_true", help=f"also write the table to benchmarks/{RESULTS.name}")
    given = parser.parse_args(arguments)
    cores, rows = Cores(), []
    cores.leave_measured()
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        for workers in given.workers:
            folder = Path(name) / str(workers)
            folder.mkdir()
            Path(name).chmod(0o755)  # the server runs as another user if root starts it
            try:
                rows.append(measure(folder, (given.hosts, workers), given, cores))
            except (TargetFailed, CannotRun, NoRedis) as failed:
                print(failed, file=sys.stderr)
                return 1
        known = [*facts(Path(name)), str(cores), f"{given.rate:g} requests/s, PostgreSQL and Valkey on Unix sockets"]
    known.append(f"{datetime.now(UTC):%Y-%m-%d}, `{' '.join(['python -m benchmarks hosts', *arguments])}`")
    text = table(HEAD, rows) + "\n\n" + "\n".join(f"- {fact}" for fact in known) + "\n"
    print(text)
    if given.write:
        kept = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
        RESULTS.write_text(with_section(kept, TITLE, text), encoding="utf-8")
    return 0
