"""Convert the fields of a request to a budget, by the rules that concern more than one field, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

import msgspec

from llm_gateway.control.management.budget_schemas import BudgetOut, OverrideOut
from llm_gateway.control.management.fields import iso
from llm_gateway.domain.budget import OVERDRAFT_PERCENT, Budget, PeriodName, Unit
from llm_gateway.domain.stored_budget import StoredBudget
from llm_gateway.domain.usage import NANOS_PER_USD
from llm_gateway.errors import Invalid

UNITS: tuple[Unit, ...] = get_args(Unit)
ANCHORS: Mapping[PeriodName, tuple[int, int, str]] = {
    "day": (0, 23, "the hour of the day"),
    "week": (1, 7, "the day of the week, 1 for Monday"),
    "month": (1, 28, "the day of the month"),
    "quarter": (1, 28, "the day of the quarter's first month"),
}
"""First and last anchor of a period, and what it is. The first one is the default. Other periods have none."""
SAME = ("name", "match", "per", "timezone", "carry", "mode", "hold", "unpriced", "notify_at")
"""Fields of the API that are those of `Budget`."""
NO_ANCHOR = 1
"""Stored for periods without an anchor."""


def new_budget(fields: Mapping[str, Any]) -> Budget:
    """Return the budget that a request to make one describes.

    Raises:
        Invalid: it has no limit, or fields that do not fit together.
    """
    if not any(f"limit_{unit}" in fields for unit in UNITS):
        raise Invalid(
            "limit_usd, limit_tokens or limit_requests is required.", loc=("body", "limit_usd"), kind="missing"
        )
    return changed_budget(Budget(id="", name="", limit=0), fields, is_new=True)


def changed_budget(before: Budget, fields: Mapping[str, Any], *, is_new: bool = False) -> Budget:
    """Return the budget with the fields of a request.

    Raises:
        Invalid: the fields do not fit together.
    """
    unit = _unit("limit", fields) or before.unit
    limit = fields.get(f"limit_{unit}", before.limit)
    period = fields.get("period", before.period)
    overdraft = _overdraft(before, fields, unit, limit)
    anchor = _anchor(period, fields.get("anchor"), before.anchor if period == before.period and not is_new else None)
    same = {name: fields[name] for name in SAME if name in fields}
    budget = msgspec.structs.replace(
        before, unit=unit, limit=limit, period=period, anchor=anchor, overdraft=overdraft, **same
    )
    if budget.carry and budget.period == "total":
        raise Invalid(
            "carry: a budget without an end (period total) has no period before: leave carry out.",
            loc=("body", "carry"),
        )
    return budget if unit == before.unit else msgspec.structs.replace(budget, override_limit=None, override_until_ms=0)


def overridden(before: Budget, fields: Mapping[str, Any], now_ms: int) -> Budget:
    """Return the budget with another limit until a moment.

    Raises:
        Invalid: the amount is missing or in another unit, or the moment is past.
    """
    unit = _unit("amount", fields)
    if unit is None:
        raise Invalid(f"amount_{before.unit} is required.", loc=("body", f"amount_{before.unit}"), kind="missing")
    _refuse_other_unit("amount", unit, before.unit)
    if fields["until"] <= now_ms:
        raise Invalid("until is in the past: choose a later time.", loc=("body", "until"))
    return msgspec.structs.replace(before, override_limit=fields[f"amount_{unit}"], override_until_ms=fields["until"])


def _unit(kind: str, fields: Mapping[str, Any]) -> Unit | None:
    """Return the unit in which a limit, overdraft or amount is given, None if it is not.

    Raises:
        Invalid: it is given in two units.
    """
    given = [unit for unit in UNITS if f"{kind}_{unit}" in fields]
    if len(given) > 1:
        names = [f"{kind}_{unit}" for unit in given]
        raise Invalid(f"{' and '.join(names)} are both given: give one of them.", loc=("body", names[1]))
    return given[0] if given else None


def _refuse_other_unit(kind: str, unit: Unit, own: Unit) -> None:
    if unit != own:
        raise Invalid(
            f"{kind}_{unit} is not in the unit of the budget's limit: use {kind}_{own}.", loc=("body", f"{kind}_{unit}")
        )


def _overdraft(before: Budget, fields: Mapping[str, Any], unit: Unit, limit: int) -> int:
    given = _unit("overdraft", fields)
    if given is not None:
        _refuse_other_unit("overdraft", given, unit)
        overdraft: int = fields[f"overdraft_{unit}"]
        return overdraft
    if unit != before.unit or before.overdraft == usual_overdraft(before.limit):
        return usual_overdraft(limit)
    return before.overdraft


def usual_overdraft(limit: int) -> int:
    """Return the overdraft of a budget that sets none."""
    return limit * OVERDRAFT_PERCENT // 100


def _anchor(period: PeriodName, given: int | None, before: int | None) -> int:
    if period not in ANCHORS:
        if given is not None:
            raise Invalid(f"anchor: the period {period} has none: leave it out.", loc=("body", "anchor"))
        return NO_ANCHOR
    first, last, meaning = ANCHORS[period]
    if given is None:
        return first if before is None else before
    if not first <= given <= last:
        raise Invalid(f"anchor must be {first} to {last} for the period {period}: {meaning}.", loc=("body", "anchor"))
    return given


def shown_amount(amount: int, unit: Unit) -> float:
    """Return an amount as the API shows it: USD, tokens or requests."""
    return amount / NANOS_PER_USD if unit == "usd" else amount


def shown_budget(stored: StoredBudget) -> BudgetOut:
    """Return a budget as the API shows it."""
    budget = stored.budget
    amounts: dict[str, Any] = {f"{kind}_{unit}": None for kind in ("limit", "overdraft") for unit in UNITS}
    amounts[f"limit_{budget.unit}"] = shown_amount(budget.limit, budget.unit)
    amounts[f"overdraft_{budget.unit}"] = shown_amount(budget.overdraft, budget.unit)
    override = None
    if budget.override_limit is not None:
        amount = shown_amount(budget.override_limit, budget.unit)
        override = OverrideOut(amount=amount, until=iso(budget.override_until_ms))
    same = {name: getattr(budget, name) for name in SAME if name != "notify_at"}
    return BudgetOut(
        id=stored.id,
        **same,
        **amounts,
        period=budget.period,
        anchor=budget.anchor if budget.period in ANCHORS else None,
        notify_at=list(budget.notify_at),
        override=override,
        counts_from=iso(stored.counts_from_ms),
        created_at=iso(stored.created_at_ms),
        updated_at=iso(stored.updated_at_ms),
    )
