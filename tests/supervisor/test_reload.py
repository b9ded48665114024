"""SIGHUP: the supervisor replaces all its children, or none of them."""

from __future__ import annotations

import os
import re
import signal
import sys
import time
from pathlib import Path

import pytest

from llm_gateway.data_dir import RunningGateway, running_gateway
from tests.supervisor.conftest import START_S, DummyGateway, Order, Start
from tests.waiting import wait_until

BEGUN = "reloading"
DONE = "reloaded"
REFUSED = "reload refused, nothing is replaced"


def reload(gateway: DummyGateway) -> None:
    gateway.process.send_signal(signal.SIGHUP)


def happened(gateway: DummyGateway, event: str) -> list[dict[str, object]]:
    return [line for line in gateway.log if line["event"] == event]


def wait_for_log(gateway: DummyGateway, event: str, times: int = 1) -> dict[str, object]:
    """Wait until a line was logged this many times. Returns the last."""
    wait_until(lambda: len(happened(gateway, event)) >= times or gateway.process.poll() is not None, START_S)
    found = happened(gateway, event)
    assert len(found) == times, (gateway.log, gateway.events(), gateway.errors)
    return found[-1]


def running(gateway: DummyGateway) -> RunningGateway:
    found = running_gateway(gateway.folder / "data")
    assert found is not None
    return found


def started(start: Start, order: Order, **settings: object) -> DummyGateway:
    """Return a gateway that has begun to serve, with one worker and settings in `.env`."""
    order("control", locks=True)
    gateway = start(**settings)
    gateway.wait_for("control ready")
    gateway.wait_for("worker1 ready")
    return gateway


def test_everything_is_replaced_control_last(start: Start, order: Order) -> None:
    gateway = started(start, order)
    before = [*gateway.pids("control"), *gateway.pids("worker1")]
    order("worker2", late_s=0.7)
    reload(gateway)
    gateway.wait_for("worker2 started")
    time.sleep(0.3)  # in which nothing may happen
    assert not {"worker1 retired", "control SIGTERM"} & set(gateway.events()), "worker 2 is not ready"
    wait_for_log(gateway, DONE)
    events = gateway.events()[4:]
    assert events.index("control stopped") < events.index("control ready")
    assert not any(Path(f"/proc/{pid}").exists() for pid in before)
    assert "worker1 SIGTERM" not in events
    assert (running(gateway).begun, running(gateway).ended, running(gateway).problem) == (1, 1, "")
    assert gateway.stop() == 0
    assert [line["event"] for line in gateway.log] == [BEGUN, "new processes serve, the old ones end", DONE]


def test_the_new_children_have_the_new_settings(start: Start, order: Order, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("LLM_GATEWAY_WORKERS=1\n")
    gateway = started(start, order)
    (tmp_path / ".env").write_text("LLM_GATEWAY_WORKERS=3\n")
    reload(gateway)
    wait_for_log(gateway, DONE)
    assert {event for event in gateway.events() if event.startswith("worker") and event.endswith("ready")} == {
        "worker1 ready", "worker2 ready", "worker3 ready", "worker4 ready"
    }  # fmt: skip
    [killed] = gateway.pids("worker3")
    os.kill(killed, signal.SIGKILL)
    gateway.wait_for("worker3 ready", 2)
    reload(gateway)
    wait_for_log(gateway, DONE, 2)
    assert gateway.events().count("worker1 ready") == 2, "its number was free again"
    assert gateway.stop() == 0


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("LLM_GATEWAY_WORKERS=many", "LLM_GATEWAY_WORKERS must be a whole number"),
        ("LLM_GATEWAY_DATABASE_URL=sqlite:///x", "LLM_GATEWAY_DATABASE_URL cannot change while the gateway runs"),
    ],
)
def test_refused_settings_replace_nothing(start: Start, order: Order, tmp_path: Path, line: str, problem: str) -> None:
    gateway = started(start, order)
    (tmp_path / ".env").write_text(f"{line}\n")
    reload(gateway)
    logged = wait_for_log(gateway, REFUSED)
    assert logged["level"] == "error"
    assert str(logged["problem"]).startswith(problem)
    wait_until(lambda: running(gateway).ended == 1, START_S)
    assert running(gateway).problem == logged["problem"]
    (tmp_path / ".env").unlink()
    reload(gateway)
    wait_for_log(gateway, DONE)
    assert running(gateway).problem == ""
    assert gateway.stop() == 0


