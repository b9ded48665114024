"""SIGHUP replaces the supervisor's own code in the running process, or leaves everything as it is."""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

import pytest

from llm_gateway.host_memory import VERSION
from tests.e2e.process import free_port
from tests.supervisor.conftest import START_S, DummyGateway, Order, Start
from tests.supervisor.test_processes import arguments, descriptors
from tests.supervisor.test_reload import DONE, REFUSED, reload, running, started, wait_for_log
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")

PACKAGE = Path(__file__).parents[2] / "src" / "llm_gateway"


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the package, which the gateway of this test runs."""
    folder = tmp_path / "installed"
    shutil.copytree(PACKAGE, folder / "llm_gateway")
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    return folder / "llm_gateway"


def change(file: Path, before: str, after: str) -> None:
    text = file.read_text()
    assert before in text
    file.write_text(text.replace(before, after))


def slow_down(package: Path) -> None:
    """Let the new code wait before it handles signals, until the folder beside it holds a file `go`."""
    wait = (
        "import os, sys, time\n"
        f"while '--resume' in sys.argv and not os.path.exists({str(package.parent / 'go')!r}):\n    time.sleep(0.01)\n"
    )
    change(package / "supervisor" / "__init__.py", "import os\n", wait)


def is_resuming(gateway: DummyGateway) -> bool:
    return "--resume" in Path(f"/proc/{gateway.process.pid}/cmdline").read_text()


def shared(pid: int, name: str) -> tuple[int, int]:
    """Return the identity of a file or socket that a dummy shares with others, by the name of its argument."""
    found = Path(f"/proc/{pid}/fd/{arguments(pid)[name]}").stat()
    return found.st_dev, found.st_ino


def memory_of(pid: int) -> tuple[int, int]:
    """Return the identity of the memory that a dummy shares with others."""
    return shared(pid, "memory")


def test_new_code_takes_over_in_the_same_process(start: Start, order: Order, package: Path) -> None:
    gateway = started(start, order, workers=2, spawns=True, admin_port=free_port())
    gateway.wait_for("worker2 ready")
    before = descriptors(gateway.process.pid)
    [control] = gateway.pids("control")
    memory, admin = memory_of(gateway.pids("worker1")[0]), shared(control, "listener")
    change(package / "supervisor" / "loop.py", 'self.log("reloaded")', 'self.log("reloaded by new code")')
    reload(gateway)
    wait_for_log(gateway, "reloaded by new code")
    assert gateway.process.poll() is None
    assert is_resuming(gateway)
    assert len(descriptors(gateway.process.pid)) == len(before)
    assert memory_of(gateway.pids("worker3")[0]) == memory
    [control] = [pid for pid in gateway.pids("control") if pid != control]
    assert shared(control, "listener") == admin
    [killed] = gateway.pids("worker3")
    os.kill(killed, signal.SIGKILL)
    gateway.wait_for("worker3 ready", 2)
    reload(gateway)
    wait_for_log(gateway, "reloaded by new code", 2)
    assert (running(gateway).begun, running(gateway).ended, running(gateway).problem) == (2, 2, "")
    assert gateway.stop() == 0


@pytest.mark.parametrize(
    ("place", "code", "reason"),
    [
        ("supervisor/loop.py", "def (:\n", "SyntaxError: "),
        ("data_dir.py", "import no_such_module\n", "ModuleNotFoundError: No module named 'no_such_module'"),
    ],
)
def test_new_code_that_cannot_start_replaces_nothing(
    start: Start, order: Order, package: Path, place: str, code: str, reason: str
) -> None:
    gateway = started(start, order, spawns=True)
    sound = (package / place).read_text()
    (package / place).write_text(sound + code)
    reload(gateway)
    problem = str(wait_for_log(gateway, REFUSED)["problem"])
    assert problem.startswith(f"The supervisor's new code cannot start: {reason}")
    assert f'("{package / place}", line ' in problem
    wait_until(lambda: running(gateway).ended == 1, START_S)
    assert running(gateway).problem == problem
    assert not is_resuming(gateway)
    assert len(gateway.events()) == 4, "both started and became ready once"
    [killed] = gateway.pids("worker1")
    os.kill(killed, signal.SIGKILL)
    gateway.wait_for("worker1 ready", 2)
    (package / place).write_text(sound)
    reload(gateway)
    wait_for_log(gateway, DONE)
    assert gateway.stop() == 0


def test_a_state_that_the_new_code_cannot_read_replaces_nothing(start: Start, order: Order, package: Path) -> None:
    gateway = started(start, order, spawns=True)
    change(package / "supervisor" / "saved_state.py", "VERSION = 1", "VERSION = 2")
    reload(gateway)
    assert str(wait_for_log(gateway, REFUSED)["problem"]).endswith(
        "saves its state in version 1, and the new code reads version 2: restart the gateway."
    )
    assert gateway.stop() == 0


def test_memory_of_another_layout_is_replaced_for_new_processes_only(
    start: Start, order: Order, package: Path, tmp_path: Path
) -> None:
    gateway = started(start, order, spawns=True)
    [old] = gateway.pids("worker1")
    memory = memory_of(old)
    (tmp_path / "drain").touch()
    change(package / "host_memory" / "__init__.py", f"\nVERSION = {VERSION}\n", f"\nVERSION = {VERSION + 1}\n")
    reload(gateway)
    gateway.wait_for("worker1 retired")
    [new] = gateway.pids("worker2")
    assert (memory_of(old) == memory, memory_of(new) == memory) == (True, False)
    (tmp_path / "drain").unlink()
    wait_for_log(gateway, DONE)
    assert wait_for_log(gateway, "new processes share new memory, since its layout has changed")["level"] == "warning"
    assert gateway.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM, signal.SIGKILL])
def test_what_happens_while_the_new_code_takes_over_is_not_lost(
    start: Start, order: Order, package: Path, number: signal.Signals
) -> None:
    """SIGKILL is for the worker."""
    gateway = started(start, order, spawns=True)
    slow_down(package)
    reload(gateway)
    wait_until(lambda: is_resuming(gateway), START_S)
    os.kill(gateway.pids("worker1")[0] if number == signal.SIGKILL else gateway.process.pid, number)
    (package.parent / "go").touch()
    if number == signal.SIGTERM:
        assert gateway.ended() == 0
        return
    wait_for_log(gateway, DONE, 2 if number == signal.SIGHUP else 1)
    if number == signal.SIGKILL:
        assert wait_for_log(gateway, "process ended, it is started again")["process"] == "worker 1"
    assert gateway.stop() == 0
