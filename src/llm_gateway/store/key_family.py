"""Check a service key against its team and its parents: its rights must not exceed theirs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from llm_gateway.domain.model_aliases import matches
from llm_gateway.domain.stored_key import Allowed, Fixed, StoredKey
from llm_gateway.errors import Invalid
from llm_gateway.store.tables import api_keys, teams

MOST_PARENTS = 8
"""Parents of a key, one above the other, at most."""
_LISTS = ("customers", "services", "models")


def check_family(connection: Connection, key: StoredKey, read: Callable[[Any], StoredKey]) -> None:
    """Check that the team and the parents of `key` exist, and that it may not do more than they.

    `read` makes a key of a row. The rows are locked until the transaction ends.

    Raises:
        Invalid: the team or the parent does not exist, the parent is the key itself or descends from it, there are
            too many parents, or the key has a scope that its parent has not, or outlives it.
    """
    if key.team_id is not None:
        query = sa.select(teams.c.id).where(teams.c.id == key.team_id).with_for_update(read=True)
        if connection.execute(query).one_or_none() is None:
            raise Invalid("There is no team with this id: create it first, or name another.", loc=("body", "team_id"))
    parent_id, depth = key.parent_id, 0
    while parent_id is not None:
        if parent_id == key.id:
            who = "itself" if depth == 0 else "a key that descends from it"
            raise Invalid(f"A key cannot have {who} as its parent: choose another key.", loc=("body", "parent_id"))
        if depth == MOST_PARENTS:
            raise Invalid(
                f"A key can have up to {MOST_PARENTS} parents one above the other: choose a parent with fewer.",
                loc=("body", "parent_id"),
            )
        row = connection.execute(
            sa.select(api_keys).where(api_keys.c.id == parent_id).with_for_update(read=True)
        ).one_or_none()
        if row is None:
            raise Invalid("There is no key with this id: name a key that exists.", loc=("body", "parent_id"))
        parent = read(row)
        _check_rights(key, parent)
        parent_id, depth = parent.parent_id, depth + 1
    if depth and depth + _generations(connection, key.id) > MOST_PARENTS:
        raise Invalid(
            f"A key can have up to {MOST_PARENTS} parents one above the other, and keys that descend from this one "
            "would have more: choose a parent with fewer.",
            loc=("body", "parent_id"),
        )


def _generations(connection: Connection, key_id: str) -> int:
    """Return how many generations of keys descend from a key."""
    line = sa.select(api_keys.c.id, sa.literal(0).label("depth")).where(api_keys.c.id == key_id)
    family = line.cte("family", recursive=True)
    children = sa.select(api_keys.c.id, family.c.depth + 1).where(
        api_keys.c.parent_id == family.c.id, family.c.depth <= MOST_PARENTS
    )
    family = family.union_all(children)
    return connection.execute(sa.select(sa.func.max(family.c.depth))).scalar() or 0


def _check_rights(key: StoredKey, parent: StoredKey) -> None:
    if "admin" not in parent.scopes:
        more = sorted(set(key.scopes) - set(parent.scopes))
        if more:
            raise Invalid(
                f"The parent {parent.name!r} lacks the scope {more[0]!r}: a key cannot have more than its parent.",
                loc=("body", "scopes"),
            )
    if parent.expires_at_ms is not None and (key.expires_at_ms or 0) > parent.expires_at_ms:
        raise Invalid(
            f"The key would outlive its parent {parent.name!r}: choose an earlier expires_at, or leave it out so that "
            "the key ends with its parent.",
            loc=("body", "expires_at"),
        )
    for name in _LISTS:
        own, theirs = getattr(key.settings, name), getattr(parent.settings, name)
        if isinstance(own, Fixed) and theirs is not None and not _allows(theirs, own.fixed):
            raise Invalid(
                f"{name}: the parent {parent.name!r} does not allow {own.fixed!r}: choose a value that it allows.",
                loc=("body", name),
            )


def _allows(allowed: Allowed, value: str) -> bool:
    if isinstance(allowed, Fixed):
        return allowed.fixed == value
    return any(matches(glob, value) for glob in allowed)
