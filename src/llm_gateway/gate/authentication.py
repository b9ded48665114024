"""ASGI middleware that admits a request by its service key and the key's scope, and in dev by its Host header.

It runs before routing, so that unknown paths need a key, too.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Awaitable, Callable, Iterable
from hmac import compare_digest

from starlette.types import ASGIApp, Receive, Scope, Send

from llm_gateway import wall_clock
from llm_gateway.domain.catalog import Snapshot
from llm_gateway.domain.explanation import EXPLAIN_PATH
from llm_gateway.domain.key_secret import PREFIX, is_intact, public_id_of
from llm_gateway.domain.service_key import SCOPES_OF_BITS, ServiceKey
from llm_gateway.domain.trace_context import without_repeated
from llm_gateway.domain.uuid7 import new_id
from llm_gateway.error_format.browser_page import is_dashboard
from llm_gateway.error_format.send_error import send_error
from llm_gateway.errors import BadRequest, Forbidden, GatewayError, Unauthorized
from llm_gateway.gate.environment_seal import EnvironmentSeal
from llm_gateway.gate.jwt_callers import TokenCallers, UnverifiedToken, is_token
from llm_gateway.gate.key_problem import SERVICE_KEY, explain
from llm_gateway.gate.request_context import NOBODY, REQUEST_CONTEXT, Caller, Person, RequestContext
from llm_gateway.gate.sign_in import SignInPage, send_sign_in
from llm_gateway.protocols.registry import PROTOCOLS, is_call, keys_in_query

HOME_PATH = "/"
OPEN_PATHS = frozenset({HOME_PATH, "/api/v1/health", "/healthz", "/readyz"})
DOCS_PATH = "/docs"
ME_PATH = "/api/v1/me"
CONFIGURATION_PATH = "/api/v1/configuration"
AUDIT_PATH = "/api/v1/audit"
PEOPLE_PATH = "/api/v1/people"
SESSIONS_PATH = "/api/v1/sessions"
OWN_REPORTS = (
    *("breakdown", "series", "latency", "records", "export"),
    *("summary", "by-provider", "by-service", "by-customer"),
)
OWN_PATHS = frozenset(f"/api/v1/usage/{report}" for report in OWN_REPORTS)
OWN_RECORD = "/api/v1/usage/records/"
"""Paths that a key with the scope `own` may get: they show only what the key and its team did."""
WITH_OWN = "With 'own' it may get GET /api/v1/me and the reports below /api/v1/usage/, which show its own usage."
TWO_KEYS = (
    "The request carries two different keys: send one, or send the gateway's as X-Service-Key, which comes before the "
    "others."
)
TWO_OWN_KEYS = "The request carries two different keys, both of them keys of the gateway: send one."

BEARER = b"bearer "
_CREDENTIALS = frozenset({SERVICE_KEY}.union(*(each.credential_headers for each in PROTOCOLS.values())))
_CLIENT_ID = re.compile(rb"[\x21-\x7e]{1,128}")
_LOCAL_HOST = re.compile(rb"(localhost|127\.0\.0\.1|\[::1\])(:\d{1,5})?", re.IGNORECASE)


class Keyring:
    """The service keys of the environment, and those of the current snapshot, which were made over the API.

    Lookups compare keyed hashes of whole keys, so timing reveals nothing of a key. `clock` returns seconds since 1970.
    `tokens` has the callers of an identity provider's tokens, if they are taken in the place of keys.
    """

    def __init__(
        self,
        keys: Iterable[tuple[str, str, frozenset[str]]],
        snapshot: Callable[[], Snapshot] | None = None,
        clock: Callable[[], float] = wall_clock.now_s,
        tokens: TokenCallers | None = None,
    ) -> None:
        self.tokens = tokens
        self._snapshot = snapshot
        self._clock = clock
        self._keyed = hashlib.blake2b(key=secrets.token_bytes(32), digest_size=32)
        listed = list(keys)
        self._callers = {self._hash(key.encode()): Caller(name, scopes) for name, key, scopes in listed}
        self.environment = EnvironmentSeal(listed)

    def _hash(self, key: bytes) -> bytes:
        keyed = self._keyed.copy()
        keyed.update(key)
        return keyed.digest()

    def find(self, key: bytes) -> Caller | None:
        """Return the caller to whom this key belongs, None for an unknown key, or one that is not in force."""
        caller = self._callers.get(self._hash(key))
        if caller is None and key.startswith(PREFIX):
            stored = self._stored(key)
            if stored is not None and self._is_in_force(stored):
                return Caller(stored.name, SCOPES_OF_BITS[stored.scopes], stored.id, stored)
        return caller

    def caller_of(self, name: str, key_id: str | None) -> Caller | None:
        """Return the caller whose key has this name, or this id if it was made over the API; None if none is in force.

        It looks through all keys: use it for people, not for calls.
        """
        if key_id is None:
            return next((caller for caller in self._callers.values() if caller.name == name), None)
        snapshot = None if self._snapshot is None else self._snapshot()
        for stored in () if snapshot is None else snapshot.service_keys.values():
            if stored.id == key_id and self._is_in_force(stored):
                return Caller(stored.name, SCOPES_OF_BITS[stored.scopes], stored.id, stored)
        return None

    def problem_of(self, key: bytes) -> str | None:
        """Return a sentence on a key that `find` does not find: of one that was made over the API, else None.

        Only who holds the whole key learns more than that it is not known.
        """
        if not key.startswith(PREFIX):
            return None
        if not is_intact(key):
            return "The key is damaged: its checksum does not match, so copy it again."
        stored = self._stored(key)
        if stored is None:
            return "The key is not known: it was deleted or replaced, or it belongs to another gateway."
        if stored.is_disabled:
            return f"The key {stored.name!r} is disabled: enable it, or use another one."
        return f"The key {stored.name!r} has expired, or this secret of it was replaced: use a new one."

    def _stored(self, key: bytes) -> ServiceKey | None:
        """Return the stored key with this secret."""
        snapshot = None if self._snapshot is None else self._snapshot()
        if snapshot is None or snapshot.hashers is None or not is_intact(key):
            return None
        stored = snapshot.service_keys.get(public_id_of(key))
        if stored is None:
            return None
        digest = snapshot.hashers.digest(stored.pepper, key)
        if digest is None or not compare_digest(digest, stored.digest):
            return None
        return stored

    def _is_in_force(self, stored: ServiceKey) -> bool:
        return stored.is_in_force(self._clock() * 1000)


class Gate:
    """ASGI middleware that passes a request to `app` if its key is known and has the required scope.

    `local_only` (dev) accepts only the hosts `localhost`, `127.0.0.1` and `[::1]`, which protects against web pages
    that reach loopback by DNS rebinding; `allowed_hosts` are accepted beside them, as names without a port. `log` takes
    the lines of requests that fail here or in `app`. `dev_key` is the public development key if it is valid; error
    messages for clients without a valid key then name it. `sign_in_page` is the response to browsers that open the
    documentation without a valid key; None sends them the error like all other clients.
    """

    def __init__(
        self,
        app: ASGIApp,
        keyring: Keyring,
        *,
        local_only: bool,
        log: Callable[..., None],
        dev_key: str | None = None,
        allowed_hosts: frozenset[str] = frozenset(),
        sign_in_page: SignInPage | None = None,
    ) -> None:
        self._app = app
        self._keyring = keyring
        self._local_only = local_only
        self._log = log
        self._dev_key = dev_key
        self._allowed_hosts = allowed_hosts
        self._sign_in_page = sign_in_page

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Authenticate an HTTP request; pass other ASGI events on."""
        if scope["type"] != "http":
            return self._app(scope, receive, send)
        request_id = new_id()
        headers = dict(scope["headers"])
        if len(headers) != len(scope["headers"]):
            without_repeated(headers, scope["headers"])
        own = headers.get(b"x-request-id")
        if own is not None and _CLIENT_ID.fullmatch(own):
            client_request_id, echo = own.decode("ascii"), own
        else:
            client_request_id, echo = None, request_id.encode()
        caller = NOBODY
        try:
            caller = self._identify(scope, headers)
            check_scope(caller, scope)
        except UnverifiedToken as found:
            context = RequestContext(NOBODY, request_id, client_request_id, echo, headers, self._log)
            return self._verify(found.token, context, scope, receive, send)
        except GatewayError as error:
            scope[REQUEST_CONTEXT] = RequestContext(caller, request_id, client_request_id, echo, headers, self._log)
            page = self._sign_in_page if isinstance(error, Unauthorized) and _is_browser_at_docs(scope) else None
            return send_error(send, scope, error) if page is None else send_sign_in(send, scope, error, page)
        scope[REQUEST_CONTEXT] = RequestContext(caller, request_id, client_request_id, echo, headers, self._log)
        return self._app(scope, receive, send)

    async def _verify(self, token: bytes, context: RequestContext, scope: Scope, receive: Receive, send: Send) -> None:
        """Have a token verified that comes for the first time, then handle its request; `context` is for an error."""
        error: GatewayError | None = None
        try:
            if self._keyring.tokens is not None:
                await self._keyring.tokens.verify(token)
        except GatewayError as failure:
            error = failure
        if error is None:
            await self(scope, receive, send)
            return
        scope[REQUEST_CONTEXT] = context
        await send_error(send, scope, error)

    def _identify(self, scope: Scope, headers: dict[bytes, bytes]) -> Caller:
        if self._local_only and not _LOCAL_HOST.fullmatch(headers.get(b"host", b"")):
            self._check_host(headers.get(b"host", b""))
        if _is_open(scope):
            return NOBODY
        key = _presented_key(scope, self._keyring)
        caller = self._keyring.find(key) if key is not None else None
        if caller is None:
            if key is not None and self._keyring.tokens is not None and is_token(key):
                return self._keyring.tokens.find(key)
            problem = None if key is None else self._keyring.problem_of(key)
            raise Unauthorized(explain(scope, headers, key, self._dev_key, problem))
        return caller

    def _check_host(self, host: bytes) -> None:
        """Check that the Host header names this machine or an allowed host.

        Raises:
            Forbidden: it is neither.
        """
        name, colon, port = host.decode("latin-1").lower().partition(":")
        if name not in self._allowed_hosts or (colon and not port.isdecimal()):
            raise Forbidden(
                "The request's Host is not one that the gateway answers to in dev: call it as localhost, 127.0.0.1 or "
                "[::1], or add the host's name to LLM_GATEWAY_ALLOWED_HOSTS, comma-separated."
            )


