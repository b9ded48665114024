"""The section `alert_targets` of the configuration document. URLs, secrets and passwords are write-only."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import msgspec
from pydantic import SecretStr

from llm_gateway.control.declared_configuration.entries import AlertTargetEntry
from llm_gateway.control.declared_configuration.section import Change, Fields, Section, Stored, Wanted
from llm_gateway.control.management.alert_target_rules import (
    COMMON,
    OF_KIND,
    change_target,
    check_address,
    check_fields,
    new_target,
)
from llm_gateway.control.management.alert_target_schemas import mailbox_fields
from llm_gateway.domain.alert_target import PORTS, AlertSecret, AlertTarget
from llm_gateway.errors import ConfigurationError, Invalid
from llm_gateway.store.alert_targets import AlertTargetStore
from llm_gateway.upstream.egress import Egress

SECRETS = ("url", "secret", "password")
_FIRST = ("name", "kind", "events", "is_enabled")
_FIELDS = (*_FIRST, *(name for name in AlertTargetEntry.model_fields if name not in (*_FIRST, *SECRETS)))


class AlertTargetSection(Section):
    """The stored targets, in the transaction of `store`. `egress` decides which addresses may be called."""

    name, noun, schema, secrets = "alert_targets", "alert target", AlertTargetEntry, SECRETS

    def __init__(self, store: AlertTargetStore, egress: Egress) -> None:
        self._store = store
        self._egress = egress
        self._targets: dict[str, AlertTarget] = {}
        self._secrets: dict[str, AlertSecret | None] = {}

    def read(self) -> dict[str, Stored]:
        """Return the stored targets, by name."""
        self._targets = {target.name: target for target in self._store.list()}
        self._secrets = {name: self._secret(target.id) for name, target in self._targets.items()}
        return {name: Stored(name, target.id, _shown(target)) for name, target in self._targets.items()}

    def wanted(self, entry: AlertTargetEntry, position: int) -> Wanted:
        """Return the target that an entry describes.

        Raises:
            Invalid: it has fields that its kind has not, or lacks one.
        """
        fields = {name: getattr(entry, name) for name in _FIELDS}
        check_fields(entry.kind, {**fields, **_secrets_of(entry)}, optional=SECRETS)
        if entry.kind == "email":
            fields["security"] = entry.security or "starttls"
            fields["port"] = entry.port or PORTS[fields["security"]]
        return Wanted(entry.name, position, fields, entry)

    def defaults(self, fields: Fields) -> Fields:
        """Return the defaults: that of the port depends on the connection."""
        found: Fields = {name: None for name in _FIELDS if name not in ("name", "kind")}
        found |= {"events": ["*"], "is_enabled": True}
        if fields["kind"] == "email":
            found |= {"security": "starttls", "port": PORTS[fields["security"]]}
            del found["host"], found["sender"], found["recipients"]
        return found

    def changed_secrets(self, before: Stored, after: Wanted) -> tuple[str, ...]:
        """Compare the secrets with the stored ones. Those that cannot be decrypted count as different."""
        stored = self._secrets[before.label] or AlertSecret()
        return tuple(name for name, value in _secrets_of(after.entry).items() if getattr(stored, name) != value)

    def written_secrets(self, stored: Stored) -> Fields:
        """Return null for each secret that is stored."""
        target = self._targets[stored.label]
        if target.mailbox is None:
            return {"url": None, "secret": None} if target.has_secret else {"url": None}
        return {"password": None} if target.has_secret else {}

    def _secret(self, target_id: str) -> AlertSecret | None:
        """Return the secrets of a target, None if no encryption key decrypts them."""
        try:
            return self._store.unseal(target_id)
        except ConfigurationError:
            return None

    def check(self, changes: Sequence[Change], final: Mapping[str, Mapping[str, Fields]]) -> Iterator[Invalid]:
        """Check each target that changes as the API does."""
        del final
        for change in changes:
            if change.after is None:
                continue
            try:
                self._check(change, change.after)
            except Invalid as error:
                yield self.mistake(change.label, change.after.position, error.detail, *error.path)

    def _check(self, change: Change, after: Wanted) -> None:
        if change.before is None:
            target, secret = _made(after)
        else:
            if "kind" in change.fields:
                raise Invalid(
                    "kind stays as it is: give the other target another name, or remove this one first.",
                    loc=("body", "kind"),
                )
            stored = self._secrets[change.label]
            if stored is None:
                raise Invalid("its stored secrets cannot be decrypted: remove the target, then add it again.")
            target, secret = _changed(self._targets[change.label], stored, after)
        if change.before is None or not {*change.fields} <= COMMON:
            check_address(target, secret, self._egress)

    def add(self, wanted: Wanted) -> str:
        """Store a target."""
        return self._store.create(*_made(wanted)).id

    def change(self, before: Stored, after: Wanted, fields: Collection[str]) -> None:
        """Change a target. Secrets that the entry does not have stay."""
        del fields
        self._store.update(before.id, lambda target, secret: _changed(target, secret, after))

    def remove(self, stored: Stored) -> None:
        """Delete a target, and what waits for it."""
        self._store.delete(stored.id)


def _made(wanted: Wanted) -> tuple[AlertTarget, AlertSecret]:
    return new_target({**dict.fromkeys(SECRETS), **wanted.fields, **_secrets_of(wanted.entry)})


def _changed(target: AlertTarget, secret: AlertSecret, after: Wanted) -> tuple[AlertTarget, AlertSecret]:
    """Return a target and its secrets as an entry describes them. Without a user there is no password."""
    own = {name: value for name, value in after.fields.items() if name in COMMON | OF_KIND[target.kind]}
    changes: dict[str, Any] = own | _secrets_of(after.entry)
    if target.mailbox is not None and after.fields["user"] is None:
        changes.setdefault("password", None)
    return change_target(target, secret, changes)


def _secrets_of(entry: AlertTargetEntry) -> dict[str, str]:
    """Return the secrets that an entry has."""
    given = ((name, getattr(entry, name)) for name in SECRETS)
    return {name: value.get_secret_value() for name, value in given if isinstance(value, SecretStr)}


def _shown(target: AlertTarget) -> Fields:
    fields: Fields = {**msgspec.structs.asdict(target), "events": list(target.events), **mailbox_fields(target)}
    fields["host"] = None if target.mailbox is None else target.mailbox.host
    return {name: fields[name] for name in _FIELDS}
