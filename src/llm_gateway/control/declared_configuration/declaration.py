"""Compare a configuration document with what is stored, and carry out the differences in one transaction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeAlias

from llm_gateway.control.declared_configuration.document import WantedSections, wanted_of
from llm_gateway.control.declared_configuration.section import (
    Change,
    Fields,
    Names,
    Section,
    Stored,
    Wanted,
    differing,
)
from llm_gateway.control.declared_configuration.sections import SECTIONS, ConfigurationStores
from llm_gateway.error_format.validation import MOST_ERRORS
from llm_gateway.errors import Conflict, Invalid
from llm_gateway.store.database import Database
from llm_gateway.store.one_transaction import OneTransaction, configuration_version, lock_configuration

StoredSections: TypeAlias = dict[str, dict[str, Stored]]

MOST_CHANGES = 1000
"""Changes of a document at most: other writers wait for their transaction, some 3 ms each."""
MOST_TRIES = 3
"""How often a plan is made anew if somebody else changes the configuration meanwhile."""
CHANGED_SINCE = "The configuration has changed since this plan was made, so that nothing was applied: make a new plan."


class Plan(NamedTuple):
    """Changes by section, the labels of what the document does not have and what stays, and the count of the rest."""

    changes: dict[str, list[Change]]
    unlisted: dict[str, list[str]]
    unchanged: int

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to change."""
        return not any(self.changes.values())


class Outcome(NamedTuple):
    """A plan, and the version of the configuration: before it in a dry run, else after it."""

    plan: Plan
    version: str


class _Opened(NamedTuple):
    """The sections in a transaction, and what is stored in each, by label."""

    sections: list[Section]
    stored: StoredSections
    names: Names


class _DryRun(Exception):
    """Rolls a dry run back, and brings its outcome."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__()
        self.outcome = outcome


class Declaration:
    """The stored configuration as one document.

    `reload` is called after a change, when it is stored; it returns once the change is in force.
    """

    def __init__(self, database: Database, stores: ConfigurationStores, reload: Callable[[], object]) -> None:
        self._database = database
        self._stores = stores
        self._reload = reload

    def document(self) -> tuple[dict[str, list[Fields]], str]:
        """Return what is stored as a document without secrets, and its version. Fields at their defaults are absent."""
        with self._database.read() as connection:
            version = configuration_version(connection)
            opened = self._open(OneTransaction(connection))
            document = {
                section.name: [_written(section, each) for each in opened.stored[section.name].values()]
                for section in opened.sections
            }
        return document, version

    def apply(
        self, document: Mapping[str, Any], *, dry_run: bool = False, prune: bool = False, version: str | None = None
    ) -> Outcome:
        """Make the stored configuration what `document` says, or only find out how.

        Args:
            document: entries by section. A stored entry that a section lacks stays, unless `prune` is given;
                sections that are absent stay as they are.
            dry_run: carry everything out and undo it, so that all errors are found.
            prune: remove what the sections of the document do not have.
            version: of the configuration for which a plan was made; None for any.

        Raises:
            Invalid: the document is not valid, or cannot be carried out; nothing has changed.
            Conflict: the configuration is not that of `version`, or changes all the time; nothing has changed.
        """
        outcome = None
        for _ in range(MOST_TRIES):
            with self._database.read() as connection:
                found = configuration_version(connection)
                if version not in (None, found):
                    break
                opened = self._open(OneTransaction(connection))
                wanted = wanted_of(document, opened.sections)
                plan = _plan(opened, wanted, prune=prune)
            _check(opened, wanted, plan)  # it looks hosts up, which no transaction should wait for
            if plan.is_empty:
                return Outcome(plan, found)
            outcome = self._carried_out(wanted, found, prune=prune, dry_run=dry_run)
            if outcome is not None:
                return outcome
        raise Conflict(CHANGED_SINCE)

    def _carried_out(self, wanted: WantedSections, version: str, *, prune: bool, dry_run: bool) -> Outcome | None:
        """Write the differences. Returns None if the configuration has changed since it was checked."""
        try:
            with self._database.write() as connection:
                lock_configuration(connection)
                if configuration_version(connection) != version:
                    return None
                opened = self._open(OneTransaction(connection))
                plan = _plan(opened, wanted, prune=prune)
                _write_all(opened, plan)
                if dry_run:
                    raise _DryRun(Outcome(plan, version))
                outcome = Outcome(plan, configuration_version(connection))
        except _DryRun as undone:
            return undone.outcome
        self._reload()
        return outcome

    def _open(self, transaction: OneTransaction) -> _Opened:
        names = Names()
        sections, stored = [], {}
        for _, open_section in SECTIONS:
            section = open_section(self._stores, transaction, names)
            found = stored[section.name] = section.read()
            names.learn(section.name, {label: each.id for label, each in found.items()})
            sections.append(section)
        return _Opened(sections, stored, names)


def _plan(opened: _Opened, wanted: WantedSections, *, prune: bool) -> Plan:
    plan = Plan({}, {}, 0)
    unchanged = 0
    for section in opened.sections:
        stored, own = opened.stored[section.name], wanted.get(section.name)
        changes = plan.changes[section.name] = []
        if own is None:
            continue
        for label, entry in own.items():
            before = stored.get(label)
            if before is None:
                changes.append(Change("add", label, None, entry, _given(section, entry)))
            elif fields := (*differing(before.fields, entry.fields), *section.changed_secrets(before, entry)):
                changes.append(Change("change", label, before, entry, fields))
            else:
                unchanged += 1
        others = [each for label, each in stored.items() if label not in own]
        if prune:
            changes += [Change("remove", each.label, each, None) for each in others]
        elif others:
            plan.unlisted[section.name] = [each.label for each in others]
    return plan._replace(unchanged=unchanged)


def _given(section: Section, entry: Wanted) -> tuple[str, ...]:
    """Return the names of a new entry's fields that are not at their defaults, and of its secrets."""
    defaults = section.defaults(entry.fields)
    names = [name for name, value in entry.fields.items() if name in defaults and value != defaults[name]]
    required = [name for name in entry.fields if name not in defaults and name != "name"]
    secrets = [name for name in section.secrets if getattr(entry.entry, name) is not None]
    return (*required, *names, *secrets)


