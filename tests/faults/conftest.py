"""Fixtures of the fault tests, and the table of faults and measurements at the end of a run.

`--write` writes its rows to docs/FAULTS.md, in place of those of an earlier run, if the tests were run at full length.
The table of gateways with several workers (`--workers`) has a document of its own.
"""

from __future__ import annotations

import random
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.scene import Scene
from tests.faults.table import (
    Case,
    about_this_machine,
    as_markdown,
    as_text,
    known_faults,
    ran_whole,
    rows,
    rows_of,
    this_run,
    updated,
)
from tests.upstream.forked import ForkedUpstream

HERE = Path(__file__).parent
DOCUMENT = Path("docs/FAULTS.md")
Note = Callable[[str], None]
COLLECTED = pytest.StashKey[Counter[str]]()
"""How many cases of each fault were collected."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write", action="store_true", help="write the table's rows to docs/ (with --long)")
    parser.addoption("--workers", type=int, default=1, help="worker processes of the gateways under test")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(what, how): the row of the table that a fault test stands for")


def pytest_collection_finish(session: pytest.Session) -> None:
    """Note how many cases each fault has: a run that ends before all of them writes no row for it."""
    marks = (item.get_closest_marker("fault") for item in session.items)
    session.config.stash[COLLECTED] = Counter(mark.args[0] for mark in marks if mark is not None)


@pytest.fixture
def long(request: pytest.FixtureRequest) -> bool:
    """Return True if the full length (`--long`) is requested."""
    return bool(request.config.getoption("--long"))


@pytest.fixture(autouse=True)
def seed() -> int:
    """Seed the random numbers of the test; the seed is printed if it fails."""
    number = secrets.randbits(32)
    print(f"seed: {number}")  # noqa: T201 - pytest shows it with a failure
    random.seed(number)
    return number


@pytest.fixture(autouse=True)
def row(request: pytest.FixtureRequest, record_property: Callable[[str, object], None]) -> None:
    """Record the fault that the test is marked with; every test here must have a mark."""
    mark = request.node.get_closest_marker("fault")
    assert mark is not None, "mark the test with pytest.mark.fault(what, how)"
    record_property("fault", mark.args)


@pytest.fixture
def note(record_property: Callable[[str, object], None]) -> Note:
    """Return a function that adds a measurement to the table, in a few words."""
    return lambda text: record_property("note", text)


@pytest.fixture
def scene(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Scene]:
    """Return a mock vendor that syncs a bill to disk for every call, and a directory for gateways."""
    journal = tmp_path / "bills.jsonl"
    with ForkedUpstream(journal=journal, fsync=True) as mock:
        yield Scene(tmp_path, mock, journal, request.config.getoption("--workers"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table of `make faults`: each fault with its outcome, duration and measurements."""
    if not config.getoption("--long") and len(config.args) != 1:
        return
    cases = _cases(terminalreporter, config)
    if not cases:
        return
    table = rows(cases, this_run(config.rootpath))
    collected: Counter[str] = config.stash.get(COLLECTED, Counter())
    whole = ran_whole(cases, collected)
    terminalreporter.section("faults")
    for line in as_text(table):
        terminalreporter.write_line(line)
    if not config.getoption("--write", default=False):
        return
    workers = config.getoption("--workers")
    document = DOCUMENT if workers == 1 else DOCUMENT.with_stem(f"FAULTS_{workers}_WORKERS")
    has_parts = terminalreporter.stats.get("deselected") or any("[" in argument for argument in config.args)
    if has_parts or not config.getoption("--long"):
        terminalreporter.write_line(f"{document} is not written: run whole tests at full length (--long)")
        return
    factory = config._tmp_path_factory  # type: ignore[attr-defined]  # where pytest keeps it for its fixtures
    about = about_this_machine(factory.getbasetemp()), f"worker processes of a gateway: {workers}"
    file = config.rootpath / document
    before = file.read_text() if file.exists() else ""
    kept = rows_of(before) if about[0] in before else []  # rows of another machine are not put beside these
    written = [row for row in table if row.fault in whole]
    file.write_text(as_markdown(updated(kept, written, known_faults(HERE)), about))
    terminalreporter.write_line(f"{document} is written: {len(written)} rows, of {len(table)} faults")


def _cases(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> list[Case]:
    """Return the results of this folder's tests in the order they ran."""
    ends = ("passed", "failed", "error", "skipped")
    cases = {}
    for report, outcome in [(report, end) for end in ends for report in _stats(terminalreporter, end)]:
        file = Path(config.rootpath, report.nodeid.partition("::")[0])
        fault = next((value for name, value in report.user_properties if name == "fault"), None)
        if file.parent == HERE and isinstance(fault, tuple):
            what, how = fault
            said = [str(text) for name, text in report.user_properties if name == "note"]
            if outcome == "skipped" and isinstance(report.longrepr, tuple):
                said.append(str(report.longrepr[2]))
            name = report.nodeid.rpartition("::")[2]
            cases[report.nodeid] = (report.start, Case(what, how, name, outcome, report.duration, said))
    return [case for _, case in sorted(cases.values(), key=lambda pair: pair[0])]


def _stats(terminalreporter: pytest.TerminalReporter, outcome: str) -> list[pytest.TestReport]:
    return [report for report in terminalreporter.stats.get(outcome, ()) if isinstance(report, pytest.TestReport)]
