"""Table of the budgets of a snapshot: which of them a request counts in, by the values of its dimensions.

Of budgets that name a value without a wildcard, only those of the request's own values are looked at. A dimension that
no budget uses is never read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import NamedTuple, TypeAlias
from zoneinfo import ZoneInfo

from llm_gateway.domain.budget import DIMENSIONS, AccountRef, Budget
from llm_gateway.domain.budget_period import BudgetPeriod, period_at
from llm_gateway.domain.model_aliases import is_glob, matches
from llm_gateway.domain.request import Request

TAG = "tag:"
Values: TypeAlias = tuple[str | None, ...]
"""The values of a request in the dimensions that the table uses, in its order; None or "" for one that it has not."""
_FIELDS = ("user_id", "service", "task_type", "session", "agent")
"""Dimensions that are fields of a request."""
_ALWAYS = ("key_name", "surface")
"""Fields that any table reads, since `attrgetter` returns a tuple of two and more."""


def _team(request: Request) -> str:
    return "" if request.key is None else request.key.team_id or ""


def _key(request: Request) -> str:
    """Return what reports tell keys apart by (`UsageRecord.key`)."""
    return request.key_name if request.key is None else request.key.id


def _getter(dimension: str) -> Callable[[Request], str]:
    if dimension.startswith(TAG):
        tag = dimension.removeprefix(TAG)
        return lambda request: request.tags.get(tag, "")
    return _team if dimension == "team" else _key


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
        return "" if self.per is None else values[self.per] or ""

    def period_at(self, at_ms: int) -> BudgetPeriod:
        """Return the budget's period that contains a moment."""
        return period_at(self.budget.period, self.zone, self.budget.anchor, at_ms)

    def account_name(self, ref: AccountRef) -> str:
        """Return the name of an account in the memory that workers share."""
        return account_name(self.budget, ref)


class BudgetTable:
    """The budgets, compiled. Those with a dimension that this version does not know are left out.

    Raises:
        ZoneInfoNotFoundError: this system does not know a budget's time zone.
    """

    def __init__(self, budgets: Iterable[Budget]) -> None:
        known = [each for each in budgets if all(map(_is_known, _dimensions(each)))]
        used = dict.fromkeys(dimension for budget in known for dimension in _dimensions(budget))
        fields = [dimension for dimension in used if dimension in _FIELDS]
        others = [dimension for dimension in used if dimension not in (*_FIELDS, "model", "provider")]
        self._fields = attrgetter(*fields, *_ALWAYS)
        self._used = attrgetter(*(fields or _ALWAYS[:1]))
        self._others = [_getter(dimension) for dimension in others]
        self.fields: Callable[[Request], object] = self._all_fields if others else self._used
        """Returns what the values of a request depend on, beside the model; it is hashable."""
        order = ("provider", "model", *fields, *_ALWAYS, *others)
        places = {dimension: place for place, dimension in enumerate(order)}
        self.is_any_never_passed = any(budget.is_never_passed for budget in known)
        self.uses_model = bool({"provider", "model"} & used.keys())
        self.rules: list[BudgetRule] = [_compiled(budget, places) for budget in known]
        self._always: list[BudgetRule] = []
        self._named: dict[int, dict[str, list[BudgetRule]]] = {}
        for rule in self.rules:
            exact = [(place, glob) for place, glob in rule.globs if not is_glob(glob)]
            if exact:
                place, value = exact[0]
                self._named.setdefault(place, {}).setdefault(value, []).append(rule)
            else:
                self._always.append(rule)

    def _all_fields(self, request: Request) -> object:
        return self._used(request), *[value(request) for value in self._others]

    def values(self, request: Request, provider: str, model: str) -> Values:
        """Return the values of a request that is to be sent to this model."""
        if not self.uses_model:
            provider = model = ""
        if not self._others:
            return provider, model, *self._fields(request)
        return provider, model, *self._fields(request), *[value(request) for value in self._others]

    def matching(self, values: Values) -> list[BudgetRule]:
        """Return the budgets that a request with these values counts in, in the order of their configuration."""
        rules = list(self._always)
        for place, by_value in self._named.items():
            rules += by_value.get(values[place] or "", ())
        found = [rule for rule in rules if all(matches(glob, values[place] or "") for place, glob in rule.globs)]
        return found if len(found) < 2 else sorted(found, key=self.rules.index)


def _dimensions(budget: Budget) -> list[str]:
    return [*budget.match, *([budget.per] if budget.per is not None else ())]


def _is_known(dimension: str) -> bool:
    return dimension in DIMENSIONS or dimension.startswith(TAG)


def _compiled(budget: Budget, places: dict[str, int]) -> BudgetRule:
    return BudgetRule(
        budget=budget,
        zone=ZoneInfo(budget.timezone),
        name=_name(budget),
        globs=tuple((places[dimension], glob) for dimension, glob in budget.match.items()),
        per=None if budget.per is None else places[budget.per],
    )


def _name(budget: Budget) -> str:
    return f"{budget.id}\0{budget.unit}"


def account_name(budget: Budget, ref: AccountRef) -> str:
    """Return the name of an account in the memory that workers share, and, as a digest, in the database."""
    return f"{_name(budget)}\0{ref.period_start_ms}\0{ref.value}"


def needed_until_ms(rule: BudgetRule, ref: AccountRef) -> int:
    """Return the time until which an account's balance is needed: the end of its period, or with `carry` of the next.

    The next period may ask what this one left.
    """
    end_ms = rule.period_at(ref.period_start_ms).end_ms
    return rule.period_at(end_ms).end_ms if rule.budget.carry else end_ms
