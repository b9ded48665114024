"""Authorise calls to upstream accounts: by a static key, or by header lines that are made for each call.

A static key becomes part of the target's headers when the snapshot is built, so that a call pays nothing for it. An
account that needs more has an `UpstreamAuthorizer` (`domain/catalog.py`) as its target's `authorize`.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from llm_gateway.domain.catalog import NotAuthorized, OutgoingCall

FETCH_S = 10.0
RETRY_S = 5.0
REFRESH_AT, USE_UNTIL = 0.75, 0.95
"""Parts of a token's life: from the first on a new one is fetched, from the second on calls wait for it."""
_TOKEN = re.compile(r"[A-Za-z0-9._~+/-]+=*")
"""RFC 6750, section 2.1."""


class StaticKey(NamedTuple):
    """A key that every call carries in one header, after `prefix`."""

    header: str
    prefix: str = ""

    def headers(self, key: str) -> dict[str, str]:
        """Return the header that authorises calls."""
        return {self.header: f"{self.prefix}{key}"}


class Token(NamedTuple):
    """An access token and the seconds for which it is valid. Its representation does not show it."""

    value: str
    valid_s: float

    def __repr__(self) -> str:
        return f"Token(valid_s={self.valid_s})"


class RefreshedToken:
    """A bearer token that is fetched anew before it expires.

        none ──call waits──▶ fresh ──0.75 of its life──▶ old ──fetched beside calls──▶ fresh
          ▲                                               │
          └──────────────0.95 of its life─────────────────┘

    At most one fetch runs at a time, whatever the number of calls. While the token is valid a failed fetch is logged
    and tried again after 5 s; without a valid token it fails the calls that wait for it.

    Args:
        fetch: gets a new token; it raises `NotAuthorized` with a sentence for operators, or any other exception, of
            which only the type is told, since its message could hold a secret.
        learn: hears every token before it is used, so that none is ever shown.
        log: takes an event and its fields.
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

    async def __call__(self, call: OutgoingCall) -> bytes:
        """As in `UpstreamAuthorizer`."""
        now = self._clock()
        if now >= self._refresh_at and self._refreshing is None:
            self._refreshing = asyncio.create_task(self._refresh(now))
        if now >= self._use_until and self._refreshing is not None:
            problem = await asyncio.shield(self._refreshing)
            if problem is not None:
                raise NotAuthorized(problem)
        return self._lines

    async def _refresh(self, now: float) -> str | None:
        """Fetch a token. Returns a sentence if there is none: a stored exception would keep its frames alive."""
        try:
            async with asyncio.timeout(FETCH_S):
                token = await self._fetch()
            self._take(token, now)
        except Exception as error:  # edge: whatever the token's issuer does, the calls that wait must be told
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
            raise NotAuthorized("it holds characters that no header can carry")
        if token.valid_s <= 0:
            raise NotAuthorized("it has expired already")
        self._lines = f"authorization: Bearer {token.value}\r\n".encode("ascii")
        self._refresh_at = now + REFRESH_AT * token.valid_s
        self._use_until = now + USE_UNTIL * token.valid_s


def _reason(error: Exception) -> str:
    if isinstance(error, NotAuthorized):
        return str(error)
    return f"no answer within {FETCH_S:g} s" if isinstance(error, TimeoutError) else type(error).__name__
