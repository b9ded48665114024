"""Failed sign-ins: how many, by address and by name."""

from __future__ import annotations

from llm_gateway.dashboard.sign_in_limits import (
    BRAKE_S,
    FAILURES_S,
    MOST_FAILURES,
    MOST_KNOWN,
    MOST_OF_NAME,
    MOST_OF_NETWORK,
    Attempts,
)


def test_failures_are_limited_by_address_and_by_name_from_a_network() -> None:
    now = 0.0
    attempts = Attempts(lambda: now)
    for number in range(MOST_OF_NETWORK):
        assert attempts.begin(f"192.0.2.{number // MOST_FAILURES}", "ann")
    assert not attempts.begin("192.0.2.1", "bob"), "the same address"
    assert not attempts.begin("192.0.2.200", "ann"), "another address of the network"
    assert attempts.begin("192.0.2.200", "bob")
    assert attempts.begin("198.51.100.1", "ann"), "strangers lock nobody out"
    now = FAILURES_S + 1
    assert attempts.begin("192.0.2.200", "ann")
    for _ in range(MOST_FAILURES * 3):
        assert attempts.begin("2001:db8::1", None)
        attempts.succeeded("2001:db8::1", None)
    for number in range(MOST_FAILURES):
        assert attempts.begin(f"2001:db8::{number:x}", None)
    assert not attempts.begin("2001:db8::ffff", None)
    assert attempts.begin("2001:db8:0:1::1", None)
    assert attempts.begin("::ffff:10.1.2.3", None)


def test_one_address_slows_a_name_down_in_its_network_and_locks_nobody_out() -> None:
    attempts, waits = Attempts(lambda: 0.0), []
    for _ in range(MOST_FAILURES):
        assert attempts.begin("192.0.2.1", "ann")
        waits.append(attempts.brake_s("192.0.2.1", "ann"))
    assert (set(waits), attempts.begin("192.0.2.1", "ann")) == ({0.0}, False)
    waits = []
    for number in range(8):
        assert attempts.begin(f"192.0.2.{2 + number}", "ann"), "a colleague in the same network"
        waits.append(attempts.brake_s("192.0.2.2", "ann"))
    assert waits == [0.5, 1, 2, 4, 8, 16, 16, 16]
    for number in range(8):
        attempts.succeeded(f"192.0.2.{2 + number}", "ann")
    assert attempts.begin("192.0.2.3", "ann")
    assert attempts.brake_s("192.0.2.3", "ann") == 0.5
    assert (attempts.brake_s("192.0.2.3", "bob"), attempts.brake_s("198.51.100.1", "ann")) == (0, 0)


def test_a_name_that_is_tried_from_everywhere_is_slowed_down_and_never_refused() -> None:
    now = 0.0
    attempts = Attempts(lambda: now)
    for number in range(MOST_OF_NAME):
        assert attempts.brake_s("203.0.113.9", "ann") == 0
        assert attempts.begin(f"10.{number}.0.1", "ann")
    assert attempts.begin("203.0.113.9", "ann")
    waits = [attempts.brake_s("203.0.113.9", name) for name in ("ann", "bob")]
    assert waits == [BRAKE_S, 0]
    now = FAILURES_S + 1
    assert attempts.brake_s("203.0.113.9", "ann") == 0


def test_memory_is_bounded_and_made_up_names_forget_no_address() -> None:
    attempts = Attempts(lambda: 0.0)
    for _ in range(MOST_FAILURES):
        assert attempts.begin("192.0.2.1", None)
    for number in range(MOST_KNOWN - 1):
        assert attempts.begin(f"10.0.{number >> 8}.{number & 255}", f"{number}" + "x" * 1000)
    assert not attempts.begin("192.0.2.1", None)
    for number in range(2 * MOST_KNOWN):
        attempts.begin(f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", f"{number}")
    assert max(len(each) for each in (attempts._addresses, attempts._names_of_networks, attempts._names)) == MOST_KNOWN
