"""Refusals by a budget, as the clients of each path get them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from llm_gateway.domain.budget import AccountRef, Budget, Mode
from llm_gateway.domain.budget_period import FAR_MS
from llm_gateway.domain.budget_table import BudgetTable
from llm_gateway.error_format.responses import error_headers, problem_of
from llm_gateway.errors import GatewayError
from llm_gateway.protocols.registry import PROTOCOLS
from llm_gateway.worker.pipeline.budget_account import Account
from llm_gateway.worker.pipeline.budget_texts import (
    Amounts,
    amount_text,
    budget_header,
    header_name,
    refusal,
    warning_header,
)

USD = 10**9
DECEMBER_MS = 1_796_079_600_000
SENTENCE = "Budget 'core monthly' is used up: 100.00 of 100.00 USD; it resets 2026-12-01T00:00:00+01:00."


def refused(*, spent: int = 100 * USD, held: int = 0, retry_after_s: float | None = None, **changes: Any) -> Any:
    fields: dict[str, Any] = {"id": "b", "name": "core monthly", "limit": 100 * USD, "timezone": "Europe/Berlin"}
    [rule] = BudgetTable([Budget(**fields | changes)]).rules
    ref = AccountRef("b", "ann" if rule.budget.per else "", 0)
    account = Account(rule, ref, FAR_MS if rule.budget.period == "total" else DECEMBER_MS)
    return refusal(account, Amounts(rule.budget.limit, spent, held), 3 * USD, retry_after_s=retry_after_s)


def written(protocol: str, error: GatewayError) -> Any:
    return msgspec.json.decode(PROTOCOLS[protocol].write_error(error, "id"))["error"]


def test_a_budget_that_is_used_up_ends_the_call_on_every_surface_with_the_sentence() -> None:
    error = refused()
    assert error_headers(error) == [(b"x-should-retry", b"false")]
    problem = msgspec.to_builtins(problem_of(error, "id"))
    assert (problem["status"], problem["code"], problem["detail"]) == (429, "budget_exceeded", SENTENCE)
    assert problem["budget"] == {
        "name": "core monthly",
        "scope": "all",
        "limit_usd": 100.0,
        "spent_usd": 100.0,
        "held_usd": 0.0,
        "resets_at": "2026-12-01T00:00:00+01:00",
    }
    for protocol in ("openai_chat", "openai_embeddings"):
        chat = written(protocol, error)
        assert (chat["type"], chat["code"], chat["param"]) == ("insufficient_quota", "budget_exceeded", None)
        assert chat["message"] == SENTENCE
    responses = written("openai_responses", error)
    assert (responses["type"], responses["code"]) == ("usage_limit_reached", "budget_exceeded")
    assert (responses["message"], responses["resets_at"]) == (SENTENCE, DECEMBER_MS // 1000)
    message = written("anthropic_messages", error)
    assert (message["type"], message["message"]) == ("rate_limit_error", SENTENCE)
    gemini = written("gemini_content", error)
    kinds = {detail["@type"].rpartition(".")[2]: detail for detail in gemini["details"]}
    assert (gemini["code"], gemini["status"], "RetryInfo" in kinds) == (429, "RESOURCE_EXHAUSTED", False)
    assert kinds["QuotaFailure"]["violations"] == [{"subject": "core monthly (all)", "description": SENTENCE}]


def test_holds_of_others_in_the_way_are_told_apart_and_worth_a_retry() -> None:
    error = refused(spent=99 * USD, held=USD, retry_after_s=2.0)
    assert dict(error_headers(error)) == {
        b"x-should-retry": b"true",
        b"retry-after": b"2",
        b"retry-after-ms": b"2000",
    }
    assert problem_of(error, "id").code == "budget_reserved"
    for protocol in ("openai_chat", "openai_responses"):
        chat = written(protocol, error)
        assert (chat["type"], chat["code"]) == ("rate_limit_error", "budget_reserved")
    gemini = written("gemini_content", error)
    kinds = {detail["@type"].rpartition(".")[2]: detail for detail in gemini["details"]}
    assert (kinds["RetryInfo"]["retryDelay"], "QuotaFailure" in kinds) == ("2s", False)


def test_the_sentence_names_the_account_what_is_missing_and_that_a_budget_never_resets() -> None:
    assert refused(spent=98 * USD, per="user_id").detail == (
        "Budget 'core monthly' for user_id 'ann' has too little left: 98.00 of 100.00 USD are spent, and this request "
        "can take 3.00. Lower its limit of output tokens or shorten it; it resets 2026-12-01T00:00:00+01:00."
    )
    error = refused(spent=7, limit=7, unit="tokens", period="total")
    assert error.detail == "Budget 'core monthly' is used up: 7 of 7 tokens; it does not reset."
    assert msgspec.to_builtins(problem_of(error, "id"))["budget"] == {
        "name": "core monthly", "scope": "all", "limit_tokens": 7, "spent_tokens": 7, "held_tokens": 0
    }  # fmt: skip
    assert "resets_at" not in written("openai_responses", error)


@pytest.mark.parametrize("mode", ["hard", "soft"])
def test_successes_tell_what_is_left(mode: Mode) -> None:
    budget = Budget(id="id-1", name="Core  mönthly!", limit=20 * USD, timezone="Europe/Berlin", mode=mode)
    [rule] = BudgetTable([budget]).rules
    account = Account(rule, AccountRef("id-1", "", 0), DECEMBER_MS)
    header = budget_header(account, 12 * USD + USD // 2)
    assert header == (b"x-gateway-budget", b"Core-m-nthly; remaining=12.50; resets=2026-12-01T00:00:00+01:00")
    assert warning_header(account, 20 * USD, 21 * USD)[1] == b"Core-m-nthly; spent=21.00; limit=20.00"
    assert header_name(Budget(id="id-2", name="☃", limit=1)) == "id-2"
    shown = [amount_text(each, "usd") for each in (0, 7, 5_000, USD)]
    assert shown == ["0.00", "0.000000007", "0.000005", "1.00"]
