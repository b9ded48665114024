"""The section `keys` of the configuration document: service keys, with the names of their team and parent.

A secret comes in as itself or as its hash, and goes out as its hash.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from llm_gateway.control.declared_configuration.entries import KeyEntry
from llm_gateway.control.declared_configuration.section import Change, Fields, Names, Section, Stored, Wanted
from llm_gateway.control.management.fields import iso
from llm_gateway.control.management.keys import shown_key
from llm_gateway.domain.key_secret import HashedSecret, is_intact, looks_like_secret, parse_hashed
from llm_gateway.domain.service_key import SCOPE_BITS
from llm_gateway.domain.stored_key import Fixed, KeySettings, StoredSecret
from llm_gateway.domain.usage import NANOS_PER_USD
from llm_gateway.errors import Invalid
from llm_gateway.store.keys import SETTINGS, KeyDraft, KeyStore

_SECRETS = ("secret", "hash")
_FIELDS = tuple(name for name in KeyEntry.model_fields if name not in _SECRETS)
_LISTS = ("customers", "services", "models")
_FAMILY = frozenset({"team", "parent"})


class KeySection(Section):
    """The stored keys, in the transaction of `store`. Those of the environment are not among them."""

    name, noun, schema, secrets = "keys", "key", KeyEntry, _SECRETS

    def __init__(self, store: KeyStore, names: Names) -> None:
        self._store = store
        self._names = names
        self._lasting: dict[str, HashedSecret] = {}
        self._owners: dict[str, str] = {}
        self._parents: dict[str, str | None] = {}

    def read(self) -> dict[str, Stored]:
        """Return the stored keys, by name. The section `teams` must have been read."""
        keys, secrets = self._store.load(self._store.ids())
        labels = {key.id: key.name for key in keys}
        last4 = {key.id: key.last4 for key in keys}
        self._owners = {each.public_id: labels[each.key_id] for each in secrets if each.key_id in labels}
        self._lasting = {
            each.key_id: _hashed(each, last4[each.key_id])
            for each in secrets
            if each.until_ms is None and each.key_id in labels
        }
        found = {}
        for key in keys:
            shown = dict(shown_key(key))
            parent = None if key.parent_id is None else labels.get(key.parent_id)
            shown |= {"team": self._names.label_of("teams", key.team_id), "parent": parent}
            shown["scopes"] = _in_order(shown["scopes"])
            found[key.name] = Stored(key.name, key.id, {name: shown[name] for name in _FIELDS})
            self._parents[key.name] = parent
        return found

    def wanted(self, entry: KeyEntry, position: int) -> Wanted:
        """Return the key that an entry describes."""
        fields = {name: getattr(entry, name) for name in _FIELDS}
        for name in _LISTS:
            value = fields[name]
            fields[name] = {"fixed": value.fixed} if isinstance(value, Fixed) else value and list(value)
        nanos = _nanos(entry.max_request_usd)
        fields["max_request_usd"] = None if nanos is None else nanos / NANOS_PER_USD
        fields["expires_at"] = None if entry.expires_at is None else iso(entry.expires_at)
        fields["scopes"] = _in_order(entry.scopes)
        return Wanted(entry.name, position, fields, entry)

    def defaults(self, fields: Fields) -> Fields:
        """Return the defaults."""
        del fields
        return {name: field.default for name, field in KeyEntry.model_fields.items() if name != "name"}

    def changed_secrets(self, before: Stored, after: Wanted) -> tuple[str, ...]:
        """Compare the secret, or its hash, with the stored hash."""
        lasting, entry = self._lasting.get(before.id), after.entry
        if entry.secret is None and entry.hash is None:
            return ()
        if lasting is not None and entry.hash is not None and entry.secret is None:
            return () if parse_hashed(entry.hash) == lasting else ("hash",)
        if lasting is not None and self._store.hashed(entry.secret, lasting.pepper) == lasting:
            return ()
        return ("secret",)

    def written_secrets(self, stored: Stored) -> Fields:
        """Return the hash of the secret that does not end."""
        lasting = self._lasting.get(stored.id)
        return {} if lasting is None else {"hash": lasting.text}

    def concerned(self, same: Sequence[Wanted], changes: Mapping[str, Sequence[Change]]) -> list[Wanted]:
        """Return the keys whose team or parent is removed."""
        teams, keys = (
            {change.label for change in changes[section] if change.action == "remove"} for section in ("teams", "keys")
        )
        return [each for each in same if each.fields["team"] in teams or each.fields["parent"] in keys]

    def check(self, changes: Sequence[Change], final: Mapping[str, Mapping[str, Fields]]) -> Iterator[Invalid]:
        """Check scopes, secrets, teams and parents of the keys that change."""
        removed = {change.label for change in changes if change.action == "remove"}
        owners = {found: label for found, label in self._owners.items() if label not in removed}
        for change in changes:
            after = change.after
            if after is None:
                continue
            problems = (
                _scope_problem(after.entry),
                self._secret_problem(change, after, owners),
                self._team_problem(after, final),
                self._parent_problem(after, final["keys"]),
            )
            for problem in problems:
                if problem is not None:
                    yield self.mistake(change.label, after.position, problem[1], problem[0])

    def _team_problem(self, after: Wanted, final: Mapping[str, Mapping[str, Fields]]) -> tuple[str, str] | None:
        team = after.fields["team"]
        sentence = None if team is None else self.refers_to("team", team, final["teams"])
        return None if sentence is None else ("team", sentence)

    def _parent_problem(self, after: Wanted, keys: Mapping[str, Fields]) -> tuple[str, str] | None:
        parent, line = after.fields["parent"], [after.label]
        if parent is None:
            return None
        sentence = self.refers_to("key", parent, keys)
        if sentence is not None:
            return "parent", sentence
        while parent is not None and parent in keys:
            line.append(parent)
            if parent == after.label:
                circle = " → ".join(map(repr, line))
                return "parent", f"its parents lead back to itself ({circle}): give one of them another parent."
            if line.count(parent) > 1:  # a circle above this key, which is reported at its own keys
                return None
            parent = keys[parent]["parent"]
        return None

    def _secret_problem(self, change: Change, after: Wanted, owners: dict[str, str]) -> tuple[str, str] | None:
        """Return the field and the sentence of a mistake. Adds the secret to `owners`, by its public id."""
        entry = after.entry
        if entry.secret is None and entry.hash is None:
            if change.before is not None:
                return None
            return "secret", (
                "a new key needs a secret or a hash: make a secret with `llm-gateway keys new --secret`, or use "
                "`llm-gateway keys add`."
            )
        if entry.secret is not None and entry.hash is not None:
            return "hash", "secret and hash say the same: give one of them."
        field = "secret" if entry.hash is None else "hash"
        secret = _given(self._store, entry)
        if isinstance(secret, str):
            return field, secret
        if owners.setdefault(secret.public_id, change.label) != change.label:
            return field, f"it is that of the key {owners[secret.public_id]!r}, too: give each key a secret of its own."
        if self._store.hashed("", secret.pepper).digest == b"":
            return field, (
                f"the hash is made with the pepper {secret.pepper}, which this gateway does not have: bring the pepper "
                "along (LLM_GATEWAY_KEY_PEPPERS), or give the secret."
            )
        return None

    def loosen(self, changes: Sequence[Change]) -> None:
        """Take keys from teams and parents that they leave, so that these can be removed, or become their children."""
        self._store.detach([change.before.id for change in changes if change.before and _FAMILY & set(change.fields)])

    def removals(self, changes: Sequence[Change]) -> Sequence[Change]:
        """Return the removals, children before their parents."""
        return sorted(super().removals(changes), key=lambda change: -_depth(change.label, self._parents))

    def additions(self, changes: Sequence[Change]) -> Sequence[Change]:
        """Return the other changes, parents before their children."""
        parents = dict(self._parents)
        parents.update({each.label: each.after.fields["parent"] for each in changes if each.after is not None})
        return sorted(super().additions(changes), key=lambda change: _depth(change.label, parents))

    def add(self, wanted: Wanted) -> str:
        """Store a key."""
        values = self._values(wanted, _FIELDS)
        settings = KeySettings(**{name: values.pop(name) for name in SETTINGS})
        secret = _given(self._store, wanted.entry)
        assert isinstance(secret, HashedSecret)  # noqa: S101 - checked
        return self._store.create_with(KeyDraft(settings=settings, **values), secret).id

    def change(self, before: Stored, after: Wanted, fields: Collection[str]) -> None:
        """Change these fields of a key."""
        named = set(fields) - set(_SECRETS)
        if _FAMILY & named:
            named |= _FAMILY  # both were taken from it
        if named:
            self._store.update(before.id, self._values(after, named))
        if set(fields) & set(_SECRETS):
            secret = _given(self._store, after.entry)
            assert isinstance(secret, HashedSecret)  # noqa: S101 - checked
            self._store.replace_secret(before.id, secret)

    def remove(self, stored: Stored) -> None:
        """Delete a key that is no other key's parent."""
        self._store.delete(stored.id)

    def _values(self, wanted: Wanted, fields: Collection[str]) -> dict[str, Any]:
        """Return fields as the store names and types them."""
        values: dict[str, Any] = {name: getattr(wanted.entry, name) for name in fields}
        if "scopes" in values:
            values["scopes"] = tuple(wanted.fields["scopes"])
        if "max_request_usd" in values:
            values["max_request_nanos"] = _nanos(values.pop("max_request_usd"))
        if "expires_at" in values:
            values["expires_at_ms"] = values.pop("expires_at")
        if "team" in values:
            values["team_id"] = self._names.id_of("teams", values.pop("team"))
        if "parent" in values:
            values["parent_id"] = self._names.id_of("keys", values.pop("parent"))
        return values


