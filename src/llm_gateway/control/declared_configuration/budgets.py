"""The section `budgets` of the configuration document, with the names of teams and keys in `match`.

Another limit for a while (the override of a budget) is not part of the document: applying one leaves it in force.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from decimal import Decimal

import msgspec

from llm_gateway.control.declared_configuration.entries import BudgetEntry
from llm_gateway.control.declared_configuration.section import Change, Fields, Names, Section, Stored, Wanted
from llm_gateway.control.management.budget_fields import (
    ANCHORS,
    SAME,
    UNITS,
    new_budget,
    shown_amount,
    usual_overdraft,
)
from llm_gateway.control.management.budget_schemas import MONEY_DIGITS
from llm_gateway.domain.budget import Budget, Unit
from llm_gateway.domain.model_aliases import is_glob
from llm_gateway.errors import Invalid
from llm_gateway.store.budgets import BudgetStore

_NAMED = {"team": "teams", "key": "keys"}
"""Dimensions whose values are ids, and the sections that have their names."""
_FIELDS = tuple(BudgetEntry.model_fields)


class BudgetSection(Section):
    """The stored budgets, in the transaction of `store`. `environment` has the names of the environment's keys."""

    name, noun, schema = "budgets", "budget", BudgetEntry

    def __init__(self, store: BudgetStore, names: Names, environment: Collection[str]) -> None:
        self._store = store
        self._names = names
        self._environment = environment
        self._nameless: dict[str, dict[str, str]] = {}

    def read(self) -> dict[str, Stored]:
        """Return the stored budgets, by name. The sections `teams` and `keys` must have been read."""
        found = {}
        for each in self._store.list():
            ids, label = each.budget.match, each.budget.name
            match = self._with_names(ids)
            self._nameless[label] = {name: ids[name] for name in _NAMED if name in ids and match[name] == ids[name]}
            found[label] = Stored(label, each.id, _fields(msgspec.structs.replace(each.budget, match=match)))
        return found

    def wanted(self, entry: BudgetEntry, position: int) -> Wanted:
        """Return the budget that an entry describes.

        Raises:
            Invalid: it has no limit, or fields that do not fit together.
        """
        budget = new_budget(entry.model_dump(exclude_unset=True))
        return Wanted(entry.name, position, _fields(budget), budget)

    def defaults(self, fields: Fields) -> Fields:
        """Return the defaults: the anchor depends on the period, the overdraft on the limit."""
        unit = next(unit for unit in UNITS if fields[f"limit_{unit}"] is not None)
        limit = _amount(fields[f"limit_{unit}"], unit)
        found = _fields(Budget(id="", name="", unit=unit, limit=limit, overdraft=usual_overdraft(limit)))
        found |= {f"limit_{each}": None for each in UNITS}
        found["anchor"] = ANCHORS[fields["period"]][0] if fields["period"] in ANCHORS else None
        del found["name"]
        return found

    def concerned(self, same: Sequence[Wanted], changes: Mapping[str, Sequence[Change]]) -> list[Wanted]:
        """Return the budgets that match a team or key that is removed."""
        removed = {
            name: {change.label for change in changes[section] if change.action == "remove"}
            for name, section in _NAMED.items()
        }
        return [each for each in same if any(each.fields["match"].get(name) in removed[name] for name in _NAMED)]

    def check(self, changes: Sequence[Change], final: Mapping[str, Mapping[str, Fields]]) -> Iterator[Invalid]:
        """Check that the teams and keys of the budgets that change exist."""
        for change in changes:
            if change.after is None:
                continue
            for name, section in _NAMED.items():
                glob = change.after.fields["match"].get(name, "*")
                if is_glob(glob) or self._nameless.get(change.label, {}).get(name) == glob:
                    continue
                known = {*final[section], *(self._environment if name == "key" else ())}
                sentence = self.refers_to(name, glob, known)
                if sentence is not None:
                    yield self.mistake(change.label, change.after.position, f"match.{name}: {sentence}", "match", name)

    def add(self, wanted: Wanted) -> str:
        """Store a budget."""
        return self._store.create(self._resolved(wanted.entry)).id

    def change(self, before: Stored, after: Wanted, fields: Collection[str]) -> None:
        """Change a budget. Another limit for a while stays, unless the unit is another one."""
        del fields
        budget = self._resolved(after.entry)

        def changed(found: Budget) -> Budget:
            other = (found.override_limit, found.override_until_ms) if found.unit == budget.unit else (None, 0)
            return msgspec.structs.replace(budget, id=found.id, override_limit=other[0], override_until_ms=other[1])

        self._store.update(before.id, changed)

    def remove(self, stored: Stored) -> None:
        """Delete a budget and its accounts."""
        self._store.delete(stored.id)

    def _with_names(self, match: Mapping[str, str]) -> dict[str, str]:
        """Return the match with names in the place of ids. An id without a name, or with one like a glob, stays."""
        found = dict(match)
        for name, section in _NAMED.items():
            label = self._names.label_of(section, match.get(name))
            if label is not None and not is_glob(label):
                found[name] = label
        return found

    def _resolved(self, budget: Budget) -> Budget:
        """Return the budget with ids in the place of names. Keys of the environment keep theirs."""
        match = dict(budget.match)
        for name, section in _NAMED.items():
            if name in match and not is_glob(match[name]):
                match[name] = self._names.known_id_of(section, match[name]) or match[name]
        return msgspec.structs.replace(budget, match=match)


def _fields(budget: Budget) -> Fields:
    """Return a budget as a document has it. Of limits and overdrafts, those in its unit are set."""
    found: Fields = dict.fromkeys(_FIELDS)
    found |= {name: getattr(budget, name) for name in SAME}
    found |= {"period": budget.period, "anchor": budget.anchor if budget.period in ANCHORS else None}
    found |= {"match": dict(budget.match), "notify_at": list(budget.notify_at)}
    found[f"limit_{budget.unit}"] = _shown(budget.limit, budget.unit)
    found[f"overdraft_{budget.unit}"] = _shown(budget.overdraft, budget.unit)
    return found


def _shown(amount: int, unit: Unit) -> float | str:
    """Return an amount as the API shows it. One in USD with too many digits for a number is a text."""
    shown = shown_amount(amount, unit)
    return shown if _amount(shown, unit) == amount else f"{Decimal(amount).scaleb(-MONEY_DIGITS):f}"


def _amount(shown: float | str, unit: Unit) -> int:
    return int(Decimal(str(shown)).scaleb(MONEY_DIGITS)) if unit == "usd" else int(shown)
