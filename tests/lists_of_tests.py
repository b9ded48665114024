"""Lists of tests in files: `--list-tests=FILE` writes what a run selects, `--leave-out=FILE` deselects what one lists.

So `.ci/run` runs each test once: `make coverage` runs some of them traced, and `make test` only the others.
"""

from __future__ import annotations

from pathlib import Path

import pytest

OPTIONS = {
    "--list-tests": "write the ids of all selected tests to FILE, one a line",
    "--leave-out": "deselect the tests whose ids are in FILE, one a line",
}


def add_options(parser: pytest.Parser) -> None:
    for option, text in OPTIONS.items():
        parser.addoption(option, metavar="FILE", type=Path, help=text)


def leave_out(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Remove the tests of `--leave-out` from `items`.

    Raises:
        pytest.UsageError: the file cannot be read.
    """
    file: Path | None = config.getoption("--leave-out")
    if file is None:
        return
    try:
        listed = frozenset(file.read_text().splitlines())
    except OSError as error:
        raise pytest.UsageError(f"--leave-out {file}: {error.strerror}.") from error
    left_out = [item for item in items if item.nodeid in listed]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item.nodeid not in listed]


def write_list(session: pytest.Session) -> None:
    """Write the ids of the session's tests to the file of `--list-tests`; of parallel workers, the first writes."""
    file: Path | None = session.config.getoption("--list-tests")
    worker = getattr(session.config, "workerinput", {"workerid": "gw0"})
    is_first = worker["workerid"] == "gw0"
    if file is not None and is_first and session.items:  # with parallel workers, the main process has no items
        file.write_text("".join(f"{item.nodeid}\n" for item in session.items))