def _is_open(scope: Scope) -> bool:
    path: str = scope["path"]
    if path in OPEN_PATHS:
        return scope["method"] in ("GET", "HEAD")
    return is_dashboard(path)  # the dashboard has sessions of its own


def check_scope(caller: Caller, scope: Scope) -> None:
    """Check that the caller has the scope that a request needs.

    Raises:
        Forbidden: it lacks it.
    """
    if "admin" in caller.scopes:
        return
    needed = scope_needed(scope["method"], scope["path"])
    if needed is None or needed in caller.scopes or _is_open(scope):
        return
    if needed == "read" and "own" in caller.scopes:
        if scope["path"] in OWN_PATHS or scope["path"].startswith(OWN_RECORD):
            return  # narrowed by control/management/own_usage.py
        if not isinstance(caller, Person):
            raise Forbidden(f"This key lacks the scope 'read', which this request needs. {WITH_OWN}")
    who = "Your role" if isinstance(caller, Person) else "This key"
    raise Forbidden(f"{who} lacks the scope {needed!r}, which this request needs.")


def _is_browser_at_docs(scope: Scope) -> bool:
    if scope["path"] != DOCS_PATH or scope["method"] not in ("GET", "HEAD"):
        return False
    return any(name == b"accept" and b"text/html" in value for name, value in scope["headers"])


