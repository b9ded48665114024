"""Failed sign-ins: how many, by address and by name."""

from __future__ import annotations

from llm_gateway.dashboard.attempts import FAILURES_S, MOST_FAILURES, MOST_KNOWN, Attempts


def test_failures_are_limited_by_address_and_by_name_in_bounded_memory() -> None:
    now = 0.0
    attempts = Attempts(lambda: now)
    for number in range(MOST_FAILURES):
        assert attempts.begin(f"192.0.2.{number}", "ann")
    assert not attempts.begin("198.51.100.1", "ann")
    assert attempts.begin("198.51.100.1", "bob")
    now = FAILURES_S + 1
    for _ in range(MOST_FAILURES * 3):
        assert attempts.begin("2001:db8::1", None)
        attempts.succeeded("2001:db8::1", None)
    for number in range(MOST_FAILURES):
        assert attempts.begin(f"2001:db8::{number:x}", None)
    assert not attempts.begin("2001:db8::ffff", None)
    assert attempts.begin("2001:db8:1::1", None)
    for number in range(3 * MOST_KNOWN):
        attempts.begin(f"10.0.{number >> 8}.{number & 255}", "x" * 1000 + str(number))
    assert len(attempts._times) <= MOST_KNOWN
