"""Service keys and teams as they are stored and managed. What workers get of a key is in `service_key.py`."""

from __future__ import annotations

from typing import TypeAlias

import msgspec


class Fixed(msgspec.Struct, frozen=True, gc=False):
    """A value that replaces what requests of the key say."""

    fixed: str


Allowed: TypeAlias = tuple[str, ...] | Fixed
"""Globs of the values that requests of a key may have, or the value of all of them."""


class KeySettings(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """Restrictions of the calls of a key, stored as one JSON object. None: not restricted."""

    customers: Allowed | None = None
    services: Allowed | None = None
    models: Allowed | None = None
    rpm: int | None = None
    tpm: int | None = None
    max_parallel: int | None = None
    max_tokens: int | None = None
    max_reasoning_effort: str | None = None
    max_request_nanos: int | None = None
    tags: dict[str, str] = {}


class StoredKey(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A service key without its secrets. `*_ms` are milliseconds UTC; `last4` ends its newest secret."""

    id: str
    name: str
    scopes: tuple[str, ...]
    settings: KeySettings
    team_id: str | None
    parent_id: str | None
    owner: str | None
    disabled: bool
    expires_at_ms: int | None
    last4: str
    last_used_at_ms: int | None
    created_at_ms: int
    updated_at_ms: int


class StoredSecret(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """The hash of a secret of a key, and when a rotation ends it. `repr()` does not show the hash."""

    public_id: str
    key_id: str
    digest: bytes
    pepper: int
    until_ms: int | None

    def __repr__(self) -> str:
        return f"StoredSecret({self.public_id!r}, {self.key_id!r})"


class Team(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A team, to which keys belong. `*_ms` are milliseconds UTC."""

    id: str
    name: str
    description: str
    created_at_ms: int
    updated_at_ms: int
