"""Access to the dashboard: sign-in with a service key, the session's cookie, and which pages may send requests."""

from __future__ import annotations

import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from llm_gateway.gate.authentication import Keyring
from llm_gateway.gate.request_context import Caller
from llm_gateway.store.sessions import LASTS_MS, Session, SessionStore

COOKIE = "llm-gateway-session"
SECURE_COOKIE = "__Host-llm-gateway-session"
"""Browsers take a cookie with this prefix only over https, for this host and no other (RFC 6265bis, 4.1.3)."""
NEEDS_HTTPS = (
    "The dashboard needs https: a key or a session would cross the network in plain text. Put a proxy with TLS in "
    "front of the gateway, name it in LLM_GATEWAY_TRUSTED_PROXIES, and open the https address; or open the dashboard "
    "on the gateway's own machine. LLM_GATEWAY_UI_INSECURE=true allows it without."
)
WRONG_ORIGIN = "The request comes from another site's page. Open the dashboard itself and try there."
TOO_MANY = "Too many attempts with a wrong key from this address: wait a minute."
MOST_FAILURES, FAILURES_S, KNOWN_ADDRESSES = 10, 60.0, 1024


class SignedIn(NamedTuple):
    """A person: the caller whose rights they have, and their session."""

    caller: Caller
    session: Session


class Access:
    """Sign-in and sessions. `allows_plain_http` is LLM_GATEWAY_UI_INSECURE.

    `on_failure` is called with the client's address for each sign-in with a wrong key.
    """

    def __init__(
        self,
        sessions: SessionStore,
        keyring: Keyring,
        *,
        allows_plain_http: bool,
        clock: Callable[[], float] = time.monotonic,
        on_failure: Callable[[str], None] = lambda _address: None,
    ) -> None:
        self._on_failure = on_failure
        self.sessions = sessions
        self._keyring = keyring
        self._allows_plain_http = allows_plain_http
        self._failures = _Failures(clock)

    def refusal(self, request: Request) -> str | None:
        """Return why the dashboard cannot be used over this connection, None if it can."""
        if request.url.scheme == "https" or self._allows_plain_http or _is_loopback(request.url.hostname):
            return None
        return NEEDS_HTTPS

    def is_own(self, request: Request) -> bool:
        """Return whether a request that changes something was sent by a page of the dashboard itself."""
        if request.headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
            return False
        origin = request.headers.get("origin")
        return origin is None or origin.partition("://")[2] == request.url.netloc

    def find(self, request: Request) -> SignedIn | None:
        """Return who sent a request; None if nobody is signed in, or the key of the session is no longer in force."""
        secret = request.cookies.get(_cookie_name(request))
        session = self.sessions.find(secret) if secret else None
        if session is None:
            return None
        caller = self._keyring.caller_of(session.key_name, session.key_id)
        return None if caller is None else SignedIn(caller, session)

    def sign_in(self, request: Request, key: str) -> str | Caller:
        """Return the owner of the key, or a sentence that says why it is not taken. `remember` opens the session."""
        address = request.client.host if request.client else ""
        if self._failures.are_too_many(address):
            return TOO_MANY
        presented = key.strip().encode("utf-8", "replace")
        caller = self._keyring.find(presented)
        if caller is None:
            self._failures.add(address)
            self._on_failure(address)
            return self._keyring.problem_of(presented) or "This key is not known."
        return caller

    def remember(self, request: Request, response: Response, caller: Caller, timezone: str) -> None:
        """Open a session of the caller, and give its secret to the browser as a cookie."""
        address = request.client.host if request.client else "unknown address"
        client = f"{address}, {request.headers.get('user-agent', 'unknown browser')}"
        secret = self.sessions.open(caller.name, caller.key_id, timezone, client)
        response.set_cookie(
            _cookie_name(request),
            secret,
            max_age=LASTS_MS // 1000,
            path="/",
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )

    def sign_out(self, request: Request, response: Response, signed_in: SignedIn | None) -> None:
        """End the session, and take the cookie back."""
        if signed_in is not None:
            self.sessions.end(signed_in.session.id)
        response.delete_cookie(_cookie_name(request), path="/")


class _Failures:
    """Failed sign-ins of the last minute by address. The address that failed longest ago leaves first."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._times: OrderedDict[str, list[float]] = OrderedDict()

    def are_too_many(self, address: str) -> bool:
        """Return whether this address has failed too often to try again now."""
        oldest = self._clock() - FAILURES_S
        return sum(at > oldest for at in self._times.get(address, ())) >= MOST_FAILURES

    def add(self, address: str) -> None:
        """Count a failure."""
        times = self._times.pop(address, [])
        self._times[address] = [*times, self._clock()][-MOST_FAILURES:]
        if len(self._times) > KNOWN_ADDRESSES:
            self._times.popitem(last=False)


def _cookie_name(request: Request) -> str:
    return SECURE_COOKIE if request.url.scheme == "https" else COOKIE


def _is_loopback(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address((host or "").strip("[]")).is_loopback
    except ValueError:
        return False
