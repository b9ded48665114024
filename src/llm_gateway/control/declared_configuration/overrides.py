"""The section `overrides` of the configuration document."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from llm_gateway.control.declared_configuration.entries import OverrideEntry
from llm_gateway.control.declared_configuration.section import Change, Fields, Section, Stored, Wanted
from llm_gateway.errors import Invalid
from llm_gateway.store.overrides import OverrideDraft, OverrideStore
from llm_gateway.suggestions import if_meant

_FIELDS = tuple(OverrideEntry.model_fields)


class OverrideSection(Section):
    """The stored overrides, in the transaction of `store`. Their label is the customer, and the service if any."""

    name, noun, schema = "overrides", "override", OverrideEntry

    def __init__(self, store: OverrideStore) -> None:
        self._store = store

    def read(self) -> dict[str, Stored]:
        """Return the stored overrides."""
        found = {}
        for each in self._store.list():
            fields = {name: getattr(each, name) for name in _FIELDS}
            found[_label(fields)] = Stored(_label(fields), each.id, fields)
        return found

    def wanted(self, entry: OverrideEntry, position: int) -> Wanted:
        """Return the override that an entry describes."""
        fields = {name: getattr(entry, name) for name in _FIELDS}
        return Wanted(_label(fields), position, fields, entry)

    def defaults(self, fields: Fields) -> Fields:
        """Return the defaults."""
        del fields
        return {"service_name": None, "allow_fallback": True}

    def concerned(self, same: Sequence[Wanted], changes: Mapping[str, Sequence[Change]]) -> list[Wanted]:
        """Return the overrides whose provider is changed or removed."""
        touched = {change.label for change in changes["providers"]}
        return [each for each in same if each.fields["provider_name"] in touched]

    def check(self, changes: Sequence[Change], final: Mapping[str, Mapping[str, Fields]]) -> Iterator[Invalid]:
        """Check that the provider of each override that changes lists its model."""
        for change in changes:
            if change.after is None:
                continue
            name, model = change.after.fields["provider_name"], change.after.fields["model_name"]
            sentence, field = self.refers_to("provider", name, final["providers"]), "provider_name"
            if sentence is None and model not in (listed := final["providers"][name]["models"]):
                field = "model_name"
                sentence = (
                    f"the provider {name!r} does not list the model {model!r}: name one of its models, or add this "
                    f"one to them.{if_meant(model, listed)}"
                )
            if sentence is not None:
                yield self.mistake(change.label, change.after.position, sentence, field)

    def add(self, wanted: Wanted) -> str:
        """Store an override."""
        return self._store.create(OverrideDraft(**wanted.fields)).id

    def change(self, before: Stored, after: Wanted, fields: Collection[str]) -> None:
        """Change an override's provider, model or fallback."""
        del fields
        self._store.update(before.id, OverrideDraft(**after.fields))

    def remove(self, stored: Stored) -> None:
        """Delete an override."""
        self._store.delete(stored.id)


def _label(fields: Fields) -> str:
    service = fields["service_name"]
    return fields["user_id"] if service is None else f"{fields['user_id']}\0{service}"  # no name has a NUL
