"""Further names of models: names and globs that providers map to their models, resolved once for each name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import NamedTuple, TypeAlias

from llm_gateway.domain.catalog import Candidate, Provider, ResolvedModel, Tiers

WILDCARD = "*"
"""Stands for any characters, also for none. No other character of a glob is special."""
MAX_NAME, MAX_REMEMBERED = 256, 1024
"""Characters of a name that globs are compared with, and resolved names that a table remembers."""

Specificity: TypeAlias = tuple[int, int, int]
EXACT: Specificity = (0, 0, 0)
"""Rank of a model's own name, before that of every alias."""


def is_glob(alias: str) -> bool:
    """Return whether an alias stands for more than one name."""
    return WILDCARD in alias


def matches(glob: str, name: str) -> bool:
    """Return whether `name` matches `glob`. Case counts. The time is at most proportional to the product of lengths.

    >>> matches("claude-*-haiku*", "claude-3-5-haiku-latest")
    True
    """
    first, *others = glob.split(WILDCARD)
    if not others:
        return name == glob
    *middle, last = others
    if len(name) < len(first) + len(last) or not name.startswith(first) or not name.endswith(last):
        return False
    place, end = len(first), len(name) - len(last)
    for piece in middle:
        place = name.find(piece, place, end)
        if place < 0:
            return False
        place += len(piece)
    return True


def specificity(alias: str) -> Specificity:
    """Return a sort key: plain names come before globs, then those with more literal characters and fewer wildcards."""
    wildcards = alias.count(WILDCARD)
    return (1 if wildcards == 0 else 2, wildcards - len(alias), wildcards)


class _Rule(NamedTuple):
    alias: str
    rank: Specificity
    candidate: Candidate


class AliasTable(dict[str, ResolvedModel | None]):
    """The aliases of the enabled providers of one snapshot, and the model names that were resolved with them.

    A name leads to the providers that list it, then to those with a matching alias: the most specific alias first,
    then by priority. `provider/alias` leads to that provider alone, whatever others list, unless it lists a model of
    that very name itself. Each provider has at most one candidate. A name is compared with the aliases when it is first
    used; `MAX_REMEMBERED` names are remembered, also those that lead nowhere, since names come from clients.
    `table[name]` is one lookup in C for a remembered name.
    """

    def __init__(
        self, enabled: Iterable[Provider], tiers_by_model: Mapping[str, Tiers], pinned: frozenset[str]
    ) -> None:
        super().__init__()
        self._tiers_by_model = tiers_by_model
        self._pinned = pinned
        self._rules: dict[str, list[_Rule]] = {p.name: _rules(p) for p in enabled if p.model_aliases}

    def names(self) -> list[str]:
        """Return all aliases, sorted, without repetition."""
        return sorted({rule.alias for rules in self._rules.values() for rule in rules})

    def __missing__(self, name: str) -> ResolvedModel | None:
        """Resolve a name that is not remembered."""
        if len(name) > MAX_NAME:
            exact = self._tiers_by_model.get(name)
            return None if exact is None else ResolvedModel(exact, name in self._pinned)
        found = self._look_up(name)
        if len(self) >= MAX_REMEMBERED:
            del self[next(iter(self))]
        self[name] = found
        return found

    def _look_up(self, name: str) -> ResolvedModel | None:
        exact = self._tiers_by_model.get(name, ())
        if name in self._pinned:
            return ResolvedModel(exact, is_pinned=True)
        provider, _, alias = name.partition("/")
        listing = {candidate.provider.name for tier in exact for candidate in tier}
        pinned = None if provider in listing else _best(self._rules.get(provider, ()), alias)
        if pinned is not None:
            return ResolvedModel(((pinned.candidate,),), is_pinned=True)
        found = [_best(rules, name) for provider, rules in self._rules.items() if provider not in listing]
        tiers = exact + _tiers([rule for rule in found if rule is not None])
        return ResolvedModel(tiers, is_pinned=False) if tiers else None


def _rules(provider: Provider) -> list[_Rule]:
    """Return a provider's aliases, the most specific first. An alias of a model that it does not list is left out."""
    rules = [
        _Rule(alias, specificity(alias), Candidate.of(provider, model))
        for alias, model in (provider.model_aliases or {}).items()
        if model in provider.models
    ]
    return sorted(rules, key=lambda rule: (rule.rank, rule.alias))


def _best(rules: Iterable[_Rule], name: str) -> _Rule | None:
    return next((rule for rule in rules if matches(rule.alias, name)), None)


def _tiers(rules: list[_Rule]) -> Tiers:
    """Group candidates by the rank of their alias and by priority."""
    ordered = sorted(rules, key=lambda rule: (*_tier_of(rule), rule.candidate.provider.name))
    return tuple(tuple(rule.candidate for rule in tier) for _, tier in groupby(ordered, key=_tier_of))


def _tier_of(rule: _Rule) -> tuple[Specificity, int]:
    return rule.rank, -rule.candidate.provider.priority
