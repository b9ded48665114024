"""Command line of the benchmarks: run the main benchmark, or one of the others by its name."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import msgspec

from benchmarks import (
    budget_holds,
    compare,
    hosts,
    instructions,
    overload,
    processes,
    reports,
    shipping,
    side_by_side,
    soak,
    streams,
    tail,
    telemetry,
)
from benchmarks.budget import rows
from benchmarks.load import BuiltIn
from benchmarks.machine import Cores, facts
from benchmarks.meter import Generator
from benchmarks.report import markdown, with_section
from benchmarks.scenarios import Bench, Options, Surroundings
from benchmarks.targets import Gateway, TargetFailed
from benchmarks.wrk import HOW_TO_GET_IT, find_wrk
from tests.upstream import UpstreamProcess

RESULTS = Path(__file__).with_name("RESULTS.md")
QUICK = Options(seconds=0.05, windows=1, warm_seconds=0.02, warm_requests=0, rest_seconds=0.1)

ABOUT = """
Measures the gateway of this tree in front of a mock vendor that answers at once, beside a plain nginx in the same run,
and prints the budget: the limit, target and measured value of each figure. Takes about two minutes. The
gateway has one core, load and mock another; CPU is user and system time of all the gateway's processes, until
everything is in the database, divided by the requests answered. Fails if an answer is not a 200 or the accounting does
not add up, never on a figure. `python -m benchmarks reports` measures the usage reports instead, `python -m
benchmarks streams` what a streamed chunk costs, `python -m benchmarks tail` latencies at fixed arrival rates,
`python -m benchmarks overload` what is served at several times the peak, `python -m benchmarks soak` how memory grows,
`python -m benchmarks shipping` what it costs to store a usage record, `python -m benchmarks compare` another checkout
of this project against this one, and `python -m benchmarks instructions` the same by counting instructions, which no
busy machine disturbs. `python -m benchmarks budgets` measures what budgets add to a request, and
`python -m benchmarks telemetry` what telemetry adds. `python -m benchmarks peers` measures other gateways beside it,
`python -m benchmarks hosts` what several hosts, their PostgreSQL and their Redis take for a request, and `python -m
benchmarks processes` what several workers and many service keys cost.
"""


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=ABOUT)
    add = parser.add_argument
    add("--quick", action="store_true", help="some seconds, to see that it works; the figures say little")
    add("--seconds", type=float, help=f"length of a window (default: {Options().seconds:g})")
    add("--windows", type=int, help=f"windows of a scenario, whose median counts (default: {Options().windows})")
    add("--connections", type=int, help=f"requests at once (default: {Options().connections})")
    add("--soak", type=float, metavar="SECONDS", help="more load before loaded memory is read (the budget says 600)")
    add("--load", choices=("builtin", "wrk"), default="builtin", help="load generator (default: builtin)")
    add("--set", action="append", default=[], metavar="NAME=VALUE", help="an LLM_GATEWAY_… setting for the gateway")
    add("--json", action="store_true", help="print JSON, not tables")
    add("--write", action="store_true", help=f"also write the tables to benchmarks/{RESULTS.name}")
    return parser.parse_args(arguments)


def _options(given: argparse.Namespace) -> Options:
    changes: dict[str, object] = {
        "seconds": given.seconds,
        "windows": given.windows,
        "connections": given.connections,
        "soak_seconds": given.soak,
    }
    said = {name: value for name, value in changes.items() if value is not None}
    settings = dict(setting.split("=", 1) for setting in given.set)
    return msgspec.structs.replace(QUICK if given.quick else Options(), settings=settings, **said)


def _generator(name: str) -> Generator:
    wrk = find_wrk()
    if name == "builtin":
        return BuiltIn()
    if wrk is None:
        _say(f"wrk is not installed ({HOW_TO_GET_IT}): taking the built-in generator.")
        return BuiltIn()
    return wrk


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main(arguments: Sequence[str] | None = None, gateway: type[Gateway] = Gateway) -> int:
    """Measure and print the tables. Returns the exit code."""
    if sys.platform != "linux":
        _say("The bench reads CPU time from /proc and pins processes to cores: it needs Linux.")
        return 1
    said = sys.argv[1:] if arguments is None else arguments
    others: dict[str, Callable[[Sequence[str]], int]] = {
        "reports": reports.main,
        "budgets": budget_holds.main,
        "streams": streams.main,
        "tail": partial(tail.main, gateway=gateway),
        "soak": partial(soak.main, gateway=gateway),
        "overload": partial(overload.main, gateway=gateway),
        "compare": partial(compare.main, gateway=gateway),
        "instructions": instructions.main,
        "shipping": shipping.main,
        "telemetry": telemetry.main,
        "peers": side_by_side.main,
        "hosts": hosts.main,
        "processes": partial(processes.main, gateway=gateway),
    }
    if said and said[0] in others:
        return others[said[0]](said[1:])
    given = _parse(said)
    options, generator = _options(given), _generator(given.load)
    cores = Cores()
    cores.leave_measured()
    if cores.measured == cores.others:
        _say("There is one core only: load, mock and gateway share it, and the figures say little.")
    with tempfile.TemporaryDirectory(prefix="bench-") as name, UpstreamProcess(kept_calls=0) as mock:
        folder = Path(name)
        known = [*facts(folder), f"{options.connections} connections by {generator.name}", str(cores)]
        try:
            found = Bench(options, generator, Surroundings(mock, folder, cores, gateway), _say).run()
        except TargetFailed as failed:
            _say(str(failed))
            return 1
    table = rows(found)
    command = " ".join(["python -m benchmarks", *said])
    text = markdown(found, table, [*known, f"{datetime.now(UTC):%Y-%m-%d}, `{command}`"])
    if given.json:
        print(msgspec.json.encode({"budget": table, "found": found, "machine": known}).decode())
    else:
        print(text)
    if given.write:
        kept = RESULTS.read_text(encoding="utf-8") if RESULTS.exists() else ""
        RESULTS.write_text(with_section(kept, "What a request costs", text), encoding="utf-8")
    wrong = found.failures or [books.wrong for books in found.books if books.wrong]
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
