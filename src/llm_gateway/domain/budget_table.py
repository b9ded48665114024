"""Table of the budgets of a snapshot: which of them a request counts in, by the values of its dimensions.

Of budgets that name a value without a wildcard, only those of the request's own values are looked at. A dimension that
no budget uses is never read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple, TypeAlias
from zoneinfo import ZoneInfo

from llm_gateway.domain.budget import DIMENSIONS, AccountRef, Budget
from llm_gateway.domain.budget_period import BudgetPeriod, period_at
from llm_gateway.domain.model_aliases import is_glob, matches
from llm_gateway.domain.request import Request

TAG = "tag:"
Values: TypeAlias = tuple[str, ...]
"""A request's values of the dimensions that the table uses, in the table's order; "" for one that it has not."""


def _team(request: Request, _provider: str, _model: str) -> str:
    return "" if request.key is None else request.key.team_id or ""


def _key(request: Request, _provider: str, _model: str) -> str:
    """Return what reports tell keys apart by (`UsageRecord.key`)."""
    return request.key_name if request.key is None else request.key.id


_OF_REQUEST: dict[str, Callable[[Request, str, str], str]] = {
    "team": _team,
    "key": _key,
    "user_id": lambda request, _provider, _model: request.user_id,
    "service": lambda request, _provider, _model: request.service,
    "task_type": lambda request, _provider, _model: request.task_type,
    "model": lambda _request, _provider, model: model,
    "provider": lambda _request, provider, _model: provider,
    "session": lambda request, _provider, _model: request.session or "",
    "agent": lambda request, _provider, _model: request.agent or "",
}


def _getter(dimension: str) -> Callable[[Request, str, str], str]:
    if dimension.startswith(TAG):
        tag = dimension.removeprefix(TAG)
        return lambda request, _provider, _model: request.tags.get(tag, "")
    return _OF_REQUEST[dimension]


class BudgetRule(NamedTuple):
    """A budget, compiled: its clock, the globs by the place of their dimension in `Values`, and that of `per`.

    `name` is the first part of its accounts' names in the memory, which count in the budget's unit.
    """

    budget: Budget
    zone: ZoneInfo
    name: str
    globs: tuple[tuple[int, str], ...]
    per: int | None

    def value(self, values: Values) -> str:
        """Return the value of the account in which a request with these values counts."""
        return "" if self.per is None else values[self.per]

    def period_at(self, at_ms: int) -> BudgetPeriod:
        """Return the budget's period that contains a moment."""
        return period_at(self.budget.period, self.zone, self.budget.anchor, at_ms)

    def account_name(self, ref: AccountRef) -> str:
        """Return the name of an account in the memory that workers share."""
        return f"{self.name}\0{ref.period_start_ms}\0{ref.value}"


class BudgetTable:
    """The budgets, compiled. Those with a dimension that this version does not know are left out.

    Raises:
        ZoneInfoNotFoundError: this system does not know a budget's time zone.
    """

    def __init__(self, budgets: Iterable[Budget]) -> None:
        places: dict[str, int] = {}
        self.rules: list[BudgetRule] = []
        for budget in budgets:
            used = [*budget.match, *([budget.per] if budget.per is not None else ())]
            if all(dimension in DIMENSIONS or dimension.startswith(TAG) for dimension in used):
                for dimension in used:
                    places.setdefault(dimension, len(places))
                self.rules.append(_compiled(budget, places))
        self._getters = [_getter(dimension) for dimension in places]
        self._always: list[BudgetRule] = []
        self._named: dict[int, dict[str, list[BudgetRule]]] = {}
        for rule in self.rules:
            exact = [(place, glob) for place, glob in rule.globs if not is_glob(glob)]
            if exact:
                place, value = exact[0]
                self._named.setdefault(place, {}).setdefault(value, []).append(rule)
            else:
                self._always.append(rule)

    def values(self, request: Request, provider: str, model: str) -> Values:
        """Return the values of a request that is to be sent to this model."""
        return tuple([value(request, provider, model) for value in self._getters])

    def matching(self, values: Values) -> list[BudgetRule]:
        """Return the budgets that a request with these values counts in, in the order of their configuration."""
        rules = list(self._always)
        for place, by_value in self._named.items():
            rules += by_value.get(values[place], ())
        found = [rule for rule in rules if all(matches(glob, values[place]) for place, glob in rule.globs)]
        return found if len(found) < 2 else sorted(found, key=self.rules.index)


def _compiled(budget: Budget, places: dict[str, int]) -> BudgetRule:
    return BudgetRule(
        budget=budget,
        zone=ZoneInfo(budget.timezone),
        name=f"{budget.id}\0{budget.unit}",
        globs=tuple((places[dimension], glob) for dimension, glob in budget.match.items()),
        per=None if budget.per is None else places[budget.per],
    )


def needed_until_ms(rule: BudgetRule, ref: AccountRef) -> int:
    """Return the time until which an account's balance is needed: the end of its period, or with `carry` of the next.

    The next period may ask what this one left.
    """
    end_ms = rule.period_at(ref.period_start_ms).end_ms
    return rule.period_at(end_ms).end_ms if rule.budget.carry else end_ms