def _presented_key(scope: Scope, keyring: Keyring) -> bytes | None:
    """Return the key of the request, from a vendor's query parameter or any credential header; None if it has no key.

    Raises:
        BadRequest: the request carries different keys, and none of them comes first.
    """
    key = _key_in_query(scope) if scope["query_string"] else None
    for name, value in scope["headers"]:
        if name not in _CREDENTIALS:
            continue
        if name == b"authorization":
            if value[:7].lower() != BEARER:
                continue
            value = value[7:]  # noqa: PLW2901 - the scheme is no part of it
        presented = value.strip()
        if not presented:
            continue
        if key is not None and key != presented:
            return _first_of(scope, keyring)
        key = presented
    return key


def _first_of(scope: Scope, keyring: Keyring) -> bytes:
    """Return the key in X-Service-Key of a request that carries others, too.

    Vendors' SDKs insist on a key of their own, and proxies add their users' tokens: such credentials are not meant for
    the gateway, and are no reason to refuse a request that names its key in the header that is the gateway's alone.

    Raises:
        BadRequest: there is not exactly one X-Service-Key, or one of the others is a key of the gateway as well.
    """
    own, others = set[bytes](), _keys_in_query(scope)
    for name, value in scope["headers"]:
        if name == SERVICE_KEY:
            own.add(value.strip())
        elif name == b"authorization":
            others.add(value[7:].strip() if value[:7].lower() == BEARER else b"")
        elif name in _CREDENTIALS:
            others.add(value.strip())
    own.discard(b"")
    if len(own) != 1:
        raise BadRequest(TWO_KEYS)
    others -= {b"", *own}
    if any(keyring.find(key) is not None for key in others):
        raise BadRequest(TWO_OWN_KEYS)
    return own.pop()


def _key_in_query(scope: Scope) -> bytes | None:
    keys = _keys_in_query(scope)
    if len(keys) > 1:
        raise BadRequest(TWO_KEYS)
    return keys.pop() if keys else None


def _keys_in_query(scope: Scope) -> set[bytes]:
    return set(keys_in_query(scope["path"], scope["query_string"]))


def scope_needed(method: str, path: str) -> str | None:
    """Return the scope that this request requires: `call`, `read` or `admin`; None if any key may make it."""
    if is_call(path):
        return "call"
    if path == EXPLAIN_PATH:
        return "read"  # it is posted because it has a body
    if path == CONFIGURATION_PATH:
        return "admin"  # it has the hashes of all keys
    if path == ME_PATH and method in ("GET", "HEAD"):
        return None
    if path == SESSIONS_PATH or path.startswith(f"{SESSIONS_PATH}/"):
        return None  # without admin only the caller's own: control/management/sessions.py
    if path in (AUDIT_PATH, PEOPLE_PATH) or path.startswith((f"{AUDIT_PATH}/", f"{PEOPLE_PATH}/")):
        return "admin"
    return "read" if method in ("GET", "HEAD") else "admin"
