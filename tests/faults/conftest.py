"""What the fault tests share: a vendor that keeps its bills on disk, and a table of what was done at the end."""

from __future__ import annotations

import random
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.faults.scene import Scene
from tests.upstream import UpstreamProcess

HERE = Path(__file__).parent
Note = Callable[[str], None]


@pytest.fixture
def long(request: pytest.FixtureRequest) -> bool:
    """Whether the full length was asked for."""
    return bool(request.config.getoption("--long"))


@pytest.fixture(autouse=True)
def seed() -> int:
    """What chance starts from; printed when a test fails."""
    number = secrets.randbits(32)
    print(f"seed: {number}")  # noqa: T201 - pytest shows it with a failure
    random.seed(number)
    return number


@pytest.fixture
def note(record_property: Callable[[str, object], None]) -> Note:
    """Say in a few words what was seen, for the table."""
    return lambda text: record_property("note", text)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    """A vendor that fsyncs a bill for every call, and a directory for gateways."""
    journal = tmp_path / "bills.jsonl"
    with UpstreamProcess(journal=journal, fsync=True) as mock:
        yield Scene(tmp_path, mock, journal)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """The table of `make faults`: each fault, its outcome, how long it took, what was seen."""
    if not config.getoption("--long") and len(config.args) != 1:
        return
    rows = []
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, ()):
            if Path(config.rootpath, report.nodeid.partition("::")[0]).parent == HERE:
                said = "; ".join(str(text) for name, text in report.user_properties if name == "note")
                rows.append((report.nodeid.rpartition("::")[2].removeprefix("test_"), outcome, report.duration, said))
    if not rows:
        return
    width = max(len(row[0]) for row in rows)
    terminalreporter.section("faults")
    for name, outcome, seconds, said in sorted(rows):
        terminalreporter.write_line(f"{name:<{width}}  {outcome:<7} {seconds:7.1f} s  {said}")
