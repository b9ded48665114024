"""Callers of tokens (JWT) of an identity provider, which clients send in the place of service keys.

Control verifies a token when it comes for the first time. Its verdict is kept until the token ends, ten minutes at
most, so that each further request costs one look into a dictionary, also while control is away. Service keys cost
nothing: only what is no key is looked up here.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from llm_gateway.domain.jwt_verdict import TokenCaller, Verdict
from llm_gateway.domain.service_key import SCOPE_BITS, KeyRights, ServiceKey
from llm_gateway.errors import Forbidden, GatewayError, ManagementUnavailable, Overloaded, Unauthorized
from llm_gateway.gate.request_context import Caller

MOST_KEPT = 10_000
"""Tokens that are kept; of more, the oldest is verified again."""
MOST_REFUSED, REFUSED_S = 1_000, 10.0
"""Refused tokens that are kept, and for how many seconds: a client that repeats one must not keep control busy."""
MOST_ASKED = 16
"""Tokens that are verified at once, so that management requests still reach control."""
MOST_BYTES = 16 * 1024
LONGEST_KEPT_S = 600.0
"""Seconds after which a token is verified again, so that one whose signing key was withdrawn does not stay in force."""


_TOKEN = re.compile(rb"eyJ[A-Za-z0-9_-]*\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*")


def is_token(key: bytes) -> bool:
    """Return whether a key looks like a JWT: three parts in base64url, the first a JSON object (RFC 7515, 3.1).

    Nothing else passes, such as a line break, since control gets the token in a header.
    """
    return _TOKEN.fullmatch(key) is not None


class UnverifiedToken(Exception):
    """A token must be verified before its request goes on."""

    def __init__(self, token: bytes) -> None:
        super().__init__("The token is not verified yet.")
        self.token = token


class TokenCallers:
    """The callers of tokens. `ask` has one verified; `clock` returns seconds since 1970."""

    def __init__(
        self,
        ask: Callable[[bytes], Awaitable[Verdict]],
        clock: Callable[[], float] = time.time,
        *,
        most_kept: int = MOST_KEPT,
        most_refused: int = MOST_REFUSED,
    ) -> None:
        self._most_kept = most_kept
        self._most_refused = most_refused
        self._ask = ask
        self._clock = clock
        self._keyed = hashlib.blake2b(key=secrets.token_bytes(32), digest_size=32)
        self._kept: OrderedDict[bytes, tuple[Caller, int]] = OrderedDict()
        self._refused: OrderedDict[bytes, tuple[Verdict, float]] = OrderedDict()
        self._asked: dict[bytes, asyncio.Task[Verdict]] = {}

    def find(self, token: bytes) -> Caller:
        """Return the caller of a token.

        Raises:
            UnverifiedToken: call `verify`, then this again.
            Unauthorized, Forbidden: the token was refused a moment ago.
        """
        digest, now = self._hash(token), self._clock()
        kept = self._kept.get(digest)
        if kept is not None and now * 1000 < kept[1]:
            return kept[0]
        refused = self._refused.get(digest)
        if refused is not None and now < refused[1]:
            raise _error(refused[0])
        raise UnverifiedToken(token)

    async def verify(self, token: bytes) -> None:
        """Have a token verified; requests with the same one wait together.

        Raises:
            Unauthorized: it is too long.
            Overloaded: too many others are being verified.
            ManagementUnavailable: control or the identity provider does not answer.
        """
        if len(token) > MOST_BYTES:
            raise Unauthorized(
                f"The token is longer than {MOST_BYTES} bytes: ask the identity provider for less in it."
            )
        digest = self._hash(token)
        task = self._asked.get(digest)
        if task is None:
            if len(self._asked) >= MOST_ASKED:
                raise Overloaded("Too many new tokens are being verified: send the request again.", retry_after_s=1)
            task = self._asked[digest] = asyncio.get_running_loop().create_task(self._asking(digest, token))
        verdict = await asyncio.shield(task)
        if verdict.caller is None and verdict.status >= 500:
            raise ManagementUnavailable(verdict.problem)

    async def _asking(self, digest: bytes, token: bytes) -> Verdict:
        try:
            verdict = await self._ask(token)
        except GatewayError as error:
            verdict = Verdict(problem=error.detail, status=503)
        finally:
            del self._asked[digest]
        if verdict.caller is not None and verdict.caller.until_ms <= self._clock() * 1000:
            verdict = Verdict(problem="The token has just expired: get a new one from the identity provider.")
        if verdict.caller is not None:
            until_ms = min(verdict.caller.until_ms, int((self._clock() + LONGEST_KEPT_S) * 1000))
            self._kept[digest] = caller_of(verdict.caller), until_ms
            if len(self._kept) > self._most_kept:
                self._kept.popitem(last=False)
        elif verdict.status < 500:
            self._refused[digest] = verdict, self._clock() + REFUSED_S
            if len(self._refused) > self._most_refused:
                self._refused.popitem(last=False)
        return verdict

    def _hash(self, token: bytes) -> bytes:
        keyed = self._keyed.copy()
        keyed.update(token)
        return keyed.digest()


def caller_of(found: TokenCaller) -> Caller:
    """Return the caller of a token as a key would have it. Reports know it by its name."""
    rights = None if found.customer is None else KeyRights(fixed_customer=found.customer)
    bits = sum(SCOPE_BITS[scope] for scope in found.scopes)
    key = ServiceKey(
        b"", b"", found.name, found.name, bits, until_ms=found.until_ms, team_id=found.team_id, rights=rights
    )
    return Caller(found.name, found.scopes, None, key)


def token_of(caller: Caller) -> TokenCaller | None:
    """Return what `caller_of` made a caller from, None if it is not one of a token."""
    key = caller.key
    if key is None or caller.key_id is not None:
        return None
    customer = None if key.rights is None else key.rights.fixed_customer
    return TokenCaller(caller.name, caller.scopes, key.until_ms, key.team_id, customer)


def _error(verdict: Verdict) -> GatewayError:
    return Forbidden(verdict.problem) if verdict.status == 403 else Unauthorized(verdict.problem)
