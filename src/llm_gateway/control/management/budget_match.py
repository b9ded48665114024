"""Replace names of keys and teams in a budget's match by ids, and warn if nothing matches today."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from llm_gateway.control.management.keys import EnvironmentKeys
from llm_gateway.domain.catalog import Snapshot
from llm_gateway.domain.model_aliases import is_glob, matches
from llm_gateway.store.teams import TeamStore

WORDS = {"key": "key has this name or id", "team": "team has this name or id"}


class MatchCheck:
    """Looks up what the globs of budgets match. `snapshot` returns the configuration in force."""

    def __init__(self, teams: TeamStore, environment: EnvironmentKeys, snapshot: Callable[[], Snapshot]) -> None:
        self._teams = teams
        self._environment = environment
        self._snapshot = snapshot

    def resolved(self, match: dict[str, str]) -> dict[str, str]:
        """Return the match with the ids of a key and a team in the place of their names.

        So they may be renamed. Keys of the environment have their name in records, and keep it.
        """
        found = dict(match)
        name = match.get("team", "*")
        if not is_glob(name):
            found |= [("team", team.id) for team in self._teams.list(name=name, limit=1)]
        key = match.get("key", "*")
        if not is_glob(key):
            own = self._environment.find(key)
            ids = {each.name: each.id for each in self._snapshot().service_keys.values()}
            found["key"] = own.name if own is not None else ids.get(key, key)
        return found

    def warnings(self, match: dict[str, str]) -> list[str]:
        """Return a sentence for each glob that matches nothing of the configuration in force."""
        checks = {"key": self._keys, "team": self._team_ids, "model": self._models, "provider": self._providers}
        return [
            f"match.{name}: no {WORDS.get(name, 'enabled provider has it' if name == 'model' else 'provider has it')} "
            "today, so no request matches."
            for name, glob in match.items()
            if name in checks and not _is_matched(glob, checks[name]())
        ]

    def _keys(self) -> Iterator[str]:
        yield from (key.name for key in self._environment.by_id.values())
        yield from (key.id for key in self._snapshot().service_keys.values())

    def _team_ids(self) -> Iterator[str]:
        last = ""
        while page := self._teams.list(after=last, limit=500):
            yield from (team.id for team in page)
            last = page[-1].id

    def _models(self) -> Iterator[str]:
        for provider in self._snapshot().providers.values():
            if provider.is_enabled:
                yield from provider.models

    def _providers(self) -> Iterator[str]:
        yield from self._snapshot().providers


def _is_matched(glob: str, names: Iterable[str]) -> bool:
    return any(matches(glob, name) for name in names)
