"""A service key as workers know it: the hash of one of its secrets, and what the key may do.

Control works out what is in force before it sends a key: the rights of its parents are part of it. So workers look up
one object, and follow no references. It is small, since 50,000 keys are in the memory of each worker.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

SCOPE_BITS = {"call": 1, "read": 2, "admin": 4, "own": 8}
SCOPES_OF_BITS = tuple(
    frozenset(scope for scope, bit in SCOPE_BITS.items() if bits & bit) for bits in range(1 << len(SCOPE_BITS))
)
"""The scopes by their bits, so that keys share 16 sets."""
FOR_EVER = 0
"""`until_ms` of a secret that does not end."""

AllowLists: TypeAlias = tuple[tuple[str, ...], ...]
"""Lists of globs. A value must match a glob of each list: the key's own, and those of its parents."""


class KeyLimit(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Limits of a key or of one of its parents, whose id is `key_id`; None: no limit."""

    key_id: str
    rpm: int | None = None
    tpm: int | None = None
    max_parallel: int | None = None


class KeyRights(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """Restrictions of the calls of a key. Readers skip unknown fields, and new ones need a default.

    `fixed_*` replace what a request says. `max_request_nanos` is the most that a request may cost, in nano-dollars.
    """

    customers: AllowLists = ()
    services: AllowLists = ()
    models: AllowLists = ()
    fixed_customer: str | None = None
    fixed_service: str | None = None
    fixed_model: str | None = None
    limits: tuple[KeyLimit, ...] = ()
    max_tokens: int | None = None
    max_reasoning_effort: str | None = None
    max_request_nanos: int | None = None
    tags: dict[str, str] = {}


class ServiceKey(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """One secret of a key. A key that was rotated has two for a while, with the same `id`.

    `digest` is the secret's hash with the pepper of version `pepper`. `scopes` are bits (`SCOPE_BITS`). The secret ends
    at `until_ms` (milliseconds UTC, `FOR_EVER` if it does not): by the key's expiry or by the overlap of a rotation.
    `rights` is None if nothing narrows the key. `repr()` does not show the hash.
    """

    public_id: bytes
    digest: bytes
    id: str
    name: str
    scopes: int
    pepper: int = 0
    until_ms: int = FOR_EVER
    is_disabled: bool = False
    team_id: str | None = None
    rights: KeyRights | None = None

    def is_in_force(self, now_ms: float) -> bool:
        """Return whether the secret is neither disabled nor at its end."""
        return not self.is_disabled and (self.until_ms == FOR_EVER or now_ms < self.until_ms)

    def __repr__(self) -> str:
        return f"ServiceKey({self.name!r}, {self.id!r})"


ServiceKeys: TypeAlias = dict[bytes, ServiceKey]
"""Secrets of keys by their public id."""
