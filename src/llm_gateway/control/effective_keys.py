"""Service keys in force: the fields of each narrowed by those of its parents, as workers get them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from llm_gateway.domain.conversation import REASONING_EFFORTS
from llm_gateway.domain.service_key import (
    FOR_EVER,
    SCOPE_BITS,
    AllowLists,
    KeyLimit,
    KeyRights,
    ServiceKey,
    ServiceKeys,
)
from llm_gateway.domain.stored_key import Allowed, Fixed, StoredKey, StoredSecret
from llm_gateway.store.keys import KeyStore
from llm_gateway.store.row_versions import RowVersions
from llm_gateway.store.tables import api_keys

NO_RIGHTS = KeyRights()


class EffectiveKeys:
    """All keys in force, by the public ids of their secrets. Each `refresh` reads only what has changed since."""

    def __init__(self, store: KeyStore) -> None:
        self.peppers = tuple(store.peppers)
        self._store = store
        self._versions = RowVersions(api_keys)
        self._keys: dict[str, StoredKey] = {}
        self._children: dict[str, set[str]] = {}
        self._secrets: dict[str, list[StoredSecret]] = {}
        self._in_force: dict[str, list[ServiceKey]] = {}
        self._by_public_id: ServiceKeys = {}

    def refresh(self) -> ServiceKeys:
        """Return the keys in force now. The result never changes; without changes it is the same object as before.

        Raises:
            StoreUnavailable: the database does not answer; nothing changes.
        """
        changes = self._store.changes(self._versions)
        ids = changes.changed.keys() | changes.gone
        if not ids:
            return self._by_public_id
        keys, secrets = self._store.load(changes.changed)
        for key_id in ids:
            self._forget(key_id)
        for key in keys:
            self._keys[key.id] = key
            if key.parent_id is not None:
                self._children.setdefault(key.parent_id, set()).add(key.id)
        for secret in secrets:
            self._secrets.setdefault(secret.key_id, []).append(secret)
        self._by_public_id = self._replaced(ids)
        self._versions.accept(changes)
        return self._by_public_id

    def _forget(self, key_id: str) -> None:
        before = self._keys.pop(key_id, None)
        self._secrets.pop(key_id, None)
        if before is not None and before.parent_id is not None:
            siblings = self._children[before.parent_id]
            siblings.discard(key_id)
            if not siblings:
                del self._children[before.parent_id]

    def _replaced(self, changed: set[str]) -> ServiceKeys:
        """Return the keys in force after a change of those with these ids, which concerns their descendants, too."""
        by_public_id = self._by_public_id.copy()
        for key_id in self._with_descendants(changed):
            for each in self._in_force.pop(key_id, ()):
                del by_public_id[each.public_id]
            key = self._keys.get(key_id)
            if key is not None:
                made = list(in_force(key, list(parents_of(key, self._keys)), self._secrets.get(key_id, ())))
                self._in_force[key_id] = made
                by_public_id.update((each.public_id, each) for each in made)
        return by_public_id

    def _with_descendants(self, ids: set[str]) -> set[str]:
        found, new = set(ids), list(ids)
        while new:
            children = self._children.get(new.pop(), set()) - found
            found |= children
            new += children
        return found


def parents_of(key: StoredKey, keys: Mapping[str, StoredKey]) -> Iterator[StoredKey]:
    """Yield all parents of a key, its own first: none may be left out, since each narrows the key."""
    seen = {key.id}
    while key.parent_id is not None and key.parent_id not in seen:
        parent = keys.get(key.parent_id)
        if parent is None:
            return
        yield parent
        seen.add(parent.id)
        key = parent


def stored_line(store: KeyStore, key_id: str) -> list[StoredKey]:
    """Return a key and all its parents, its own first.

    Raises:
        NotFound: no key has this id.
    """
    line = [store.get(key_id)]
    while (parent_id := line[-1].parent_id) is not None:
        line.append(store.get(parent_id))
    return line


def in_force(key: StoredKey, parents: Sequence[StoredKey], secrets: Iterable[StoredSecret]) -> Iterator[ServiceKey]:
    """Yield what workers need of each secret of a key."""
    line = [key, *parents]
    scopes = scopes_of(line)
    ends = [each.expires_at_ms for each in line if each.expires_at_ms is not None]
    rights = rights_of(line)
    for secret in secrets:
        until = [*ends, secret.until_ms] if secret.until_ms is not None else ends
        yield ServiceKey(
            public_id=secret.public_id.encode(),
            digest=secret.digest,
            id=key.id,
            name=key.name,
            scopes=scopes,
            pepper=secret.pepper,
            until_ms=max(min(until), 1) if until else FOR_EVER,
            is_disabled=any(each.disabled for each in line),
            team_id=team_of(line),
            rights=None if rights == NO_RIGHTS else rights,
        )


def scope_bits(scopes: Iterable[str]) -> int:
    """Return scopes as bits; those that this version does not know are left out."""
    return sum(SCOPE_BITS.get(scope, 0) for scope in set(scopes))


def scopes_of(line: Sequence[StoredKey]) -> int:
    """Return the scopes, as bits, that a key has with its parents; the key comes first in `line`."""
    scopes = scope_bits(line[0].scopes)
    for parent in line[1:]:
        if "admin" not in parent.scopes:
            scopes &= scope_bits(parent.scopes)
    return scopes


def team_of(line: Sequence[StoredKey]) -> str | None:
    """Return the id of the team of a key: its own, else that of its nearest parent with one."""
    return next((each.team_id for each in line if each.team_id is not None), None)


def rights_of(line: Sequence[StoredKey]) -> KeyRights:
    """Return the rights that a key and its parents leave together; the key comes first in `line`."""
    settings = [each.settings for each in line]
    customers, fixed_customer = _narrowed([each.customers for each in settings])
    services, fixed_service = _narrowed([each.services for each in settings])
    models, fixed_model = _narrowed([each.models for each in settings])
    efforts = [
        REASONING_EFFORTS.index(each.max_reasoning_effort)
        for each in settings
        if each.max_reasoning_effort in REASONING_EFFORTS
    ]
    tags: dict[str, str] = {}
    for each in settings:  # the parents come later, and win
        tags |= each.tags
    return KeyRights(
        customers=customers,
        services=services,
        models=models,
        fixed_customer=fixed_customer,
        fixed_service=fixed_service,
        fixed_model=fixed_model,
        limits=tuple(
            KeyLimit(key.id, key.settings.rpm, key.settings.tpm, key.settings.max_parallel)
            for key in line
            if (key.settings.rpm, key.settings.tpm, key.settings.max_parallel) != (None, None, None)
        ),
        max_tokens=_least(each.max_tokens for each in settings),
        max_reasoning_effort=REASONING_EFFORTS[min(efforts)] if efforts else None,
        max_request_nanos=_least(each.max_request_nanos for each in settings),
        tags=tags,
    )


def _narrowed(allowed: Iterable[Allowed | None]) -> tuple[AllowLists, str | None]:
    """Return the lists of globs, and the fixed value: that of the topmost parent, which the others must allow."""
    lists: list[tuple[str, ...]] = []
    fixed: str | None = None
    for each in allowed:
        if isinstance(each, Fixed):
            if fixed is not None and fixed != each.fixed:
                lists.append((fixed,))
            fixed = each.fixed
        elif each is not None:
            lists.append(each)
    return tuple(lists), fixed


def _least(values: Iterable[int | None]) -> int | None:
    return min((value for value in values if value is not None), default=None)
