"""Configuration of all test runs: options, examples of property tests, processes forbidden, skipped tests counted."""

from __future__ import annotations

import gc
import os
import resource
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self
from zlib import crc32

import certifi
import pytest
from hypothesis import HealthCheck, is_hypothesis_test, settings

from tests.collected_once import Heir, collected_tests
from tests.forked_workers import start_server
from tests.lists_of_tests import add_options, leave_out, write_list
from tests.temporary_folders import keep_in_memory

if TYPE_CHECKING:
    from execnet import XSpec  # not installed beside the client libraries

FUZZING = "fuzz"
ROUNDS = int(os.environ.get("FUZZ_ROUNDS") or 30)
"""Number of times that `make fuzz` runs a property test, with other examples each time.

A single run with as many examples takes several times as long: hypothesis generates ever larger ones.
"""

EXAMPLES = {"default": 15, "ci": 15, "brief": 10, FUZZING: 100}
"""Examples of a property test by profile; tests that need more use a multiple (`tests/examples.py`).

`brief` is for `make quick`, which runs the same tests as `make test`.
"""

settings.register_profile("default", deadline=None, max_examples=EXAMPLES["default"])
settings.register_profile("ci", deadline=None, max_examples=EXAMPLES["ci"], derandomize=True, print_blob=True)
settings.register_profile("brief", deadline=None, max_examples=EXAMPLES["brief"], derandomize=True)
# Each round runs a test method on a new instance, which hypothesis reports as an error by default.
settings.register_profile(
    FUZZING,
    deadline=None,
    max_examples=EXAMPLES[FUZZING],
    print_blob=True,
    suppress_health_check=[HealthCheck.differing_executors],
)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "default"))


TESTS = Path(__file__).parent
WITHOUT_PROCESSES = (
    "cache", "domain", "error_format", "limiter", "protocols", "providers", "routing", "telemetry", "worker/pipeline",
)  # fmt: skip
"""Folders whose tests must not start a process; `make quick` runs them."""


@cache
def may_start_no_process(file: Path) -> bool:
    """Return True if the file is in one of WITHOUT_PROCESSES."""
    return any(file.is_relative_to(TESTS / folder) for folder in WITHOUT_PROCESSES)


class Children(NamedTuple):
    """The children of this process that run, and what all that have ended have used of the system, as one text."""

    running: frozenset[int]
    ended: str

    @classmethod
    def now(cls) -> Self:
        """Look in /proc (proc(5), `children`); systems without it tell of ended children only."""
        running: set[int] = set()
        for file in Path("/proc/self/task").glob("*/children"):
            with suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended meanwhile
                running.update(map(int, file.read_text().split()))
        return cls(frozenset(running), str(resource.getrusage(resource.RUSAGE_CHILDREN)))

    def have_come(self, now: Self) -> bool:
        """Return True if the process has started one since, even if it has ended already."""
        has_one_ended = self.ended != now.ended and self.running <= now.running  # none of these
        return has_one_ended or not now.running <= self.running


class ProcessGuard:
    """A plugin that fails a test of WITHOUT_PROCESSES which starts a process.

    An audit hook would see the start itself, but each `id()` would take four times as long, for all tests.
    """

    def __init__(self) -> None:
        self._before: Children | None = None

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Generator[None, object, object]:
        """Look at the children before a test's first fixture, in those folders only."""
        self._before = Children.now() if may_start_no_process(item.path) else None
        return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> Generator[None, object, object]:
        """Look at them again after the end of its last fixture.

        Raises:
            RuntimeError: there was a process.
        """
        result = yield
        if self._before is not None and self._before.have_come(Children.now()):
            raise RuntimeError(f"Tests of this folder may start no process (WITHOUT_PROCESSES in {__file__}).")
        return result


def pytest_configure(config: pytest.Config) -> None:
    keep_in_memory(config)
    config.pluginmanager.register(ProcessGuard())
    config.pluginmanager.register(Heir(collected_tests()))
    gc.disable()


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Let each parallel worker collect the entries of folders in another order.

    Where nothing is compiled yet, compiling the test modules takes as long as collecting them. In one order, all
    workers would compile the same module at the same time; in different orders, they share the work.
    """
    report = yield
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker and isinstance(collector, pytest.Directory):
        report.result = sorted(report.result, key=lambda entry: crc32(f"{worker} {entry.name}".encode()))
    return report


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> Generator[None, None, None]:
    """Let parallel workers have different kinds of tests at a time: those that wait beside those that compute.

    xdist gives each worker one piece of the list to begin with. The modules are dealt out like cards, so that each
    piece holds some of every folder; every second piece is in reverse order.
    """
    leave_out(config, items)
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT") or 1)
    if workers > 1:
        items.sort(key=lambda item: item.path)  # before pytest groups tests by the parameters of their fixtures
    yield
    modules = list(dict.fromkeys(item.path for item in items))
    hands = [modules[number::workers][:: -1 if number % 2 else 1] for number in range(workers)]
    order = {path: number for number, path in enumerate(path for hand in hands for path in hand)}
    items.sort(key=lambda item: order[item.path])


def pytest_collection_finish(session: pytest.Session) -> None:
    """Write the list of tests if it is asked for, then exempt tests and modules from garbage collection.

    They stay, and each full collection would visit them all. Other objects are collected as rarely as in the gateway's
    processes (`child_process.GC_THRESHOLDS`).
    """
    write_list(session)
    gc.freeze()
    gc.set_threshold(50_000, 5, 5)
    gc.enable()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Return four workers more than cores: tests that start servers mostly wait for them."""
    affinity = getattr(os, "sched_getaffinity", None)
    return 4 + (len(affinity(0)) if affinity else os.cpu_count() or 1)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_setupnodes(config: pytest.Config, specs: Sequence[XSpec]) -> None:
    """Fork the workers of a run of all tests from a process that has collected them, unless they are traced."""
    if config.args_source is pytest.Config.ArgsSource.TESTPATHS and not config.pluginmanager.hasplugin("_cov"):
        folder: Path = config._tmp_path_factory.getbasetemp()  # type: ignore[attr-defined]
        command = start_server(folder, config.invocation_params.args)
        for spec in specs:
            spec.python = command


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the number of skipped tests for each reason."""
    reports = terminalreporter.stats.get("skipped", [])
    reasons = Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in reports)
    if reasons:
        terminalreporter.section(f"{reasons.total()} tests skipped")
        for reason, count in reasons.most_common():
            terminalreporter.line(f"{count} × {reason}")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--long",
        action="store_true",
        help="run the fault tests or the API's fuzzing at full length (make faults, make fuzz)",
    )
    add_options(parser)


END_OF_CERTIFICATE = "-----END CERTIFICATE-----\n"


@pytest.fixture(scope="session", autouse=True)
def one_authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Let TLS clients trust one certificate authority: SDKs load all 140 for each client, in 50 ms of CPU time."""
    first, end, _ = Path(certifi.where()).read_text().partition(END_OF_CERTIFICATE)
    file = tmp_path_factory.mktemp("authority") / "one.pem"
    file.write_text(first + end)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(file))
        yield


@pytest.fixture
def fuzz_round(request: pytest.FixtureRequest) -> int:
    """Return the number of the round."""
    number: int = request.param
    return number


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if settings.get_current_profile_name() == FUZZING and is_hypothesis_test(metafunc.function):
        metafunc.fixturenames.append("fuzz_round")
        metafunc.parametrize("fuzz_round", range(1, ROUNDS + 1), indirect=True)
