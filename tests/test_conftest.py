"""The rules of tests/conftest.py: processes are forbidden in some folders, and skipped tests are counted."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from tests.conftest import TESTS, WITHOUT_PROCESSES, Children, ProcessGuard

REPOSITORY = TESTS.parent


def test_make_quick_runs_the_folders_without_processes() -> None:
    found = re.search(r"^QUICK := \$\(addprefix tests/,(.*)\)$", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    assert found
    assert tuple(found[1].split()) == WITHOUT_PROCESSES
    assert all((TESTS / folder).is_dir() for folder in WITHOUT_PROCESSES)


def test_a_process_is_noticed_while_it_runs_and_after_its_end() -> None:
    before = Children.now()
    assert not before.have_come(Children.now())
    with ThreadPoolExecutor(1) as thread, subprocess.Popen(["cat"], stdin=subprocess.PIPE) as other:
        assert before.have_come(Children.now())
        before = Children.now()
        thread.submit(subprocess.run, ["true"], check=True).result()
        assert before.have_come(Children.now())
        before = Children.now()
        other.communicate()
        assert not before.have_come(Children.now()), "it was started before"


@pytest.mark.parametrize(("folder", "fails"), [(WITHOUT_PROCESSES[0], True), ("e2e", False)])
def test_a_test_that_starts_a_process_fails_in_these_folders(folder: str, fails: bool) -> None:
    guard, item = ProcessGuard(), cast(pytest.Item, SimpleNamespace(path=TESTS / folder / "test_some.py"))
    next(guard.pytest_runtest_setup(item))
    subprocess.run(["true"], check=True)
    teardown = guard.pytest_runtest_teardown()
    next(teardown)
    with pytest.raises(RuntimeError if fails else StopIteration, match="may start no process" if fails else None):
        teardown.send(None)


def test_skipped_tests_are_counted_by_reason_under_xdist_too(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text("from tests.conftest import pytest_terminal_summary")
    (tmp_path / "test_some.py").write_text(
        "import pytest\n"
        "@pytest.mark.parametrize('n', range(3))\n"
        "def test_a(n): pytest.skip('no node here')\n"
        "@pytest.mark.skip(reason='no setpriv here')\n"
        "def test_b(): ...\n"
    )
    folder = str(tmp_path)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "1",
        "-p",
        "no:cacheprovider",
        "-p",
        "no:schemathesis",
        "--rootdir",
        folder,
        folder,
    ]
    run = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert "4 tests skipped" in run.stdout, run.stdout + run.stderr
    assert "\n3 × no node here\n1 × no setpriv here\n" in run.stdout


def test_a_run_can_leave_out_the_tests_of_another(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "from tests.lists_of_tests import add_options as pytest_addoption, leave_out, write_list\n"
        "def pytest_collection_modifyitems(config, items): leave_out(config, items)\n"
        "def pytest_collection_finish(session): write_list(session)\n"
    )
    (tmp_path / "test_some.py").write_text("def test_traced(): ...\ndef test_other(): ...\n")
    listed = tmp_path / "traced"

    def run(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        return subprocess.run(
            [*command, "--rootdir", str(tmp_path), str(tmp_path), *options],
            cwd=REPOSITORY,
            env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            capture_output=True,
            text=True,
            check=False,
        )

    missing = run("--leave-out", str(listed))
    assert f"--leave-out {listed}: No such file or directory." in missing.stderr, missing.stdout
    assert "1 passed" in run("--list-tests", str(listed), "-k", "traced").stdout
    assert listed.read_text() == "test_some.py::test_traced\n"
    assert "1 passed, 1 deselected" in run("--leave-out", str(listed), "-v").stdout
