"""Restarts of children that ended, and the end of the supervisor itself."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from llm_gateway.settings import Settings
from llm_gateway.settings_reader import encode_settings
from llm_gateway.supervisor.settings_file import SupervisorSettings
from tests.supervisor.conftest import START_S, DummyGateway, Order, Start
from tests.waiting import wait_until


@pytest.mark.parametrize(("name", "called"), [("control", "control"), ("worker1", "worker 1")])
def test_a_killed_child_is_started_again(start: Start, name: str, called: str) -> None:
    gateway = start()
    gateway.wait_for("control ready")
    gateway.wait_for("worker1 ready")
    [pid] = gateway.pids(name)
    os.kill(pid, signal.SIGKILL)
    gateway.wait_for(f"{name} ready", 2)
    assert gateway.stop() == 0
    [line] = gateway.log
    assert line.pop("timestamp")
    assert line == {
        "level": "warning",
        "event": "process ended, it is started again",
        "process": called,
        "pid": pid,
        "reason": "signal SIGKILL",
        "restart_in_s": 0.1,
    }


def test_a_child_that_keeps_ending_is_started_at_growing_intervals(start: Start) -> None:
    gateway = start()
    gateway.wait_for("control ready")
    gateway.wait_for("worker1 ready")
    gateway.order("worker1", ends_with=3)
    [pid] = gateway.pids("worker1")
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: len(gateway.log) >= 4, START_S)
    assert [line["restart_in_s"] for line in gateway.log[:4]] == [0.1, 0.2, 0.4, 0.8]
    assert [line["reason"] for line in gateway.log[:2]] == ["signal SIGKILL", "exit code 3"]
    started = time.monotonic()
    assert gateway.stop() == 0, "a stop does not wait for the pause"
    assert time.monotonic() - started < 5


def test_the_children_of_a_killed_supervisor_notice(start: Start) -> None:
    gateway = start(workers=2)
    for event in ("control ready", "worker1 ready", "worker2 ready"):
        gateway.wait_for(event)
    gateway.process.kill()
    wait_until(lambda: sum(event.endswith(" orphaned") for event in gateway.events()) == 3, START_S)


def test_a_new_supervisor_waits_for_the_children_of_a_killed_one(start: Start, tmp_path: Path) -> None:
    (tmp_path / "drain").touch()
    first = start()
    for event in ("control ready", "worker1 ready"):
        first.wait_for(event)
    first.process.kill()
    first.process.wait()
    second = start(log_level="warning")
    wait_until(lambda: second.log, START_S)
    [line] = second.log
    assert (line["level"], line["event"]) == ("warning", "waiting for the processes of a killed gateway to end")
    assert second.events().count("worker1 started") == 1
    (tmp_path / "drain").unlink()
    second.wait_for("worker1 ready", 2)
    assert len(second.log) == 1
    assert second.stop() == 0


def test_a_port_that_draining_children_hold_is_waited_for(start: Start, order: Order, tmp_path: Path) -> None:
    order("worker1", listens=True)
    (tmp_path / "drain").touch()
    first = start()
    for event in ("control ready", "worker1 ready"):
        first.wait_for(event)
    first.process.kill()
    first.process.wait()
    second = start(port=first.port)
    wait_until(lambda: second.log, START_S)
    (tmp_path / "drain").unlink()
    second.wait_for("worker1 ready", 2)
    assert second.stop() == 0


def test_a_wait_for_draining_children_has_an_end(start: Start, tmp_path: Path) -> None:
    (tmp_path / "drain").touch()
    first = start()
    for event in ("control ready", "worker1 ready"):
        first.wait_for(event)
    first.process.kill()
    first.process.wait()
    second = start(drain_seconds=0.2, leaving_s=0.3)
    assert second.ended() == 78
    assert f"Another gateway uses the data directory {tmp_path / 'data'}: stop it" in second.errors
    assert [line["at_most_s"] for line in second.log] == [0.5]


def test_a_signal_ends_the_wait_for_a_killed_supervisors_children(start: Start, tmp_path: Path) -> None:
    (tmp_path / "drain").touch()
    first = start()
    for event in ("control ready", "worker1 ready"):
        first.wait_for(event)
    first.process.kill()
    first.process.wait()
    second = start()
    wait_until(lambda: second.log, START_S)
    assert second.stop() == 0
    assert second.events().count("worker1 started") == 1


def test_a_child_that_does_not_stop_in_time_is_killed(start: Start, order: Order) -> None:
    order("control", ignores=True)
    gateway = start(drain_seconds=0.5, leaving_s=1)
    gateway.wait_for("control ready")
    gateway.wait_for("worker1 ready")
    started = time.monotonic()
    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.ended() == 1
    assert 1.4 < time.monotonic() - started < 10
    assert [line["event"] for line in gateway.log] == ["process did not stop in time, it is killed", "process ended"]


def test_a_stop_is_over_in_time_if_no_process_stops_by_itself(start: Start, order: Order) -> None:
    """Control gets what is left of the whole time: it does not accept for as long as the workers once more."""
    for name in ("control", "worker1"):
        order(name, ignores=True)
    gateway = start(accept_seconds=3, drain_seconds=0.5, leaving_s=0.5)
    gateway.wait_for("control ready")
    gateway.wait_for("worker1 ready")
    started = time.monotonic()
    gateway.process.send_signal(signal.SIGTERM)
    assert gateway.ended() == 1
    assert 4.9 < time.monotonic() - started < 7.5
    killed = [line["process"] for line in gateway.log if line["event"] == "process did not stop in time, it is killed"]
    assert killed == ["worker 1", "control"]


def test_the_default_times_to_stop_fit_into_those_of_process_managers() -> None:
    settings = SupervisorSettings(encode_settings(Settings()))
    assert (settings.workers_stop_seconds, settings.whole_stop_seconds) == (43, 74)  # deploy/: 75 (test_deployment.py)


def stop_during(gateway: DummyGateway, event: str) -> tuple[float, list[object]]:
    """Replace the children, and stop after an event. Returns the seconds of the stop, and the names of the killed."""
    gateway.process.send_signal(signal.SIGHUP)
    gateway.wait_for(event)
    started = time.monotonic()
    assert gateway.stop() == 1
    seconds = time.monotonic() - started
    logged = [line["process"] for line in gateway.log if line["event"] == "process did not stop in time, it is killed"]
    return seconds, logged


def write_times(file: Path, accept_s: float, drain_s: float) -> None:
    file.write_text(f"LLM_GATEWAY_ACCEPT_SECONDS={accept_s}\nLLM_GATEWAY_DRAIN_SECONDS={drain_s}\n")


def test_each_child_has_its_own_time_if_a_reload_swaps_the_times_to_accept_and_to_drain(
    start: Start, order: Order, tmp_path: Path
) -> None:
    """The old worker drains to the end of its time to accept, and the new control has twice its time to drain."""
    times = tmp_path / "times.env"
    write_times(times, 2, 0)
    (tmp_path / "drain").touch()
    gateway = start(env_file=times, leaving_s=0.4)
    gateway.wait_for("worker1 ready")
    gateway.wait_for("control ready")
    write_times(times, 0, 1.6)
    order("control", ignores=True)
    seconds, killed = stop_during(gateway, "worker1 retired")
    assert killed == ["worker 1", "control"]
    assert 3.9 < seconds < 9


def test_new_children_that_have_not_taken_over_yet_have_their_own_time(
    start: Start, order: Order, tmp_path: Path
) -> None:
    times = tmp_path / "times.env"
    write_times(times, 0, 0)
    gateway = start(env_file=times, leaving_s=0.4)
    gateway.wait_for("worker1 ready")
    gateway.wait_for("control ready")
    write_times(times, 0, 2)
    order("worker2", ignores=True)
    order("control", late_s=10)
    seconds, killed = stop_during(gateway, "worker2 ready")
    assert killed == ["worker 2"]
    assert 2.3 < seconds < 7
