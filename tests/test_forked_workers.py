"""Forked workers of pytest-xdist: each is like a new Python, and is one where nothing can be forked."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.forked_workers import ROOT, worker_command

PROGRAM = "import os, sys; print(os.getcwd(), os.environ['NAME'], sys.argv, 'colorsys' in sys.modules, input())"
SERVER = "import colorsys, socket; from tests.forked_workers import serve; serve(socket.socket(fileno={}))"


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "workers"))
        listener.listen()
        yield listener


def run_worker(folder: Path) -> str:
    """Run the program as xdist starts a worker. Returns what it prints."""
    command = [*shlex.split(worker_command(str(folder / "workers"))), "-u", "-c", PROGRAM]
    environment = {**os.environ, "NAME": "Zoë"}
    run = subprocess.run(
        command, input="asked\n", cwd=folder, env=environment, capture_output=True, text=True, check=True
    )
    return run.stdout


def test_a_forked_worker_has_the_directory_environment_and_streams_of_a_new_one(
    tmp_path: Path, listener: socket.socket
) -> None:
    number = listener.fileno()
    server = subprocess.Popen(
        [sys.executable, "-c", SERVER.format(number)], cwd=ROOT, stdin=subprocess.PIPE, pass_fds=[number]
    )
    try:
        assert [run_worker(tmp_path) for _ in range(2)] == [f"{tmp_path} Zoë ['-c'] True asked\n"] * 2
    finally:
        server.communicate(timeout=60)
    assert server.returncode == 0, "its standard input has ended"


def test_a_worker_is_a_new_process_where_the_tests_were_not_collected(tmp_path: Path, listener: socket.socket) -> None:
    listener.close()  # as the server does at its end
    assert run_worker(tmp_path) == f"{tmp_path} Zoë ['-c'] False asked\n"