@pytest.mark.parametrize("name", ["worker2", "control"])
def test_new_children_that_end_before_they_are_ready_leave_the_old_ones(start: Start, order: Order, name: str) -> None:
    gateway = started(start, order)
    order(name, ends_with=78)
    reload(gateway)
    logged = wait_for_log(gateway, REFUSED)
    assert re.fullmatch(
        r"The new (worker 2|control) ended before all were ready \(exit code 78\)\. Standard error says why\.",
        str(logged["problem"]),
    )
    wait_until(lambda: running(gateway).ended == 1, START_S)
    assert gateway.process.poll() is None
    assert not {"worker1 retired", "worker1 SIGTERM"} & set(gateway.events())
    order(name, locks=name == "control")
    order("control", locks=True)
    reload(gateway)
    wait_for_log(gateway, DONE)
    assert gateway.stop() == 0


def test_signals_during_a_replacement_are_remembered_once(start: Start, order: Order, tmp_path: Path) -> None:
    (tmp_path / "drain").touch()
    gateway = started(start, order)
    reload(gateway)
    gateway.wait_for("worker1 retired")
    for _ in range(3):
        reload(gateway)
    gateway.wait_for("control ready", 2)
    assert gateway.events().count("worker2 started") == 1
    assert "worker3 started" not in gateway.events(), "at most two generations"
    (tmp_path / "drain").unlink()
    wait_for_log(gateway, DONE, 2)
    assert running(gateway).begun == 2
    assert gateway.stop() == 0


def test_a_signal_before_readiness_is_remembered_once(start: Start, order: Order) -> None:
    order("worker1", late_s=0.7)
    gateway = start()
    gateway.wait_for("worker1 started")
    reload(gateway)
    reload(gateway)
    wait_for_log(gateway, DONE)
    assert running(gateway).begun == 1
    assert gateway.stop() == 0


@pytest.mark.parametrize("moment", ["worker2 started", "worker1 retired"])
def test_sigterm_during_a_replacement_stops_both_generations(
    start: Start, order: Order, tmp_path: Path, moment: str
) -> None:
    order("worker2", late_s=0.5)
    (tmp_path / "drain").touch()
    gateway = started(start, order, drain_seconds=20)
    reload(gateway)
    gateway.wait_for(moment)
    gateway.process.send_signal(signal.SIGTERM)
    gateway.wait_for("worker2 SIGTERM")
    (tmp_path / "drain").unlink()
    assert gateway.ended() == 0
    if moment == "worker1 retired":
        assert "worker1 SIGTERM" not in gateway.events(), "it would no longer wait for its requests"
    pids = [pid for name in ("control", "worker1", "worker2") for pid in gateway.pids(name)]
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_retiring_worker_that_does_not_end_is_killed(start: Start, order: Order, tmp_path: Path) -> None:
    (tmp_path / "drain").touch()
    gateway = started(start, order, drain_seconds=0.5, leaving_s=0.5)
    reload(gateway)
    wait_for_log(gateway, DONE)
    assert [line["process"] for line in gateway.log if line["level"] == "error"] == ["worker 1"]
    [killed] = [line for line in gateway.log if line["event"] == "replaced process ended"]
    assert (killed["process"], killed["reason"]) == ("worker 1", "signal SIGKILL")
    assert gateway.stop() == 0


@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def open_descriptors(gateway: DummyGateway) -> int:
    """Return how many descriptors the supervisor has, without those that are open for a moment only."""
    folder = Path(f"/proc/{gateway.process.pid}/fd")
    counts = []
    for _ in range(10):
        counts.append(len(list(folder.iterdir())))
        time.sleep(0.05)
    return min(counts)


def test_replacements_leave_no_descriptor_behind(start: Start, order: Order, tmp_path: Path) -> None:
    gateway = started(start, order)
    before = open_descriptors(gateway)
    for times in (1, 2):
        reload(gateway)
        wait_for_log(gateway, DONE, times)
    (tmp_path / ".env").write_text("LLM_GATEWAY_WORKERS=x\n")
    reload(gateway)
    wait_for_log(gateway, REFUSED)
    (tmp_path / ".env").unlink()
    order("worker2", ends_with=1)
    order("worker1", ends_with=1)
    reload(gateway)
    wait_for_log(gateway, REFUSED, 2)
    wait_until(lambda: running(gateway).ended == 4, START_S)
    assert open_descriptors(gateway) == before
    assert gateway.stop() == 0
