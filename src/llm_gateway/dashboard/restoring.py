"""Calls of the API that restore what was before a change, from its entry in the audit trail.

Entries have fields as they are stored: amounts in nano-dollars, times in milliseconds, and of keys and budgets none
that has its default. Secrets are not in them, so a change of one cannot be undone.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, NamedTuple, get_args

import msgspec

from llm_gateway.domain.budget import Budget, Unit
from llm_gateway.domain.stored_budget import COUNTED
from llm_gateway.domain.usage import NANOS_PER_USD

SECRETS = frozenset({"api_key", "secrets", "password"})
"""Names under which entries say that a secret was changed."""
BEGUN_ANEW = frozenset({*COUNTED, "unit"})
"""Fields of a budget with whose change its accounts, and what they spent in past periods, were deleted or mean less."""
UPDATES = frozenset({"provider.update", "alert_target.update", "person.update", "key.update", "budget.update"})
OF_OVERRIDE = ("user_id", "service_name", "provider_name", "model_name", "allow_fallback")
DEFAULTS: dict[str, dict[str, Any]] = {
    "budget.update": {
        field.name: msgspec.to_builtins(field.default)
        for field in msgspec.structs.fields(Budget)
        if field.default is not msgspec.NODEFAULT
    },
    "key.update": {"tags": {}},
}
"""Fields that an entry may leave out, and their values then; that of others is None."""


class Call(NamedTuple):
    """A call of the API: method, the part of its path below the resource's, and body."""

    method: str
    below: str
    body: dict[str, Any] | None


def can_be_restored(entry: Mapping[str, Any]) -> bool:
    """Return whether a call of the API undoes a change."""
    if entry["action"] == "override.delete":
        return True
    changed = _changed(entry)
    if not changed or changed.keys() & SECRETS:
        return False
    return entry["action"] in UPDATES and not (entry["action"] == "budget.update" and changed.keys() & BEGUN_ANEW)


def restoring_call(entry: Mapping[str, Any], now: Mapping[str, Any]) -> Call:
    """Return the call that undoes a change that can be restored. `now` is the resource as the API shows it."""
    before, action = entry["before"] or {}, entry["action"]
    if action == "override.delete":
        return Call("POST", "", {name: before[name] for name in OF_OVERRIDE})
    former = _changed(entry)
    if action == "budget.update":
        return _of_budget(former, now)
    return Call("PATCH", "", _of_key(former) if action == "key.update" else former)


def _changed(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields that a change changed, as they were before."""
    before, after, defaults = entry["before"] or {}, entry["after"] or {}, DEFAULTS.get(entry["action"], {})
    was, became = (
        {name: each.get(name, defaults.get(name)) for name in {**before, **after}} for each in (before, after)
    )
    return {name: value for name, value in was.items() if value != became[name]}


def _of_key(former: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a key as the API takes them."""
    if "max_request_nanos" in former:
        nanos = former.pop("max_request_nanos")
        former["max_request_usd"] = None if nanos is None else nanos / NANOS_PER_USD
    if "expires_at_ms" in former:
        former["expires_at"] = _moment(former.pop("expires_at_ms"))
    return former


def _of_budget(former: dict[str, Any], now: Mapping[str, Any]) -> Call:
    """Return the call for a budget: of its fields, or of the limit that holds until a moment."""
    unit = next(unit for unit in get_args(Unit) if now[f"limit_{unit}"] is not None)
    if not former.keys() & {"override_limit", "override_until_ms"}:
        if "limit" in former:
            former[f"limit_{unit}"] = _amount(former.pop("limit"), unit)
            # Without it, one that is the usual one of the present limit would become that of the former limit.
            former[f"overdraft_{unit}"] = now[f"overdraft_{unit}"]
        if "overdraft" in former:
            former[f"overdraft_{unit}"] = _amount(former.pop("overdraft"), unit)
        return Call("PATCH", "", former)
    if "override_limit" in former and former["override_limit"] is None:
        return Call("DELETE", "/override", None)
    raised = now["override"] or {}  # has what the change left as it was
    amount = _amount(former["override_limit"], unit) if "override_limit" in former else raised["amount"]
    until = _moment(former["override_until_ms"]) if "override_until_ms" in former else raised["until"]
    return Call("PUT", "/override", {f"amount_{unit}": amount, "until": until})


def _amount(stored: int, unit: str) -> int | str:
    """Return an amount as the API takes it: dollars as a text, which is exact."""
    dollars, nanos = divmod(stored, NANOS_PER_USD)
    return f"{dollars}.{nanos:09}" if unit == "usd" else stored


def _moment(milliseconds: int | None) -> str | None:
    return None if milliseconds is None else datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat()
