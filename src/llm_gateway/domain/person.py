"""People who sign in to the dashboard with a password, and what each role may do."""

from __future__ import annotations

import msgspec

ROLE_SCOPES: dict[str, frozenset[str]] = {
    "viewer": frozenset({"read"}),
    "own": frozenset({"own"}),
    "admin": frozenset({"admin"}),
}
"""Scopes of each role. `own` is bound to a team, a customer, or both."""


class StoredPerson(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A person without the hash of the password. `*_ms` are milliseconds UTC."""

    id: str
    name: str
    role: str
    team_id: str | None
    customer: str | None
    disabled: bool
    created_at_ms: int
    updated_at_ms: int


class Identity(msgspec.Struct, frozen=True, kw_only=True, gc=False, omit_defaults=True):
    """Whom an identity provider named at the sign-in, and with which rights; stored in the session as JSON.

    `groups` are those that had a role at the sign-in; the settings in force say which role they have now.
    """

    issuer: str
    subject: str
    role: str
    team_id: str | None = None
    groups: tuple[str, ...] = ()
