"""Open-loop load generator: it keeps its schedule even if the server stalls; the tail table reports its latencies."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import pairwise
from math import isclose
from pathlib import Path
from statistics import mean, stdev

import msgspec
import pytest

from benchmarks import calls, open_loop
from benchmarks.compare import Comparison, comparison_text
from benchmarks.findings import Books, Window
from benchmarks.jobs import OpenJob
from benchmarks.open_loop import NS, arrivals, percentile
from benchmarks.peers import installed
from benchmarks.tail_report import FLOOR, Condition, Spell, TailFindings, tail_text
from benchmarks.targets import TargetFailed
from benchmarks.trees import tree_argument, with_this, without_paths
from tests.fork_server import BENCH, fork_server
from tests.upstream import MockUpstream

REPOSITORY = Path(__file__).parents[1]
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"
linux = pytest.mark.skipif(sys.platform != "linux", reason="the bench needs /proc and epoll")


def _job(port: int, **changes: object) -> OpenJob:
    return msgspec.structs.replace(OpenJob(**msgspec.structs.asdict(calls.vendor(port))), **changes)


class TestArrivals:
    def test_arrivals_are_a_poisson_process_of_the_rate(self) -> None:
        due = arrivals(1000, 20, seed=1)
        gaps = [(b - a) / NS for a, b in pairwise(due)]
        assert isclose(len(due), 20_000, rel_tol=0.03)
        assert isclose(mean(gaps), 0.001, rel_tol=0.03)
        assert isclose(stdev(gaps), 0.001, rel_tol=0.05), "exponential gaps deviate by as much as their mean"
        assert due == sorted(due)
        assert due[0] >= 0
        assert due[-1] < 20 * NS

    def test_the_same_seed_repeats_the_arrivals(self) -> None:
        assert arrivals(100, 1, seed=1) == arrivals(100, 1, seed=1) != arrivals(100, 1, seed=2)


@pytest.mark.parametrize(
    ("count", "part", "expected"),
    [(0, 0.5, 0), (1, 0.999, 1), (100, 0.5, 50), (100, 0.99, 99), (100, 0.999, 100), (1000, 0.999, 999), (10, 1, 10)],
)
def test_a_percentile_is_the_nearest_rank(count: int, part: float, expected: int) -> None:
    assert percentile(range(1, count + 1), part) == expected


@asynccontextmanager
async def _holding(count: int) -> AsyncIterator[int]:
    """Serve on the yielded port, and answer only after `count` requests have arrived."""
    everyone, come = asyncio.Event(), 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal come
        while head := await _head(reader):
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            await reader.readexactly(length)
            come += 1
            if come == count:
                everyone.set()
            await everyone.wait()
            writer.write(ANSWER)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, backlog=1024) as server:
        yield server.sockets[0].getsockname()[1]


async def _head(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, ConnectionError):
        return b""


@linux
class TestGenerator:
    async def test_a_stall_delays_no_request_and_counts_in_their_latency(self) -> None:
        due = arrivals(200, 0.5, seed=3)
        async with _holding(len(due)) as port:
            job = _job(port, rate=200.0, seconds=0.5, seed=3, connections=4)
            load = await asyncio.to_thread(open_loop.run, job)
        assert (load.requests, load.failed) == (len(due), 0)
        assert load.connections == len(due), "a request that found no free connection got a new one"
        waits = sorted((due[-1] - at) / 1000 for at in due)
        assert load.p50_us >= percentile(waits, 0.5)
        assert load.p90_us >= percentile(waits, 0.9)
        assert load.max_us >= waits[-1]

    async def test_requests_differ_and_those_of_the_lead_time_are_not_measured(self) -> None:
        due = arrivals(100, 1.0, seed=4)
        async with MockUpstream() as mock:
            job = _job(mock.port, rate=100.0, seconds=0.5, lead_seconds=0.5, seed=4, connections=8)
            load = await asyncio.to_thread(open_loop.run, job)
            assert len({call.prompt for call in mock.calls}) == len(due) == load.requests == mock.total
        assert 0 < load.p50_us <= load.p90_us <= load.p99_us <= load.p999_us <= load.max_us
        assert load.lag_p99_us > 0

    async def test_without_a_measured_request_there_is_no_latency(self) -> None:
        async with MockUpstream() as mock:
            job = _job(mock.port, rate=100.0, seconds=0.0, lead_seconds=0.3, connections=2)
            load = await asyncio.to_thread(open_loop.run, job)
        assert load.requests > 0
        assert load.max_us == 0

    @pytest.mark.parametrize("behaviour", ["status-500", "reset", "close", "half", "garbage"])
    async def test_a_response_that_is_not_a_complete_200_is_a_failure(self, behaviour: str) -> None:
        async with MockUpstream() as mock:
            mock.behave(behaviour)
            job = _job(mock.port, rate=100.0, seconds=0.3, connections=2)
            load = await asyncio.to_thread(open_loop.run, job)
        assert load.requests == load.failed == len(arrivals(100, 0.3, seed=0))
        assert load.failure


def _spell(latency: float, cpu: float = 100, lag: float = 0.1, others: float = 0.0) -> Spell:
    return Spell(latency, latency * 2, latency * 3, latency * 4, latency * 5, cpu, lag, 64, others)


class TestTailTable:
    def test_ratios_are_taken_round_by_round(self) -> None:
        found, slow = TailFindings(), Condition(500)
        for mine, theirs in ((1, 1), (4, 2), (90, 30)):  # the machine is slow in the last round
            found.add(slow, "this tree", _spell(mine))
            found.add(slow, "smg", _spell(theirs))
        ratio = found.ratio(slow, "p99_ms", ("this tree", "smg"))
        assert ratio is not None
        assert (ratio.value, ratio.low, ratio.high) == (2, 1, 3)

    def test_the_table_has_every_figure_and_the_budget(self) -> None:
        found = TailFindings()
        for condition in (Condition(500), Condition(2500), Condition(500, busy=True)):
            for target, latency in ((FLOOR, 0.1), ("nginx", 0.5), ("smg", 1.0), ("old", 4.0), ("this tree", 2.0)):
                if target != FLOOR or not condition.busy:
                    found.add(condition, target, _spell(latency))
        text = tail_text(found, "this tree", ["a fact"])
        cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line[:1] == "|"]
        measured = {row[0]: (row[3], row[5]) for row in cells if len(row) == 6}
        assert measured["p99 at 500/s, to smg"] == ("2.00 ×", "must met")
        assert measured["p99 at 2,500/s, to nginx"] == ("4.00 ×", "")
        assert measured["p99 at 500/s, to old"] == ("0.50 ×", "")
        assert measured["p50 at 500/s beside a busy process, to smg"] == ("2.00 ×", "must met")
        assert measured["CPU a request at 2,500/s, to smg"] == ("1.00 ×", "")
        assert ["500/s", "nginx", "0.50", "1.00", "1.50", "2.00", "2.5", "100", "0.10", "64"] in cells
        assert ["500/s", FLOOR, "0.10", "0.20", "0.30", "0.40", "0.5", "", "0.10", "64"] in cells
        assert "- a fact" in text
        assert "**" not in text

    def test_a_late_generator_and_a_crowded_core_are_pointed_out(self) -> None:
        found = TailFindings()
        found.add(Condition(500), "this tree", _spell(1, lag=1.5))
        found.add(Condition(500), "nginx", _spell(1, others=0.2))
        found.add(Condition(500, busy=True), "nginx", _spell(1, others=0.9))
        text = tail_text(found, "this tree", [])
        assert "late for 1 % of its requests in 1 of 3 windows" in text
        assert "Other programs used much of the measured core" in text

    def test_accounts_of_all_windows_are_added_up_and_a_wrong_one_fails_the_run(self) -> None:
        found = TailFindings()
        found.account(Books("this tree", sent=10, slack=0, recorded=10, hits_expected=0, hits=0, bought=10))
        assert not found.wrong
        found.account(Books("this tree", sent=10, slack=0, recorded=9, hits_expected=0, hits=0, bought=10))
        assert found.wrong == ["-1 records"]


def test_a_comparison_marks_figures_that_are_worse_in_every_round() -> None:
    found = Comparison()
    rounds = {"old": [(100, 50), (200, 50), (100, 50)], "this tree": [(110, 48), (220, 60), (110, 40)]}
    for tree, figures in rounds.items():
        for cpu, per_second in figures:
            found.add_window("hit", tree, Window(cpu, per_second, 1, 1, 1, 0, 0))
    text = comparison_text(found, ["old", "this tree"], [])
    cells = {row[1].strip(): [cell.strip() for cell in row[2:-1]] for row in map(_split, text.splitlines()) if row[1:]}
    assert cells["hit, µs CPU/request"] == ["old", "100.0", "110.0", "+10.0%", "+10.0% to +10.0%", "WORSE"]
    assert cells["hit, requests/s"][-1] == "worse, but not surely"
    assert cells["hit, p99 ms"][-1] == ""


def _split(line: str) -> list[str]:
    return line.split("|")


class TestTrees:
    def test_a_tree_has_its_given_name_or_its_folder_s(self) -> None:
        assert tree_argument(f"old={REPOSITORY}") == ("old", REPOSITORY.resolve())
        assert tree_argument(str(REPOSITORY)).name == REPOSITORY.resolve().name

    def test_two_trees_need_two_names(self) -> None:
        assert [tree.name for tree in with_this([tree_argument(f"old={REPOSITORY}")])] == ["old", "this tree"]
        with pytest.raises(ValueError, match="use --tree NAME=PATH"):
            with_this([tree_argument(f"this tree={REPOSITORY}")])

    def test_the_command_is_shown_without_the_paths(self) -> None:
        given = ["--tree", "old=/home/me/old", "--tree=/home/me/other", "--quick", "--tree", "/home/me/x"]
        assert without_paths(given) == ["--tree", "old=PATH", "--tree=PATH", "--quick", "--tree", "PATH"]

    @linux
    def test_a_folder_that_is_not_a_checkout_is_rejected(self, tmp_path: Path) -> None:
        code, _, errors = fork_server().run(BENCH, ("tail", "--tree", str(tmp_path)), REPOSITORY, os.environ)
        assert code == 2
        assert "is not a checkout of this project: it has no src/llm_gateway" in errors

    @linux
    @pytest.mark.parametrize("bench", ["tail", "compare"])
    def test_the_source_of_the_given_tree_is_run(self, bench: str, tmp_path: Path) -> None:
        package = tmp_path / "src" / "llm_gateway"
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("raise SystemExit('this is the other tree')\n")
        done = _bench(bench, "--quick", "--tree", f"other={tmp_path}")
        assert done.returncode == 1, done.stderr
        assert "this is the other tree" in done.stderr


def _bench(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


class TestPeers:
    def test_an_installed_peer_is_not_installed_again(self, tmp_path: Path) -> None:
        home = tmp_path / "peer==1"
        home.mkdir()
        (home / ".installed").touch()
        assert installed("peer==1", tmp_path) == home

    def test_a_peer_that_cannot_be_installed_is_named_and_retried(self, tmp_path: Path) -> None:
        with pytest.raises(TargetFailed, match="no requirement! could not be installed"):
            installed("no requirement!", tmp_path)
        assert not (tmp_path / "no requirement!" / ".installed").exists()
