"""Commands `budgets …` against a running gateway, and the verification of its database."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from llm_gateway.domain.budget import AccountRef, Budget
from llm_gateway.store.budget_tables import budget_spend
from llm_gateway.store.budgets import BudgetStore
from llm_gateway.store.database import Database
from llm_gateway.store.usage import UsageStore
from tests.cli.command import call
from tests.e2e.process import write_migrated
from tests.store.histories import attempt, close, record

Capsys = pytest.CaptureFixture[str]


@pytest.mark.usefixtures("set_up")
def test_a_budget_from_its_making_to_its_end(capsys: Capsys) -> None:
    options = (
        "-m",
        "task_type=none*",
        "--per",
        "user_id",
        "--period",
        "day",
        "--tz",
        "Europe/Berlin",
        "--mode",
        "soft",
    )
    added = call(capsys, "budgets", "add", "core", "--usd", "100.5", *options, "--notify-at", "0.8,1", "--json").json
    wanted = {
        "limit_usd": 100.5, "match": {"task_type": "none*"}, "per": "user_id", "period": "day", "mode": "soft",
        "timezone": "Europe/Berlin", "notify_at": [0.8, 1], "warnings": [],
    }  # fmt: skip
    assert {name: added[name] for name in wanted} == wanted
    warned = call(capsys, "budgets", "add", "other", "--tokens", "5", "-m", "provider=nobody")
    assert warned.out == "Added other.\n"
    assert warned.err.startswith("Warning: match.provider: no provider has it today")
    header, *rows = call(capsys, "budgets", "list").rows
    assert [row[header.index("limit")] for row in rows] == ["$100.50", "5 tokens"]
    assert call(capsys, "budgets", "update", "core", "--per", "none", "--name", "all").out == "Changed all.\n"
    until = "2099-01-31T12:00:00.000Z"
    ended = call(capsys, "budgets", "override", "all", "150", "--until", until)
    assert ended.out == f"The limit of all is $150.00 until {until}.\n"
    [account] = call(capsys, "budgets", "accounts", "all", "--json").json["accounts"]
    assert (account["spent"], account["limit"]) == (0, 150)
    assert call(capsys, "budgets", "accounts", added["id"]).rows[1][2:5] == ["$0.00", "$150.00", "$150.00"]
    assert call(capsys, "budgets", "override", "all", "--end").out == "The limit of all is its own again.\n"
    for arguments, code, words in (
        (("add", "x", "--usd", "1", "-m", "model"), 2, "--match takes NAME=GLOB"),
        (("add", "x", "--usd", "1", "--notify-at", "half"), 2, "--notify-at takes numbers"),
        (("add", "x"), 1, "limit_usd, limit_tokens or limit_requests is required."),
        (("update", "all"), 2, "Name what to change"),
        (("update", "nobody", "--usd", "1"), 1, "There is no budget named nobody"),
        (("override", "all", "5"), 2, "Give an amount and --until, or --end."),
        (("override", "other", "1.5", "--until", until), 2, "The budget counts tokens"),
    ):
        ended = call(capsys, "budgets", *arguments)
        assert (ended.code, words in ended.sentence) == (code, True), ended
    assert call(capsys, "budgets", "remove", "other", "--json").json["name"] == "other"
    assert call(capsys, "budgets", "remove", "all").out == "Removed all.\n"


def test_a_verification_ends_with_1_if_an_account_differs(
    capsys: Capsys, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'gateway.db'}"
    monkeypatch.setenv("LLM_GATEWAY_DATABASE_URL", url)
    write_migrated(tmp_path / "gateway.db")
    with closing(Database.open(url, fsync=False)) as database:
        assert call(capsys, "budgets", "verify", "--json").json == []
        stored = BudgetStore(database).create(Budget(id="", name="core", limit=5))
        now_ms = stored.defined_at_ms + 5
        account = AccountRef(stored.budget.id, "", stored.period(now_ms).start_ms)
        one = record(now_ms, attempts=[attempt(now_ms, cost_nanos=7, accounts=[account])])
        close(one)
        UsageStore(database).write([one])
        [row] = call(capsys, "budgets", "verify", "--json").json
        assert (row["budget"], row["drift_usd"], row["drift_requests"]) == ("core", 0, 0)
        with database.write() as connection:
            connection.execute(budget_spend.update().values(nanos=8))
    ended = call(capsys, "budgets", "verify")
    assert (ended.code, "1 of 1 accounts differ" in ended.err) == (1, True)
