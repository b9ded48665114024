"""Tests collected once are run by another session: the same tests and fixtures, without a second search."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forked_workers import ROOT

PROGRAM = """
import sys, pytest
from tests.collected_once import CollectedTests, Heir
collected, options = CollectedTests(), sys.argv[1:]
assert not pytest.main([*options, "--collect-only", "-qqq"], [collected])
sys.exit(pytest.main([*options, "-v", "-k", "not left_out"], [Heir(collected)]))
"""
ABOVE = """
import pytest

def pytest_generate_tests(metafunc):
    print("found", metafunc.function.__name__)

@pytest.fixture(scope="session", autouse=True)
def whole_session(request):
    assert not request.config.option.collectonly
    assert request.node is request.session
    print("a session begins")
    yield
    print("a session ends")

@pytest.fixture
def word():
    return "above"
"""
BELOW = """
import pytest

def pytest_runtest_setup(item):
    assert not item.config.option.collectonly
    print("set up below")

@pytest.fixture(params=[1, 2])
def word(word, request):
    return f"{word}, below, {request.param}"
"""
TESTS = """
import pytest

class TestWords:
    @pytest.fixture(autouse=True)
    def own(self, word, tmp_path):
        self.word = word
        self.folder = tmp_path

    def test_words(self, request):
        assert self.word == f"above, below, {request.getfixturevalue('word')[-1]}"
        assert self.folder.is_dir()

def test_left_out(): ...
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "below").mkdir()
    for name, text in {"conftest": ABOVE, "below/conftest": BELOW, "below/test_words": TESTS}.items():
        (tmp_path / f"{name}.py").write_text(text)
    return tmp_path


def test_another_session_runs_the_tests_with_their_fixtures_and_hooks(project: Path) -> None:
    command = [sys.executable, "-c", PROGRAM, "-s", "-p", "no:cacheprovider", "--import-mode=importlib"]
    command += [f"--rootdir={project}", str(project)]
    environment = {**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    run = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "2 passed, 1 deselected" in run.stdout, "each parameter, with -k"
    counts = {"found test_words": 1, "found test_left_out": 1, "set up below": 2, "a session begins": 1}
    assert {text: run.stdout.count(text) for text in counts} == counts
    assert run.stdout.index("a session ends") > run.stdout.rindex("set up below")