def _hashed(secret: StoredSecret, last4: str) -> HashedSecret:
    return HashedSecret(secret.public_id, last4, secret.pepper, secret.digest)


def _given(store: KeyStore, entry: KeyEntry) -> HashedSecret | str:
    """Return the secret of an entry, or the sentence that says why it has none."""
    if entry.secret is not None:
        if entry.secret.startswith(("${", "file:")):
            return "secret is a reference, which `llm-gateway apply` replaces before it sends the document."
        if not (looks_like_secret(entry.secret) and is_intact(entry.secret.encode())):
            return "secret is not a whole secret of a key (gw_…): make one with `llm-gateway keys new --secret`."
        return store.hashed(entry.secret)
    return parse_hashed(entry.hash or "") or (
        "hash is not one that this gateway wrote (public id, last 4 characters, pepper and hash, separated by colons): "
        "take it from `llm-gateway export`."
    )


def _scope_problem(entry: KeyEntry) -> tuple[str, str] | None:
    if len(set(entry.scopes)) == len(entry.scopes):
        return None
    return "scopes", "scopes names one twice: name each once."


def _in_order(scopes: Collection[str]) -> list[str]:
    return sorted(scopes, key=lambda scope: SCOPE_BITS.get(scope, 0))


def _nanos(usd: float | None) -> int | None:
    return None if usd is None else max(1, round(usd * NANOS_PER_USD))


def _depth(label: str, parents: Mapping[str, str | None]) -> int:
    """Return how many parents a key has, one above the other."""
    depth, parent = 0, parents.get(label)
    while parent is not None and depth <= len(parents):
        depth, parent = depth + 1, parents.get(parent)
    return depth
