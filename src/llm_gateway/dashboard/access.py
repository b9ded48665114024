"""Access to the dashboard: sign-in with a key or a password, sessions and their cookie, and what may send requests."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from llm_gateway.dashboard.sign_in_limits import LONGEST_NAME, Attempts
from llm_gateway.domain.key_secret import public_id_of
from llm_gateway.domain.person import ROLE_SCOPES, Identity, StoredPerson
from llm_gateway.errors import NotFound
from llm_gateway.gate.authentication import Keyring
from llm_gateway.gate.request_context import Caller, Person
from llm_gateway.identity.code_flow import CodeFlow
from llm_gateway.identity.errors import IdentityRefused, ProviderUnusable
from llm_gateway.store.passwords import MOST_HASHES
from llm_gateway.store.people import PeopleStore
from llm_gateway.store.sessions import LASTS_MS, Owner, Session, SessionStore

COOKIE = "llm-gateway-session"
SECURE_COOKIE = "__Host-llm-gateway-session"
"""Browsers take a cookie with this prefix only over https, for this host and no other (RFC 6265bis, 4.1.3)."""
NEEDS_HTTPS = (
    "The dashboard needs https: a key or a session would cross the network in plain text. Put a proxy with TLS in "
    "front of the gateway, name it in LLM_GATEWAY_TRUSTED_PROXIES, and open the https address; or open the dashboard "
    "on the gateway's own machine. LLM_GATEWAY_UI_INSECURE=true allows it without."
)
WRONG_ORIGIN = "The request comes from another site's page. Open the dashboard itself and try there."
TOO_MANY = "Too many failed attempts from this address or network: wait a minute."
NOBODY_KNOWN = "Nobody has this name and password, or the person is disabled. An admin can set a new password."
CHANGED = "This person or key was changed while you signed in: sign in again."
NOT_YOURS = "This is not your password."
LOCAL = "person:"
"""Beginning of the names of local people in logs, records and the audit trail."""
LONGEST_PASSWORD = 200


class SignedIn(NamedTuple):
    """A person: the caller whose rights they have, their session, and the name to show."""

    caller: Caller
    session: Session


class Credentials(NamedTuple):
    """Fields of the sign-in: a service key, or a name and a password."""

    key: str
    name: str
    password: str


class Access:
    """Sign-in and sessions. `allows_plain_http` is LLM_GATEWAY_UI_INSECURE.

    `on_failure` is called with the client's address for each sign-in that fails. `code_flow` is the sign-in over the
    identity provider whose sessions are in force.
    """

    def __init__(
        self,
        sessions: SessionStore,
        keyring: Keyring,
        people: PeopleStore,
        *,
        allows_plain_http: bool,
        code_flow: CodeFlow | None = None,
        clock: Callable[[], float] = time.monotonic,
        on_failure: Callable[[str], None] = lambda _address: None,
    ) -> None:
        self._on_failure = on_failure
        self._sessions = sessions
        self._keyring = keyring
        self._people = people
        self._allows_plain_http = allows_plain_http
        self._code_flow = code_flow
        self._attempts = Attempts(clock)
        self._hashing = ThreadPoolExecutor(MOST_HASHES, "password")  # the shared pool would have none left for others

    @property
    def has_provider(self) -> bool:
        """Whether people can sign in over an identity provider."""
        return self._code_flow is not None

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
        """Return who sent a request; None if nobody is signed in, or who was may no longer be."""
        secret = request.cookies.get(_cookie_name(request))
        session = self._sessions.find(secret) if secret else None
        if session is None:
            return None
        owner = session.owner
        if _is_of_environment(owner) and not self._keyring.environment.is_in_force(owner.name, secret or ""):
            return None
        caller = self._caller_of(owner)
        return None if caller is None else SignedIn(caller, session)

    def _caller_of(self, owner: Owner) -> Caller | None:
        if owner.person_id is not None:
            try:
                person = self._people.get(owner.person_id)
            except NotFound:
                return None
            return None if person.disabled else local_person(person)
        if owner.identity is not None:
            identity = None if self._code_flow is None else self._code_flow.renewed(owner.identity)
            return None if identity is None else person_of(owner.name, identity)
        return self._keyring.caller_of(owner.name, owner.key_id)

    @contextmanager
    def attempt(self, request: Request) -> Iterator[None]:
        """Count a sign-in over an identity provider: as failed, unless the block ends without an exception.

        Raises:
            IdentityRefused: too many failed from the client's address.
        """
        address = address_of(request)
        if not self._attempts.begin(address, None):
            raise IdentityRefused(TOO_MANY, 429)
        try:
            yield
        except ProviderUnusable:
            raise
        except IdentityRefused:
            self._on_failure(address)
            raise
        self._attempts.succeeded(address, None)

    async def sign_in(self, request: Request, given: Credentials) -> str | Owner:
        """Return whose the credentials are, or a sentence that says why they are not taken."""
        address = address_of(request)
        name = given.name.strip() if given.name.strip() or given.password else None
        if not self._attempts.begin(address, name):
            return TOO_MANY
        found = (
            self._owner_of_key(given.key)
            if name is None
            else await self._owner_of_password(address, name, given.password)
        )
        if isinstance(found, str):
            self._on_failure(address)
        else:
            self._attempts.succeeded(address, name)
        return found

    def _owner_of_key(self, key: str) -> str | Owner:
        presented = key.strip().encode("utf-8", "replace")
        caller = self._keyring.find(presented)
        if caller is None:
            return self._keyring.problem_of(presented) or "This key is not known."
        public_id = None if caller.key_id is None else public_id_of(presented).decode()
        return Owner(caller.name, caller.key_id, public_id=public_id)

    async def refusal_of_password(self, request: Request, person: Person, password: str) -> str | None:
        """Return why a password is not taken as that of a local person who is signed in; None if it is right."""
        name = person.name.removeprefix(LOCAL)
        address = address_of(request)
        if not self._attempts.begin(address, name):
            return TOO_MANY
        found = await self._owner_of_password(address, name, password)
        if isinstance(found, str) or found.person_id != person.person_id:
            self._on_failure(address)
            return NOT_YOURS
        self._attempts.succeeded(address, name)
        return None

    async def _owner_of_password(self, address: str, name: str, password: str) -> str | Owner:
        if len(name) > LONGEST_NAME or len(password) > LONGEST_PASSWORD or "\x00" in name:
            return NOBODY_KNOWN
        loop = asyncio.get_running_loop()
        if brake_s := self._attempts.brake_s(address, name):
            await asyncio.sleep(brake_s)
        person = await loop.run_in_executor(self._hashing, self._people.check, name, password)
        return (
            NOBODY_KNOWN if person is None else Owner(person.name, person_id=person.id, as_of_ms=person.updated_at_ms)
        )

    async def remember(self, request: Request, response: Response, owner: Owner, timezone: str) -> None:
        """Open a session of its owner, and give its secret to the browser as a cookie.

        Raises:
            OwnerChanged: the person was changed meanwhile.
        """
        browser = request.headers.get("user-agent", "unknown browser")
        opened = partial(self._sessions.open, owner, timezone, browser, address_of(request))
        if _is_of_environment(owner):
            opened = partial(opened, seal=partial(self._keyring.environment.seal, owner.name))
        secret = await run_in_threadpool(opened)
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
            self._sessions.end(signed_in.session.id)
        secure = request.url.scheme == "https"  # browsers ignore a cookie `__Host-…` without it, also one that deletes
        response.delete_cookie(_cookie_name(request), path="/", secure=secure, httponly=True)


def _is_of_environment(owner: Owner) -> bool:
    return owner.key_id is None and owner.person_id is None and owner.identity is None


def local_person(person: StoredPerson) -> Person:
    """Return a local person as the sender of requests."""
    scopes = ROLE_SCOPES[person.role]
    return Person(
        f"{LOCAL}{person.name}",
        scopes,
        team_id=person.team_id,
        customer=person.customer,
        person_id=person.id,
    )


def person_of(name: str, identity: Identity) -> Person:
    """Return whom an identity provider named as the sender of requests."""
    return Person(f"oidc:{name}", ROLE_SCOPES[identity.role], team_id=identity.team_id, identity=identity)


def address_of(request: Request) -> str:
    """Return the address of the client."""
    return request.client.host if request.client else "unknown address"


def _cookie_name(request: Request) -> str:
    return SECURE_COOKIE if request.url.scheme == "https" else COOKIE


def _is_loopback(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address((host or "").strip("[]")).is_loopback
    except ValueError:
        return False
