"""Child processes as the supervisor sees them: ready, signals, the end of the supervisor, loaded modules."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from llm_gateway.channel.messages import NAME
from llm_gateway.listening import bind
from llm_gateway.settings import Settings
from tests.started_child import PATIENCE_S, StartedChild

NOT_OF_A_WORKER = {
    "alembic",
    "cyclopts",
    "fastapi",
    "genai_prices",
    "prometheus_client",
    "pydantic",
    "rich",
    "sqlalchemy",
}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in [name for name in os.environ if name.upper().startswith("LLM_GATEWAY_")]:
        monkeypatch.delenv(name)
    (tmp_path / "data").mkdir()  # the supervisor makes it
    return Settings(data_dir=tmp_path / "data", local_model="false", accept_seconds=0.0, drain_seconds=5.0)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with bind("127.0.0.1", 0) as sock:
        yield sock


def test_a_started_worker_loads_no_database_web_framework_metrics_or_terminal_library(
    tmp_path: Path, settings: Settings, listener: socket.socket
) -> None:
    with (
        StartedChild("control", tmp_path, settings) as control,
        StartedChild("worker", tmp_path, settings, listener) as worker,
    ):
        control.wait_ready()
        worker.wait_ready()
        assert worker.stop() == 0, worker.output
        assert control.stop() == 0, control.output
    loaded = {name.partition(".")[0] for name in worker.modules}
    assert loaded & NOT_OF_A_WORKER == set()
    assert {"httptools", "msgspec", "uvloop"} <= loaded
    of_control = {name.partition(".")[0] for name in control.modules}
    assert {"fastapi", "prometheus_client", "pydantic", "sqlalchemy"} <= of_control, "the libraries have these names"


def test_control_imports_migrations_only_for_a_database_of_an_earlier_version(
    tmp_path: Path, settings: Settings
) -> None:
    loaded = []
    for _ in range(2):
        with StartedChild("control", tmp_path, settings) as control:
            control.wait_ready()
            assert control.stop() == 0, control.output
            loaded.append([name for name in ("fastapi", "alembic", "mako", "cyclopts") if name in control.modules])
    assert loaded == [["fastapi", "alembic", "mako"], ["fastapi"]]


def test_a_child_says_once_that_it_is_ready_and_nothing_more(tmp_path: Path, settings: Settings) -> None:
    with StartedChild("control", tmp_path, settings) as control:
        control.wait_ready()
        assert control.stop() == 0
        assert control.leash.recv(100) == b""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_a_worker_waits_for_control_ends_it_with_0(
    tmp_path: Path, settings: Settings, listener: socket.socket, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(settings.data_dir)  # the path of a socket has at most 107 bytes
    with socket.socket(socket.AF_UNIX) as silent, StartedChild("worker", tmp_path, settings, listener) as worker:
        silent.bind(NAME)
        silent.listen()
        silent.settimeout(PATIENCE_S)
        connection, _ = silent.accept()
        with connection:
            assert worker.stop(number) == 0, worker.output
        assert worker.events[-1] == "stopped while starting"
        assert worker.leash.recv(100) == b"", "it was never ready"


def test_children_end_by_themselves_when_the_supervisor_has_died(
    tmp_path: Path, settings: Settings, listener: socket.socket
) -> None:
    with (
        StartedChild("control", tmp_path, settings) as control,
        StartedChild("worker", tmp_path, settings, listener) as worker,
    ):
        control.wait_ready()
        worker.wait_ready()
        control.leash.close()
        worker.leash.close()
        assert worker.ended() == 0, worker.output
        assert control.ended() == 0, control.output
    assert (worker.events[-1], control.events[-1]) == ("stopped", "stopped")


def test_control_serves_without_a_supervisor_while_a_worker_is_connected(
    tmp_path: Path, settings: Settings, listener: socket.socket
) -> None:
    with (
        StartedChild("control", tmp_path, settings) as control,
        StartedChild("worker", tmp_path, settings, listener) as worker,
    ):
        control.wait_ready()
        worker.wait_ready()
        control.leash.close()
        with pytest.raises(subprocess.TimeoutExpired):
            control.process.wait(0.5)
        assert worker.stop() == 0
        assert control.ended() == 0, control.output
