"""Commands `usage …` against a gateway with recorded requests."""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from tests.cli.command import call, execute, on_terminal
from tests.e2e.process import GatewayProcess
from tests.upstream import UpstreamProcess

Capsys = pytest.CaptureFixture[str]
CHEAP = {"ok": {"input": 0.001, "output": 0}}
"""A price of one nano-dollar a token."""


@pytest.fixture(scope="module")
def used(tmp_path_factory: pytest.TempPathFactory, vendor: UpstreamProcess) -> Iterator[GatewayProcess]:
    """Provide a gateway with three requests of two customers; one of them used a model without a price."""
    directory: Path = tmp_path_factory.mktemp("used")
    with GatewayProcess(directory) as gateway:
        gateway.provider("acme", vendor.base_url, prices=CHEAP)
        for customer, service in (("alice", "shop"), ("alice", "desk"), ("bob", "shop")):
            assert gateway.ask(user_id=customer, service=service).status == 200
        yield gateway


@pytest.fixture(autouse=True)
def here(used: GatewayProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_URL", f"http://localhost:{used.port}")


def api(used: GatewayProcess, path: str) -> Any:
    return used.call("GET", f"/api/v1/usage/{path}").json


def test_json_output_is_that_of_the_api(used: GatewayProcess, capsys: Capsys) -> None:
    assert call(capsys, "usage", "--json").json == api(used, "summary")
    assert call(capsys, "usage", "summary", "--days", "7", "--json").json == api(used, "summary?days=7")
    for by in ("provider", "service", "customer"):
        assert call(capsys, "usage", "--by", by, "--json").json == api(used, f"by-{by}")
    assert len(call(capsys, "usage", "--by", "customer", "--limit", "1", "--json").json) == 1


def test_amounts_in_tab_separated_reports_are_exact(used: GatewayProcess, capsys: Capsys) -> None:
    header, *rows = call(capsys, "usage", "--by", "customer").rows
    assert header == ["user_id", "request_count", "total_cost_usd"]
    assert [row[:2] for row in rows] == [["alice", "2"], ["bob", "1"]]
    assert [Decimal(row[2]) for row in rows] == [
        Decimal(str(each["total_cost_usd"])) for each in api(used, "by-customer")
    ]
    assert "e" not in "".join(row[2] for row in rows)
    header, row = call(capsys, "usage", "--by", "provider").rows
    assert header == ["provider_name", "request_count", "total_tokens", "avg_latency_ms", "total_cost_usd"]
    assert row[:2] == ["acme", "3"]
    header, *rows = call(capsys, "usage", "--by", "service").rows
    assert sorted(row[0] for row in rows) == ["desk", "shop"]
    summary = dict(call(capsys, "usage").rows)
    assert (summary["total_requests"], summary["exact"], summary["cache_hit_rate"]) == ("3", "3", "0.0")


def test_a_terminal_shows_nano_dollars_and_a_total(used: GatewayProcess) -> None:
    shown = on_terminal("usage", "--by", "customer").out
    nanos = round(api(used, "summary")["total_cost_usd"] * 1e9)
    assert 0 < nanos < 1000
    lines = shown.splitlines()
    assert lines[0].split() == ["Customer", "Requests", "Cost"]
    assert lines[-1].split() == ["Total", "3", f"$0.{nanos:09}".rstrip("0")]
    points = {line.index("$0.") for line in lines if "$" in line}
    assert len(points) == 1, "amounts stand below each other"
    assert f"$0.{nanos:09}".rstrip("0") in on_terminal("usage").out


def test_a_terminal_gets_a_hint_if_the_limit_cuts_customers_off(used: GatewayProcess) -> None:
    assert "there may be more" in on_terminal("usage", "--by", "customer", "--limit", "1").out
    assert "there may be more" not in on_terminal("usage", "--by", "customer", "--limit", "3").out


def test_a_limit_without_by_customer_ends_with_2(capsys: Capsys) -> None:
    ended = call(capsys, "usage", "--by", "service", "--limit", "3")
    assert (ended.code, "--by customer" in ended.sentence) == (2, True)


def test_an_empty_report_and_a_missing_price_are_explained(
    tmp_path: Path, vendor: UpstreamProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    with GatewayProcess(tmp_path) as gateway:
        monkeypatch.setenv("GATEWAY_URL", f"http://localhost:{gateway.port}")
        assert on_terminal("usage", "--by", "service").out == "No requests in 30 days.\n"
        assert "$0.00" in on_terminal("usage").out
        gateway.provider("acme", vendor.base_url, prices=None)
        assert gateway.ask().json["cost_status"] == "unpriced"
        assert "llm-gateway reprice" in on_terminal("usage").out
        [row] = (line for line in on_terminal("usage", "prices").out.splitlines() if line.startswith("acme"))
        assert row.split() == ["acme", "ok", "none", "1"]
        customer = execute("usage", "--by", "customer").out.split()[3]
        erased = on_terminal("usage", "erase", customer, "--yes").out
        assert f"Erased {customer}: 1 records and all sums are of erased-" in erased
        assert "no usage of this customer" in on_terminal("usage", "erase", customer, "--yes").out


def test_any_dimension_and_period_of_the_calendar_can_be_reported(used: GatewayProcess, capsys: Capsys) -> None:
    header, *rows = call(capsys, "usage", "--by", "customer,service", "--days", "2").rows
    assert header[:3] == ["group.customer", "group.service", "requests"]
    assert sorted(row[:3] for row in rows) == [["alice", "desk", "1"], ["alice", "shop", "1"], ["bob", "shop", "1"]]
    found = call(capsys, "usage", "--by", "model", "--from", "2020-01-01", "--tz", "Europe/Berlin", "--json").json
    assert found["totals"]["requests"] == 3
    assert "Total" in on_terminal("usage", "--by", "model").out
    assert call(capsys, "usage", "--by", "session").rows[1][:2] == ["", "3"]
    lines = call(capsys, "usage", "--by", "key", "--csv").out.splitlines()
    assert lines[0].startswith("key,key_name,requests,")
    assert lines[1].startswith("dev,,3,")


def test_requests_are_listed_and_one_is_shown(used: GatewayProcess, capsys: Capsys) -> None:
    header, *rows = call(capsys, "usage", "requests", "--customer", "alice").rows
    assert [dict(zip(header, row, strict=True))["outcome"] for row in rows] == ["ok", "ok"]
    found = call(capsys, "usage", "request", rows[0][header.index("id")], "--json").json
    assert (found["user_id"], len(found["attempts"])) == ("alice", 1)
    shown = call(capsys, "usage", "request", found["id"]).out
    assert "user_id\talice" in shown
    assert "acme" in on_terminal("usage", "requests", "--limit", "1").out


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--by", "modle"), 2, "--by takes model, provider"),
        (("--by", "model", "--days", "3", "--from", "2026-01-01"), 2, "two periods"),
        (("--limit", "3"), 2, "only with --by"),
        (("--by", "model", "--from", "soon"), 1, "2026-06-01"),
        (("--by", "model", "--csv", "--tz", "Nowhere"), 1, "Europe/Berlin"),
        (("request", "unknown"), 1, "No usage record"),
        (("requests", "--outcome", "fine"), 1, "outcome"),
    ],
)
def test_wrong_options_get_one_sentence(capsys: Capsys, arguments: tuple[str, ...], code: int, words: str) -> None:
    ended = call(capsys, "usage", *arguments)
    assert ended.code == code
    assert words in ended.err
