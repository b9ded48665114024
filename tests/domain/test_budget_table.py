"""Which budgets a request counts in, and in which of their accounts."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
from hypothesis import given

from llm_gateway.domain.budget import DIMENSIONS, AccountRef, Budget
from llm_gateway.domain.budget_table import BudgetTable, needed_until_ms
from llm_gateway.domain.model_aliases import matches
from llm_gateway.domain.service_key import ServiceKey
from tests.worker.pipeline.fakes import request

KEY = ServiceKey(public_id=b"p", digest=b"d", id="key-1", name="shop", scopes=1, team_id="team-1")
ASKED: dict[str, Any] = {
    "key": KEY,
    "key_name": "shop",
    "user_id": "ann",
    "service": "chat",
    "task_type": "summary",
    "session": "s-1",
    "agent": "codex",
    "tags": {"env": "live"},
}
VALUES = {
    "team": "team-1",
    "key": "key-1",
    "user_id": "ann",
    "service": "chat",
    "task_type": "summary",
    "model": "gpt-5",
    "provider": "acme",
    "session": "s-1",
    "agent": "codex",
    "tag:env": "live",
    "tag:other": "",
}


def counted(*budgets: Budget, **changes: Any) -> dict[str, str]:
    """Return the value of the account for each budget that the request counts in."""
    table = BudgetTable(budgets)
    values = table.values(request(**ASKED | changes), "acme", "gpt-5")
    return {rule.budget.id: rule.value(values) for rule in table.matching(values)}


def test_each_dimension_is_matched_and_counted_per_value() -> None:
    assert VALUES.keys() >= set(DIMENSIONS)
    for dimension, value in VALUES.items():
        budgets = (
            Budget(id="its", name="b", limit=1, match={dimension: value}, per=dimension),
            Budget(id="glob", name="b", limit=1, match={dimension: f"{value[:1]}*"}),
            Budget(id="other", name="b", limit=1, match={dimension: "another"}),
        )
        assert counted(*budgets) == {"its": value, "glob": ""}, dimension
    assert counted(Budget(id="b", name="b", limit=1, per="key"), key=None) == {"b": "shop"}
    assert counted(Budget(id="b", name="b", limit=1, per="session"), session=None) == {"b": ""}


def test_budgets_with_dimensions_of_a_later_version_are_left_out() -> None:
    known = Budget(id="known", name="b", limit=1)
    assert counted(Budget(id="new", name="b", limit=1, match={"region": "eu"}), known) == {"known": ""}


GLOBS = st.sampled_from(["*", "a*", "ann", "b*", "chat", "gpt-*", "gpt-5", "acme", ""])


@given(st.lists(st.dictionaries(st.sampled_from(["user_id", "service", "model", "provider"]), GLOBS), max_size=8))
def test_the_table_finds_what_comparing_all_of_them_finds(found: list[dict[str, str]]) -> None:
    budgets = [Budget(id=f"{number}", name="b", limit=1, match=match) for number, match in enumerate(found)]
    expected = [each.id for each in budgets if all(matches(glob, VALUES[name]) for name, glob in each.match.items())]
    assert list(counted(*budgets)) == expected


def test_a_balance_is_needed_to_the_end_of_its_period_or_of_the_next_that_it_is_carried_to() -> None:
    hour_ms = 3_600_000
    for carry, hours in ((0.0, 1), (0.5, 2)):
        [rule] = BudgetTable([Budget(id="b", name="b", limit=1, period="hour", carry=carry)]).rules
        assert needed_until_ms(rule, AccountRef("b", "", 0)) == hours * hour_ms
