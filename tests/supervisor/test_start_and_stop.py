"""Start and stop of the supervisor: order, signals, exit codes, messages."""

from __future__ import annotations

import signal
import socket
from pathlib import Path

import pytest

from tests.supervisor.conftest import Order, Start

WORKERS_READY = ("worker1 ready", "worker2 ready")


def test_control_and_workers_start_side_by_side(start: Start, order: Order) -> None:
    order("control", late_s=1)
    gateway = start(workers=2)
    gateway.wait_for("control ready")
    events = gateway.events()
    assert set(events) == {
        f"{name} {event}" for name in ("control", "worker1", "worker2") for event in ("started", "ready")
    }
    assert events[-1] == "control ready"
    assert gateway.stop() == 0
    assert (gateway.log, gateway.errors) == ([], "")


def test_sigterm_stops_the_workers_first_and_control_last(start: Start) -> None:
    gateway = start(workers=2)
    for event in (*WORKERS_READY, "control ready"):
        gateway.wait_for(event)
    assert gateway.stop() == 0
    ends = [event for event in gateway.events() if event.partition(" ")[2] in ("SIGTERM", "stopped")]
    assert ends[-2:] == ["control SIGTERM", "control stopped"]
    assert sorted(ends[:-2]) == ["worker1 SIGTERM", "worker1 stopped", "worker2 SIGTERM", "worker2 stopped"]


def test_sigint_reaches_the_workers_as_sigint(start: Start) -> None:
    gateway = start()
    gateway.wait_for("worker1 ready")
    gateway.wait_for("control ready")
    gateway.process.send_signal(signal.SIGINT)
    assert gateway.ended() == 0
    assert [event for event in gateway.events() if "SIG" in event] == ["worker1 SIGINT", "control SIGTERM"]


def test_connections_are_refused_once_the_workers_have_closed_the_socket(start: Start, order: Order) -> None:
    order("worker1", ignores=True, listens=True)
    gateway = start()
    gateway.wait_for("worker1 ready")
    address = ("127.0.0.1", int(gateway.port))
    socket.create_connection(address).close()
    gateway.process.send_signal(signal.SIGTERM)
    gateway.wait_for("worker1 SIGTERM")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)
    assert gateway.stop() == 0


def test_a_second_sigterm_is_passed_on(start: Start, order: Order) -> None:
    order("worker1", ignores=True)
    gateway = start()
    gateway.wait_for("worker1 ready")
    gateway.wait_for("control ready")
    gateway.process.send_signal(signal.SIGTERM)
    gateway.wait_for("worker1 SIGTERM")
    assert "control SIGTERM" not in gateway.events()
    assert gateway.stop() == 0
    assert gateway.events().count("worker1 SIGTERM") == 2
    assert gateway.events()[-2:] == ["control SIGTERM", "control stopped"]


@pytest.mark.parametrize(("name", "code"), [("worker1", 3), ("control", 4)])
def test_a_childs_exit_code_at_the_stop_is_that_of_the_gateway(
    start: Start, order: Order, name: str, code: int
) -> None:
    order(name, stop_code=code)
    gateway = start()
    gateway.wait_for("worker1 ready")
    gateway.wait_for("control ready")
    assert gateway.stop() == code


@pytest.mark.parametrize(
    ("name", "code", "events"),
    [("control", 78, []), ("worker2", 0, ["process ended before it was ready"])],  # with an error it tells the reason
)
def test_a_child_that_ends_before_it_is_ready_ends_the_gateway(
    start: Start, order: Order, name: str, code: int, events: list[str]
) -> None:
    order(name, ends_with=code)
    gateway = start(workers=2)
    assert gateway.ended() == (code or 1)
    assert [line["event"] for line in gateway.log] == events


def test_invalid_settings_end_the_start_with_78_and_one_sentence(start: Start, tmp_path: Path) -> None:
    gateway = start(port="x", prot=1)
    assert gateway.ended() == 78
    assert gateway.errors.startswith("llm-gateway: LLM_GATEWAY_PORT must be a whole number")
    assert "Did you mean LLM_GATEWAY_PORT?" in gateway.errors
    assert len(gateway.errors.splitlines()) == 1
    assert not (tmp_path / "data").exists()


def test_two_gateways_share_neither_port_nor_data_directory(start: Start, tmp_path: Path) -> None:
    first = start()
    first.wait_for("control ready")
    second = start()
    assert second.ended() == 78
    assert f"Another gateway uses the data directory {tmp_path / 'data'}: stop it" in second.errors
