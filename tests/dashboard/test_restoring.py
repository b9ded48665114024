"""Calls that restore what was before a change, for each field that its entry in the audit trail may leave out."""

from __future__ import annotations

from typing import Any

import msgspec

from llm_gateway.control.management.budget_fields import changed_budget, new_budget, shown_budget
from llm_gateway.control.management.budget_schemas import BudgetCreate, BudgetPatch
from llm_gateway.control.management.key_schemas import KeyPatch
from llm_gateway.dashboard.restoring import BEGUN_ANEW, can_be_restored, restoring_call
from llm_gateway.domain.budget import Budget
from llm_gateway.domain.stored_budget import StoredBudget
from llm_gateway.domain.stored_key import KeySettings
from llm_gateway.store.audit import Change
from tests.rows import each_row

SMALL = {"name": "b", "limit_requests": 4}
"""A budget whose overdraft, a fifth in whole units, is 0."""
OTHER_FIELDS: dict[str, dict[str, Any]] = {
    "carry": {"carry": 0.5},
    "mode": {"mode": "soft"},
    "hold": {"hold": "bound"},
    "unpriced": {"unpriced": "allow"},
    "overdraft": {"overdraft_requests": 3},
    "notify_at": {"notify_at": [0.5]},
}
"""Bodies that change one field of a budget each from its default, by its name."""
OF_OVERRIDE = {"override_limit", "override_until_ms"}
"""Fields with calls of their own (`test_undo.py`)."""


def entry(action: str, before: object, after: object) -> dict[str, Any]:
    """Return the entry of a change as the audit trail stores it."""
    change = Change(None, action)  # type: ignore[arg-type]  # nothing is stored
    change.about("id", "name", before=before, after=after)
    return {"action": action, "before": change.before, "after": change.after}


def budget(fields: dict[str, Any], before: Budget | None = None) -> Budget:
    """Return the budget that a body of the API makes, or makes of another one."""
    if before is None:
        return new_budget(BudgetCreate(**fields).model_dump(exclude_unset=True))
    return changed_budget(before, BudgetPatch(**fields).model_dump(exclude_unset=True))


def restored(before: Budget, after: Budget) -> Budget:
    """Return the budget as undoing the change leaves it."""
    found = entry("budget.update", before, after)
    assert can_be_restored(found)
    now = shown_budget(
        StoredBudget(id="id", budget=after, defined_at_ms=0, counted_from_ms=0, created_at_ms=0, updated_at_ms=0)
    )
    call = restoring_call(found, now.model_dump())
    assert (call.method, call.below) == ("PATCH", "")
    assert call.body is not None
    return budget(msgspec.json.decode(msgspec.json.encode(call.body)), after)


def test_each_field_of_a_budget_that_entries_leave_out_is_restored() -> None:
    left_out = {each.name for each in msgspec.structs.fields(Budget) if each.default is not msgspec.NODEFAULT}
    assert OTHER_FIELDS.keys() == left_out - BEGUN_ANEW - OF_OVERRIDE
    before = budget(SMALL)
    for name, fields in OTHER_FIELDS.items():
        assert name not in msgspec.to_builtins(before), name
        after = budget(fields, before)
        assert getattr(after, name) != getattr(before, name), name
        assert restored(before, after) == before, name


@each_row(
    ("made", "change"),
    [
        ({"limit_requests": 4}, {"overdraft_requests": 3}),
        ({"limit_requests": 4}, {"limit_requests": 40, "overdraft_requests": 3}),
        ({"limit_requests": 4}, {"limit_requests": 40}),
        ({"limit_requests": 40}, {"limit_requests": 4}),
        ({"limit_requests": 10, "overdraft_requests": 4}, {"limit_requests": 20}),  # 4 is the usual one of 20
        ({"limit_requests": 20, "overdraft_requests": 0}, {"limit_requests": 4, "overdraft_requests": 1}),
        ({"limit_usd": "0.000000004"}, {"overdraft_usd": 1}),
        ({"limit_usd": "12.000000001", "overdraft_usd": 0}, {"limit_usd": 20}),
    ],
)
def test_limit_and_overdraft_are_restored_together(made: dict[str, Any], change: dict[str, Any]) -> None:
    before = budget({"name": "b", **made})
    after = budget(change, before)
    assert before != after
    assert restored(before, after) == before


def test_each_field_of_a_key_that_entries_leave_out_is_restored() -> None:
    others: dict[str, Any] = {
        "customers": ("a",), "services": ("a",), "models": ("a",), "rpm": 1, "tpm": 1, "max_parallel": 1,
        "max_tokens": 1, "max_reasoning_effort": "low", "max_request_nanos": 1, "tags": {"a": "b"},
    }  # fmt: skip
    before = KeySettings()
    assert others.keys() == {each.name for each in msgspec.structs.fields(KeySettings)}
    for name, value in others.items():
        found = entry("key.update", before, msgspec.structs.replace(before, **{name: value}))
        assert can_be_restored(found), name
        body = restoring_call(found, {}).body
        assert body is not None, name
        field = "max_request_usd" if name == "max_request_nanos" else name
        assert body == {field: getattr(before, name)}, name
        assert KeyPatch(**body).model_dump(exclude_unset=True).keys() == {field}, name
