"""Command `reprice` on the database of a running gateway: cost before and after."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from tests.cli.command import SetUp, call, execute, on_terminal
from tests.e2e.process import GatewayProcess

TODAY = f"{datetime.now(UTC) - timedelta(hours=1):%Y-%m-%dT%H:%M:%S}"
TOMORROW = f"{datetime.now(UTC) + timedelta(days=1):%Y-%m-%d}"


def test_a_price_set_later_is_applied_to_stored_usage(tmp_path: Path, set_up: SetUp) -> None:
    with GatewayProcess(tmp_path) as gateway:
        path = gateway.provider("acme", set_up.vendor.base_url, prices=None)
        answers = [gateway.ask().json for _ in range(3)]
        assert gateway.summary()["total_cost_usd"] == 0
        assert gateway.call("PATCH", path, {"prices": {"ok": {"input": 1, "output": 2}}}).status == 200
        nanos = sum(1000 * answer["input_tokens"] + 2000 * answer["output_tokens"] for answer in answers)
        cost = Decimal(nanos) / 10**9

        header, row = execute("reprice", "--since", TODAY, "--dry-run").rows
        assert header == [
            "provider", "model", "attempts", "changed", "unknown", "gone",
            "cost_before_usd", "cost_after_usd", "difference_usd",
        ]  # fmt: skip
        assert row[:6] == ["acme", "ok", "3", "3", "0", "0"]
        assert list(map(Decimal, row[6:])) == [0, cost, cost]
        assert gateway.summary()["total_cost_usd"] == 0, "nothing was changed yet"

        assert execute("reprice", "--since", TODAY, "--provider", "other").rows == [header]
        shown = on_terminal("reprice", "--since", TODAY, "--until", TOMORROW, "--model", "ok", columns=160)
        assert "3 of 3 requests changed." in shown.out
        assert "Repricing" in shown.out
        assert Decimal(str(gateway.summary()["total_cost_usd"])) == cost

        again = execute("reprice", "--since", TODAY, "--json").json
        assert (again["records"], again["records_changed"], again["dry_run"]) == (3, 0, False)
        assert again["total"]["difference_usd"] == 0
        assert Decimal(str(again["models"][0]["cost_after_usd"])) == cost


def test_attempts_without_a_known_price_are_reported(tmp_path: Path, set_up: SetUp) -> None:
    with GatewayProcess(tmp_path) as gateway:
        gateway.provider("acme", set_up.vendor.base_url, prices=None)
        gateway.ask()
        gateway.summary()
    shown = on_terminal("reprice", "--since", TODAY, columns=160)
    assert "0 of 1 requests changed. 1 attempts have no known price and keep theirs." in shown.out


@pytest.mark.parametrize(
    "times", [["--since", TOMORROW], ["--since", "2026-02-01", "--until", "2026-01-01"], ["--since", "2026-13-01"]]
)
def test_invalid_times_end_with_2(capsys: pytest.CaptureFixture[str], times: list[str]) -> None:
    assert call(capsys, "migrate").code == 0
    ended = call(capsys, "reprice", *times)
    assert (ended.code, "--since" in ended.sentence) == (2, True)


def test_a_time_can_have_a_zone(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "migrate").code == 0
    assert call(capsys, "reprice", "--since", "2026-01-01T00:00:00+02:00").code == 0
