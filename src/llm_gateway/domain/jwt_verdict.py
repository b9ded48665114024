"""Verdict of control on a token (JWT) that a client sent in the place of a service key."""

from __future__ import annotations

import msgspec

LONGEST_NAME = 200


class TokenCaller(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The sender of requests with a valid token: its rights until `until_ms` (milliseconds UTC), when the token ends.

    `team_id` and `customer` are what its requests are counted for; a customer replaces that of the request.
    """

    name: str
    scopes: frozenset[str]
    until_ms: int
    team_id: str | None = None
    customer: str | None = None


class Verdict(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The caller of a token, or a sentence why there is none and the status of the response that says it."""

    caller: TokenCaller | None = None
    problem: str = ""
    status: int = 401
