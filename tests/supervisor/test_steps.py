"""Steps of the supervisor without its loop: a child that cannot be started, and settings that nobody can read."""

from __future__ import annotations

import errno
import math
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from llm_gateway.configuration_error import ConfigurationError
from llm_gateway.data_dir import DataDir
from llm_gateway.settings import Settings
from llm_gateway.settings_reader import encode_settings
from llm_gateway.supervisor import run_supervisor
from llm_gateway.supervisor.child import Child
from llm_gateway.supervisor.generation import Generation
from llm_gateway.supervisor.log_lines import SupervisorLog
from llm_gateway.supervisor.loop import Supervisor
from llm_gateway.supervisor.rolling_restart import READY_S, Roll
from llm_gateway.supervisor.saved_state import State
from llm_gateway.supervisor.settings_file import SupervisorSettings, store_settings


class KeptLog(SupervisorLog):
    """A log that keeps its lines."""

    def __init__(self) -> None:
        super().__init__("info", "json")
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, event: str, **fields: Any) -> None:
        self.lines.append((event, fields))


def generation(data_dir: Path) -> Generation:
    document = encode_settings(Settings(data_dir=data_dir))
    return Generation.new(SupervisorSettings(document, 1.0), store_settings(document))


def test_a_command_for_the_command_line_starts_no_gateway() -> None:
    def launch(_module: str, _arguments: Sequence[str], _descriptors: Mapping[int, int]) -> int:
        raise AssertionError

    with pytest.raises(ConfigurationError, match="got 'check': run the command llm-gateway"):
        run_supervisor(launch, arguments=["check"])


def test_a_child_that_cannot_be_started_is_logged_and_tried_again(tmp_path: Path) -> None:
    def launch(_module: str, _arguments: Sequence[str], _descriptors: Mapping[int, int]) -> int:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")

    with socket.socket() as listener:
        state = State(generation(tmp_path), DataDir(tmp_path), listener, None)
        supervisor = Supervisor(launch, state)
        supervisor.log = log = KeptLog()
        child = state.current.control
        supervisor._start(child)
        state.data_dir.close()
    problem = "Resource temporarily unavailable"
    fields = {"level": "error", "process": "control", "problem": problem, "restart_in_s": 0.1}
    assert log.lines == [("process cannot be started", fields)]
    assert child.restart_at is not None


def test_settings_that_cannot_be_read_in_time_replace_nothing(tmp_path: Path) -> None:
    reader = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    started: list[Child] = []
    log, old = KeptLog(), generation(tmp_path)
    roll = Roll(lambda *_: reader.pid, old, started.append, log, leaving_s=1.0, now=100.0)
    roll.act(99.0 + READY_S)
    assert log.lines == []
    roll.act(100.0 + READY_S)
    code = reader.wait(20)
    assert log.lines == [("settings cannot be read in time", {"level": "warning", "after_s": READY_S})]
    roll.process_ended(reader.pid, code)
    assert roll.is_over
    assert roll.next_time < math.inf
    assert (roll.current, started) == (old, [])
    assert log.lines[1][0] == "reload refused, nothing is replaced"


def test_a_time_to_drain_of_months_is_waited_for_in_parts() -> None:
    code = (
        "import os; from llm_gateway.supervisor.wakeups import Wakeups; r, w = os.pipe(); os.write(w, b'.');"
        "print(Wakeups().wait([r], 1e9)[1] == {r})"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == b"True\n"
