"""Entries of the audit trail, the chain of hashes that ties them together, and who acts.

Each entry's hash covers that of the entry before it in its chain, so that none can be changed or taken out unnoticed:

    START ──▶ entry 1 ──▶ hash 1 ──▶ entry 2 ──▶ hash 2 ──▶ …      hash n = sha256(hash n-1 ‖ canonical entry n)
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import msgspec

START = "0" * 64
"""Hash before the first entry of a chain."""
GAP = "audit.gap"
"""Action of an entry that the gateway adds by itself when entries that it had written are missing."""


class Actor(msgspec.Struct, frozen=True):
    """The maker of a change: a key, by its name and, if it was made over the API, its id; a command by its name alone.

    `address` is the client's, "" if there is none. `request_id` is the gateway's id of the request.
    """

    name: str
    key_id: str | None = None
    address: str = ""
    request_id: str | None = None


GATEWAY = Actor("(gateway)")
"""The gateway itself. No key can have this name's place: requests always set their own actor."""

_actor: ContextVar[Actor] = ContextVar("actor", default=GATEWAY)


@contextmanager
def acting(actor: Actor) -> Iterator[None]:
    """Make all changes in the block those of `actor`, in threads too that asyncio starts from it."""
    token = _actor.set(actor)
    try:
        yield
    finally:
        _actor.reset(token)


def current_actor() -> Actor:
    """Return who makes the changes of this context."""
    return _actor.get()


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One change, as it is stored. `before` and `after` are JSON objects as text, None where there is nothing.

    `number` counts from 1 in its `chain`. `action` is such as `team.create`, and begins with the type of the resource.
    """

    chain: str
    number: int
    at_ms: int
    actor: str
    key_id: str | None
    address: str
    request_id: str | None
    action: str
    resource_id: str | None
    resource_name: str | None
    before: str | None
    after: str | None
    hash: str = ""

    def hash_after(self, previous: str) -> str:
        """Return the hash that this entry must have behind an entry with the hash `previous`, both in hexadecimal."""
        fields = msgspec.structs.astuple(self)[:-1]
        return hashlib.sha256(bytes.fromhex(previous) + msgspec.json.encode(fields)).hexdigest()
