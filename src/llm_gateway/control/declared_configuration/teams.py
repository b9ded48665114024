"""The section `teams` of the configuration document."""

from __future__ import annotations

from collections.abc import Collection

from llm_gateway.control.declared_configuration.entries import TeamEntry
from llm_gateway.control.declared_configuration.section import Fields, Section, Stored, Wanted
from llm_gateway.store.teams import TeamStore

ALL = 2**31


class TeamSection(Section):
    """The stored teams, in the transaction of `store`."""

    name, noun, schema = "teams", "team", TeamEntry

    def __init__(self, store: TeamStore) -> None:
        self._store = store

    def read(self) -> dict[str, Stored]:
        """Return the stored teams, by name."""
        return {
            each.name: Stored(each.name, each.id, {"name": each.name, "description": each.description})
            for each in self._store.list(limit=ALL)
        }

    def wanted(self, entry: TeamEntry, position: int) -> Wanted:
        """Return the team that an entry describes."""
        return Wanted(entry.name, position, {"name": entry.name, "description": entry.description}, entry)

    def defaults(self, fields: Fields) -> Fields:
        """Return the defaults."""
        del fields
        return {"description": ""}

    def add(self, wanted: Wanted) -> str:
        """Store a team."""
        return self._store.create(wanted.label, wanted.fields["description"]).id

    def change(self, before: Stored, after: Wanted, fields: Collection[str]) -> None:
        """Change a team's description."""
        self._store.update(before.id, {name: after.fields[name] for name in fields})

    def remove(self, stored: Stored) -> None:
        """Delete a team that has no keys."""
        self._store.delete(stored.id)
