"""Properties of the supervisor's processes: memory, modules, descriptors, process groups."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.supervisor.conftest import START_S, Order, Start
from tests.waiting import wait_until

MOST_KIB = 12 * 1024
HEAVY = {"asyncio", "msgspec", "logging", "dotenv", "uvicorn", "uvloop", "pathlib", "typing", "datetime", "ssl"}
IMPORTS = """
import json, sys
from llm_gateway.__main__ import main
def launch(module, arguments, descriptors):
    print(json.dumps(list(sys.modules)), flush=True)
    sys.exit()
main(launch)
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")


def descriptors(pid: int) -> dict[int, str]:
    """Return what each descriptor of a process is."""
    return {int(path.name): str(path.readlink()) for path in Path(f"/proc/{pid}/fd").iterdir()}


def arguments(pid: int) -> dict[str, int]:
    """Return the arguments of a dummy: name → number."""
    words = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    names = [number for number, word in enumerate(words) if word.startswith("--")]
    return {words[number].removeprefix("--"): int(words[number + 1]) for number in names}


def test_the_supervisor_needs_at_most_12_mib(spawn: Start) -> None:
    spawn(port="x").ended()  # compiles the modules if they are new, which needs more memory
    gateway = spawn(workers=4)
    for event in ("control ready", "worker1 ready", "worker4 ready"):
        gateway.wait_for(event)
    os.kill(gateway.pids("worker1")[0], signal.SIGKILL)
    gateway.wait_for("worker1 ready", 2)
    status = Path(f"/proc/{gateway.process.pid}/status").read_text()
    [peak] = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:")]
    assert peak <= MOST_KIB
    assert gateway.stop() == 0


def test_the_supervisor_imports_no_library(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-P", "-c", IMPORTS], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    loaded = set(json.loads(ran.stdout))
    assert "llm_gateway.supervisor.loop" in loaded
    assert {name.partition(".")[0] for name in loaded} & HEAVY == set()


def test_children_have_only_the_descriptors_they_need(spawn: Start, tmp_path: Path) -> None:
    stray, other = socket.socketpair()
    os.set_inheritable(stray.fileno(), True)
    gateway = spawn(workers=2, close_fds=False)
    for event in ("control ready", "worker1 ready", "worker2 ready"):
        gateway.wait_for(event)
    for name in ("control", "worker1", "worker2"):
        [pid] = gateway.pids(name)
        given, found = arguments(pid), descriptors(pid)
        own = {"model", "model_alive"} if name == "control" else {"listener", "number"}
        assert set(given) == {"settings", "leash", "memory", *own}
        given.pop("number", None)
        kinds = {found[number].partition(":")[0] for number in given.values()}
        assert kinds == {"/memfd", "socket", *({"pipe"} if name == "control" else ())}
        lock = [number for number, target in found.items() if target == str(tmp_path / "data" / "gateway.lock")]
        others = set(found) - {0, 1, 2, *given.values(), *lock}
        assert len(lock) == 1
        assert sorted(found[number].partition(":")[0] for number in others) == ["pipe", "pipe"], "the dummy's own"
    assert gateway.stop() == 0
    stray.close()
    other.close()


def test_restarts_leave_no_descriptor_behind(spawn: Start) -> None:
    gateway = spawn()
    gateway.wait_for("control ready")
    gateway.wait_for("worker1 ready")
    before = len(descriptors(gateway.process.pid))
    for restarts in (2, 3):
        [pid] = [pid for pid in gateway.pids("worker1") if Path(f"/proc/{pid}").exists()]
        os.kill(pid, signal.SIGKILL)
        gateway.wait_for("worker1 ready", restarts)
    wait_until(lambda: len(descriptors(gateway.process.pid)) == before, START_S)
    assert gateway.stop() == 0


def test_ctrl_c_reaches_the_supervisor_only(spawn: Start) -> None:
    gateway = spawn()
    gateway.wait_for("control ready")
    gateway.wait_for("worker1 ready")
    groups = {os.getpgid(pid) for pid in (gateway.process.pid, *gateway.pids("control"), *gateway.pids("worker1"))}
    assert len(groups) == 3
    os.killpg(gateway.process.pid, signal.SIGINT)
    assert gateway.ended() == 0
    assert [event for event in gateway.events() if "SIG" in event] == ["worker1 SIGINT", "control SIGTERM"]


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2])
def test_signals_without_a_meaning_are_ignored_by_all_processes(start: Start, number: signal.Signals) -> None:
    gateway = start()
    gateway.wait_for("control ready")
    gateway.wait_for("worker1 ready")
    own = [gateway.process.pid] if number != signal.SIGHUP else []  # which replaces the children (test_reload.py)
    for pid in (*own, *gateway.pids("control"), *gateway.pids("worker1")):
        os.kill(pid, number)
    assert gateway.stop() == 0
    assert gateway.log == []


def test_a_port_in_use_is_reported(start: Start, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        gateway = start(port=port)
        assert gateway.ended() == 78
    assert gateway.errors == (
        f"llm-gateway: Port {port} on 127.0.0.1 is in use: stop the other process or set LLM_GATEWAY_PORT.\n"
    )


def test_a_signal_before_the_children_are_ready_ends_the_gateway(start: Start, order: Order) -> None:
    order("control", late_s=60)
    order("worker1", late_s=60)
    gateway = start()
    gateway.wait_for("control started")
    assert gateway.stop() == 0
    assert gateway.errors == ""
    assert "control ready" not in gateway.events()


def test_forked_children_behave_like_started_ones(start: Start, tmp_path: Path) -> None:
    """The end-to-end tests fork them (`tests/fork_server.py`)."""
    gateway = start(workers=2)
    for event in ("control ready", "worker1 ready", "worker2 ready"):
        gateway.wait_for(event)
    [killed] = gateway.pids("worker1")
    os.kill(killed, signal.SIGKILL)
    gateway.wait_for("worker1 ready", 2)
    for name in ("control", "worker2"):
        [pid] = gateway.pids(name)
        assert os.getpgid(pid) == pid
        targets = sorted(target.partition(":")[0] for target in descriptors(pid).values())
        own = ["pipe", "pipe", *(["/memfd", "pipe"] if name == "control" else ["socket"])]
        inherited = ["/memfd", "/memfd", str(tmp_path / "data" / "gateway.lock"), "socket"]
        assert [target for target in targets if target not in standard(pid)] == sorted([*own, *inherited])
    assert gateway.stop() == 0
    assert gateway.errors == ""
    assert gateway.events()[-2:] == ["control SIGTERM", "control stopped"]


def standard(pid: int) -> set[str]:
    """Return what stdin, stdout and stderr of a process are."""
    return {target for number, target in descriptors(pid).items() if number <= 2}


def test_a_forked_child_that_cannot_start_ends_the_gateway_with_its_code(start: Start, order: Order) -> None:
    order("worker1", ends_with=78)
    gateway = start()
    assert gateway.ended() == 78
    assert (gateway.log, gateway.errors) == ([], "")
