"""Contract of a section of the configuration document, such as `providers`, and the values that it exchanges.

A section reads what is stored, says what an entry of the document wants, and carries out the differences:

    stored = section.read()                  # by label
    wanted = section.wanted(entry, 0)
    section.changed(stored[wanted.label], wanted)   # names of the fields that differ
    section.add(wanted)                      # or change, or remove

All of it happens in one transaction. `sections.py` has the table of sections.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

from pydantic import BaseModel

from llm_gateway.errors import Invalid
from llm_gateway.suggestions import if_meant

Fields: TypeAlias = dict[str, Any]
Action: TypeAlias = Literal["add", "change", "remove"]


class Stored(NamedTuple):
    """Something stored: its fields as a document has them, without secrets. `label` names it within its section."""

    label: str
    id: str
    fields: Fields


class Wanted(NamedTuple):
    """An entry of the document: all its fields with their defaults, without secrets. `position` counts from 0."""

    label: str
    position: int
    fields: Fields
    entry: Any


class Change(NamedTuple):
    """A difference between the document and what is stored. `fields` are the names of those that differ."""

    action: Action
    label: str
    before: Stored | None
    after: Wanted | None
    fields: tuple[str, ...] = ()


class Names:
    """Ids by label of all that each section has while a document is applied: sections refer to others by label."""

    def __init__(self) -> None:
        self._ids: dict[str, dict[str, str]] = {}
        self._labels: dict[str, dict[str, str]] = {}

    def learn(self, section: str, ids: Mapping[str, str]) -> None:
        """Replace the ids of a section."""
        self._ids[section] = dict(ids)
        self._labels[section] = {found: label for label, found in ids.items()}

    def add(self, section: str, label: str, found: str) -> None:
        """Add the id of something just stored."""
        self._ids[section][label] = found

    def id_of(self, section: str, label: str | None) -> str | None:
        """Return an id, None for no label."""
        return None if label is None else self._ids[section][label]

    def known_id_of(self, section: str, label: str) -> str | None:
        """Return the id of the entry with this label, None if no entry has it."""
        return self._ids[section].get(label)

    def label_of(self, section: str, found: str | None) -> str | None:
        """Return the label of the entry with this id, None if no entry has it."""
        return None if found is None else self._labels[section].get(found)


class Section:
    """A section of the document. Subclasses set the names and the schema, and override what raises here."""

    name: ClassVar[str]
    noun: ClassVar[str]
    schema: ClassVar[type[BaseModel]]
    secrets: ClassVar[tuple[str, ...]] = ()
    """Fields with secrets, which are in no document that the gateway writes."""

    def read(self) -> dict[str, Stored]:
        """Return what is stored, by label."""
        raise NotImplementedError

    def wanted(self, entry: Any, position: int) -> Wanted:
        """Return what a validated entry wants.

        Raises:
            Invalid: its fields do not fit together.
        """
        raise NotImplementedError

    def defaults(self, fields: Fields) -> Fields:
        """Return the default of each field that has one, which a written document can leave out."""
        raise NotImplementedError

    def changed_secrets(self, before: Stored, after: Wanted) -> tuple[str, ...]:
        """Return the names of the secret fields whose value differs from what is stored."""
        del before, after
        return ()

    def written_secrets(self, stored: Stored) -> Fields:
        """Return fields for a written document that stand for secrets without revealing them."""
        del stored
        return {}

    def check(self, changes: Sequence[Change], final: Mapping[str, Mapping[str, Fields]]) -> Iterator[Invalid]:
        """Yield the mistakes of the entries that change. `final` has the fields of all sections, by label."""
        del changes, final
        return iter(())

    def concerned(self, same: Sequence[Wanted], changes: Mapping[str, Sequence[Change]]) -> list[Wanted]:
        """Return those entries that stay the same but must be checked, since what they refer to changes."""
        del same, changes
        return []

    def loosen(self, changes: Sequence[Change]) -> None:
        """Undo references between what is stored that would be in the way of the changes. They are restored later."""

    def removals(self, changes: Sequence[Change]) -> Sequence[Change]:
        """Return the removals in an order in which they are possible."""
        return [change for change in changes if change.action == "remove"]

    def additions(self, changes: Sequence[Change]) -> Sequence[Change]:
        """Return the other changes in an order in which they are possible."""
        return [change for change in changes if change.action != "remove"]

    def add(self, wanted: Wanted) -> str:
        """Store an entry. Returns its id."""
        raise NotImplementedError

    def change(self, before: Stored, after: Wanted, fields: Collection[str]) -> None:
        """Change these fields of what is stored."""
        raise NotImplementedError

    def remove(self, stored: Stored) -> None:
        """Delete what is stored."""
        raise NotImplementedError

    def mistake(self, label: str, position: int | None, sentence: str, *path: str) -> Invalid:
        """Return an error with its place in the document: `path` leads from the entry to the field."""
        loc: tuple[str | int, ...] = ("body", "document", self.name)
        loc += () if position is None else (position,)
        return Invalid(f"{self.name} {shown_label(label)}: {sentence}", loc=(*loc, *path))

    def refers_to(self, other: str, label: str, known: Collection[str]) -> str | None:
        """Return the sentence for a reference to something that neither the document nor the gateway has."""
        if label in known:
            return None
        return f"there is no {other} named {label!r}: add it to the document, or name another.{if_meant(label, known)}"


def shown_label(label: str) -> str:
    """Return a label as messages quote it. That of an override has a service behind a NUL."""
    customer, _, service = label.partition("\0")
    return f"{customer!r} of service {service!r}" if service else repr(customer)


def differing(before: Fields, after: Fields) -> tuple[str, ...]:
    """Return the names of the fields that differ, in the order of the document."""
    return tuple(name for name, value in after.items() if before.get(name) != value)
