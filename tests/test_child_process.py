"""Child processes as the supervisor sees them: ready, signals, the end of the supervisor, loaded modules."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from llm_gateway.channel.messages import NAME
from llm_gateway.child_process import log_loop_errors
from llm_gateway.listening import bind
from llm_gateway.settings import Settings
from tests.started_child import PATIENCE_S, StartedChild
from tests.waiting import until

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


PRODUCTION = {
    "env": "production",
    "service_keys": f"shop:{bytes(range(32)).hex()}",
    "encryption_keys": "0123456789abcdef" * 4,
}


def settings_in(folder: Path, **changes: Any) -> Settings:
    """Return settings with a data directory, which the supervisor makes."""
    (folder / "data").mkdir()
    usual: dict[str, Any] = {"local_model": "false", "accept_seconds": 0.0, "drain_seconds": 5.0}
    return Settings(data_dir=folder / "data", **{**usual, **changes})


async def test_an_exception_in_a_callback_is_logged() -> None:
    loop, logged, error = asyncio.get_running_loop(), [], ValueError("a defect")

    def fail() -> None:
        raise error

    log_loop_errors(loop, lambda event, **fields: logged.append((event, fields)))
    loop.call_soon(fail)
    await until(lambda: logged)
    [(event, fields)] = logged
    assert (event, fields["level"], fields["exc_info"]) == ("event loop error", "error", error)
    assert fields["problem"].startswith("Exception in callback")


@pytest.fixture(scope="module", autouse=True)
def without_settings() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.upper().startswith("LLM_GATEWAY_")]:
            patch.delenv(name)
        yield


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return settings_in(tmp_path)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with bind("127.0.0.1", 0) as sock:
        yield sock


class Orphans(NamedTuple):
    """A control process and a worker whose supervisor died, after their end."""

    control: StartedChild
    worker: StartedChild
    served_on: bool
    """Whether control lived on without a supervisor while the worker did."""


@pytest.fixture(scope="module")
def orphans(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orphans]:
    folder = tmp_path_factory.mktemp("orphans")
    settings = settings_in(folder, **PRODUCTION)
    with (
        bind("127.0.0.1", 0) as listener,
        StartedChild("control", folder, settings) as control,
        StartedChild("worker", folder, settings, listener) as worker,
    ):
        control.wait_ready()
        worker.wait_ready()
        control.leash.close()
        try:
            control.process.wait(0.5)
            served_on = False
        except subprocess.TimeoutExpired:
            served_on = True
        worker.leash.close()
        worker.ended()
        control.ended()
        yield Orphans(control, worker, served_on)


def test_a_started_worker_loads_no_database_web_framework_metrics_or_terminal_library(orphans: Orphans) -> None:
    loaded = {name.partition(".")[0] for name in orphans.worker.modules}
    assert loaded & NOT_OF_A_WORKER == set()
    assert {"httptools", "msgspec", "uvloop"} <= loaded
    of_control = {name.partition(".")[0] for name in orphans.control.modules}
    assert {"fastapi", "prometheus_client", "pydantic", "sqlalchemy"} <= of_control, "the libraries have these names"


@pytest.mark.skipif(sys.platform != "linux", reason="prctl(2) is Linux' own")
def test_nobody_of_the_same_user_reads_the_memory_of_control_and_workers_in_production(orphans: Orphans) -> None:
    assert (orphans.control.is_dumpable, orphans.worker.is_dumpable) == (0, 0)


def test_children_end_by_themselves_when_the_supervisor_has_died(orphans: Orphans) -> None:
    for child in (orphans.worker, orphans.control):
        assert child.process.returncode == 0, child.output
        assert child.events[-1] == "stopped"


def test_control_serves_without_a_supervisor_while_a_worker_is_connected(orphans: Orphans) -> None:
    assert orphans.served_on, orphans.control.output


def test_control_imports_migrations_only_for_a_database_of_an_earlier_version(
    tmp_path: Path, settings: Settings
) -> None:
    loaded: list[list[str]] = []
    for _ in range(2):
        with StartedChild("control", tmp_path, settings) as control:
            control.wait_ready()
            assert control.stop() == 0, control.output
            assert control.leash.recv(100) == b"", "it says once that it is ready, and nothing more"
            loaded.append([name for name in ("fastapi", "alembic", "mako", "cyclopts") if name in control.modules])
            assert control.is_dumpable in (1, None), "it can be debugged in dev"
    assert loaded == [["fastapi", "alembic", "mako"], ["fastapi"]]


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


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a niceness of their own on Linux only")
def test_a_lower_priority_holds_for_threads_that_run_already() -> None:
    script = """
import os, threading
from llm_gateway.process_setup import lower_priority
number, ends = [], threading.Event()
thread = threading.Thread(target=lambda: (number.append(threading.get_native_id()), ends.wait()))
thread.start()
while not number:
    pass
before = os.getpriority(os.PRIO_PROCESS, number[0])
lower_priority(3)
print([os.getpriority(os.PRIO_PROCESS, each) - before for each in (0, number[0])])
ends.set()
"""
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ran.stdout == "[3, 3]\n"
