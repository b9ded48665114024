"""Credentials for calls to providers: a static API key, or a bearer token that is refreshed before it expires.

A static key is added to the target's headers when the snapshot is built, so it costs nothing per call. An account
whose headers change from call to call has an `UpstreamAuthorizer` (contract and call order: `domain/catalog.py`) as
its target's `authorize`, for example a `RefreshedToken`:

    async def fetch() -> Token:
        response = await ask_issuer(client_id, client_secret)
        return Token(response["access_token"], valid_s=response["expires_in"])

    def authorize(provider: Provider, api_key: str) -> UpstreamAuthorizer | None:
        return RefreshedToken(fetch, learn=redactor.learn, log=log)

    AccountAssembler(..., authorize=authorize)
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from llm_gateway.domain.catalog import CallToSign, NotAuthorized

FETCH_S = 10.0
"""Seconds within which a fetch of a token must end."""
RETRY_S = 5.0
"""Seconds between a failed fetch and the next one, while the old token is still valid."""
REFRESH_AT, USE_UNTIL = 0.75, 0.95
"""Fractions of a token's lifetime: a new one is fetched after the first; after the second, calls wait for it."""
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""The syntax of a bearer token: RFC 6750, section 2.1."""


class StaticKey(NamedTuple):
    """The header for an account's API key: the value is `prefix` followed by the key."""

    header: str
    prefix: str = ""

    def headers(self, key: str) -> dict[str, str]:
        """Return the header with `key` in it."""
        return {self.header: f"{self.prefix}{key}"}


class Token(NamedTuple):
    """An access token and its lifetime in seconds. `repr()` hides the token."""

    value: str
    valid_s: float

    def __repr__(self) -> str:
        return f"Token(valid_s={self.valid_s})"


class RefreshedToken:
    """A bearer token that is fetched again before it expires.

        none ── call waits for the fetch ──▶ fresh ── 0.75 of the lifetime ──▶ old ── 0.95 of the lifetime ──▶ none
                                               ▲                                │
                                               └─ call: background fetch ───────┘

    At most one fetch runs at a time, whatever the number of calls. While the token is valid, a failed fetch is logged
    and repeated after 5 s. Without a valid token, a failed fetch fails the calls that wait for it.

    Args:
        fetch: returns a new token. It raises `NotAuthorized` with a message for operators. Of any other exception
            only the type is logged, since its message could contain a secret.
        learn: receives every token before its first use, so that logs and messages redact it.
        log: receives an event name and its fields.
    """

    def __init__(
        self,
        fetch: Callable[[], Awaitable[Token]],
        *,
        learn: Callable[[list[str]], None],
        log: Callable[..., None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._fetch = fetch
        self._learn = learn
        self._log = log
        self._clock = clock
        self._lines = b""
        self._refresh_at = self._use_until = -1.0
        self._refreshing: asyncio.Task[str | None] | None = None

    async def __call__(self, call: CallToSign) -> bytes:
        """Return the `authorization` line; fetch a token first if none is valid (`UpstreamAuthorizer`)."""
        now = self._clock()
        if now >= self._refresh_at and self._refreshing is None:
            self._refreshing = asyncio.create_task(self._refresh(now))
        if now >= self._use_until and self._refreshing is not None:
            problem = await asyncio.shield(self._refreshing)
            if problem is not None:
                raise NotAuthorized(problem)
        return self._lines

    async def _refresh(self, now: float) -> str | None:
        """Fetch a token. Return an error message if that fails: a stored exception would keep its frames alive."""
        try:
            async with asyncio.timeout(FETCH_S):
                token = await self._fetch()
            self._take(token, now)
        except Exception as error:  # edge: whatever the token's issuer does, the waiting calls need a result
            problem = f"No access token could be fetched: {_reason(error)}"
            failed_at = self._clock()
            self._refresh_at = min(failed_at + RETRY_S, max(failed_at, self._use_until))
            self._log("access token not fetched", level="error", reason=problem)
            return problem
        else:
            return None
        finally:
            self._refreshing = None

    def _take(self, token: Token, now: float) -> None:
        self._learn([token.value])
        if not _TOKEN.fullmatch(token.value):
            raise NotAuthorized("the token has characters that are not allowed in a bearer token")
        if token.valid_s <= 0:
            raise NotAuthorized("the token has already expired")
        self._lines = f"authorization: Bearer {token.value}\r\n".encode("ascii")
        self._refresh_at = now + REFRESH_AT * token.valid_s
        self._use_until = now + USE_UNTIL * token.valid_s


def _reason(error: Exception) -> str:
    if isinstance(error, NotAuthorized):
        return str(error)
    return f"no answer within {FETCH_S:g} s" if isinstance(error, TimeoutError) else type(error).__name__
