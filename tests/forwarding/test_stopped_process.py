"""Processes that a signal has stopped, as the other end of a Unix connection sees them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from llm_gateway.forwarding.stopped_process import is_stopped, listener_of
from tests.waiting import wait_until


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere no process counts as stopped")
def test_a_process_is_stopped_from_sigstop_to_sigcont() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        try:
            assert not is_stopped(process.pid)
            process.send_signal(signal.SIGSTOP)
            wait_until(lambda: is_stopped(process.pid))
            process.send_signal(signal.SIGCONT)
            wait_until(lambda: not is_stopped(process.pid))
        finally:
            process.kill()
    assert not is_stopped(process.pid)


def test_a_process_that_cannot_be_seen_does_not_count_as_stopped(tmp_path: Path) -> None:
    assert not is_stopped(None)
    assert not is_stopped(os.getpid(), tmp_path)
    (tmp_path / "7").mkdir()
    for text, stopped in (("7 (a) T (b) S 1", False), ("7 (a) S) T 1", True), ("7 (x) t 1", True), ("", False)):
        (tmp_path / "7" / "stat").write_text(text)
        assert is_stopped(7, tmp_path) is stopped, text


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")
def test_the_listener_of_a_connection_is_known(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as connected:
        listening.bind(str(tmp_path / "s"))
        listening.listen()
        connected.connect(str(tmp_path / "s"))
        assert listener_of(connected) == os.getpid()