def _check(opened: _Opened, wanted: WantedSections, plan: Plan) -> None:
    """Check the entries that change, and overrides and keys that refer to what changes.

    Raises:
        Invalid: some cannot be carried out; the error lists up to 20 mistakes.
    """
    count = sum(map(len, plan.changes.values()))
    if count > MOST_CHANGES:
        raise Invalid(
            f"The document changes {count:,} entries, more than {MOST_CHANGES:,} at once: apply a part of it first.",
            loc=("body", "document"),
        )
    final = {
        section.name: _final(opened.stored[section.name], wanted.get(section.name, {}), plan.changes[section.name])
        for section in opened.sections
    }
    mistakes: list[Invalid] = []
    for section in opened.sections:
        changes = plan.changes[section.name]
        changed = {change.label for change in changes}
        same = [each for label, each in wanted.get(section.name, {}).items() if label not in changed]
        concerned = [
            Change("change", each.label, opened.stored[section.name][each.label], each)
            for each in section.concerned(same, plan.changes)
        ]
        mistakes += section.check([*changes, *concerned], final)
    if mistakes:
        raise Invalid.all_of(mistakes[:MOST_ERRORS])


def _final(stored: Mapping[str, Stored], wanted: Mapping[str, Wanted], changes: list[Change]) -> dict[str, Fields]:
    """Return the fields of a section as they are when all is carried out, by label."""
    removed = {change.label for change in changes if change.action == "remove"}
    fields = {label: each.fields for label, each in stored.items() if label not in removed}
    return fields | {label: each.fields for label, each in wanted.items()}


def _write_all(opened: _Opened, plan: Plan) -> None:
    for section in opened.sections:
        section.loosen(plan.changes[section.name])
    for section in reversed(opened.sections):
        for change in section.removals(plan.changes[section.name]):
            with _placed(section, change):
                _write(section, change, opened.names)
    for section in opened.sections:
        for change in section.additions(plan.changes[section.name]):
            with _placed(section, change):
                _write(section, change, opened.names)


def _write(section: Section, change: Change, names: Names) -> None:
    if change.after is None:
        if change.before is not None:
            section.remove(change.before)
    elif change.before is None:
        names.add(section.name, change.label, section.add(change.after))
    else:
        section.change(change.before, change.after, change.fields)


@contextmanager
def _placed(section: Section, change: Change) -> Iterator[None]:
    """Name the place in the document in an error of a store."""
    try:
        yield
    except (Invalid, Conflict) as error:
        sentence = f"{error.detail[0].lower()}{error.detail[1:]}" if error.detail[1:2].islower() else error.detail
        raise section.mistake(change.label, None if change.after is None else change.after.position, sentence) from None


def _written(section: Section, stored: Stored) -> Fields:
    """Return an entry of a written document."""
    defaults = section.defaults(stored.fields)
    fields = {name: value for name, value in stored.fields.items() if name not in defaults or value != defaults[name]}
    return fields | section.written_secrets(stored)
