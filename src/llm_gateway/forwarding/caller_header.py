"""Identity of a caller on its way from the gate of a worker to the control process: one header per request."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from llm_gateway.domain.jwt_verdict import TokenCaller
from llm_gateway.domain.uuid7 import new_id
from llm_gateway.error_format.send_error import send_error
from llm_gateway.errors import Forbidden
from llm_gateway.gate.jwt_callers import caller_of, token_of
from llm_gateway.gate.request_context import NOBODY, REQUEST_CONTEXT, Caller, RequestContext

IDENTITY = b"x-gateway-internal-identity"
"""The header. A client's own one is dropped before a request is forwarded."""
NO_IDENTITY = (
    "The request does not come from a worker of this gateway: send it to the gateway's own address, not to the socket "
    "of its control process."
)


class ForwardedIdentity(msgspec.Struct, frozen=True, kw_only=True):
    """The caller and the ids of a request, and what its client's connection was.

    Fields that this version does not know are skipped, and new ones need a default: while a gateway is replaced, its
    processes are of two versions. `has_host`: the client sent a Host header, which HTTP/1.0 does not require. `key_id`
    is that of a key made over the API, `token` the caller of a token of an identity provider.
    """

    name: str
    scopes: frozenset[str]
    request_id: str
    client_request_id: str | None = None
    client: tuple[str, int] | None = None
    server: tuple[str, int | None] | None = None
    scheme: str = "http"
    has_host: bool = True
    key_id: str | None = None
    token: TokenCaller | None = None


def write_identity(scope: Scope) -> bytes:
    """Return the value of the header for a request that has passed the gate."""
    context: RequestContext = scope[REQUEST_CONTEXT]
    identity = ForwardedIdentity(
        name=context.caller.name,
        scopes=context.caller.scopes,
        request_id=context.request_id,
        client_request_id=context.client_request_id,
        client=scope.get("client"),
        server=scope.get("server"),
        scheme=scope.get("scheme", "http"),
        has_host=b"host" in context.headers,
        key_id=context.caller.key_id,
        token=token_of(context.caller),
    )
    return base64.b64encode(msgspec.json.encode(identity))  # base64: a key's name may hold what headers may not


def read_identity(values: list[bytes]) -> ForwardedIdentity | None:
    """Return the identity in the values of a request's identity headers; None unless there is one that is valid."""
    if len(values) != 1:
        return None
    try:
        return msgspec.json.decode(base64.b64decode(values[0], validate=True), type=ForwardedIdentity)
    except (binascii.Error, msgspec.MsgspecError, UnicodeError):
        return None


def _caller_of(identity: ForwardedIdentity) -> Caller:
    if identity.token is not None:
        return caller_of(identity.token)
    return Caller(identity.name, identity.scopes, identity.key_id)


class RestoreCaller:
    """ASGI middleware that restores what the worker's gate has put into the scope, so that `app` finds it unchanged.

    Use it only behind a socket that other users cannot reach: the header is believed. A request without it is refused
    with 403. `log` takes the lines of requests that fail here or in `app`.
    """

    def __init__(self, app: ASGIApp, log: Callable[..., None]) -> None:
        self._app = app
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Restore the caller of an HTTP request; pass other ASGI events on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        values = [value for name, value in scope["headers"] if name == IDENTITY]
        identity = read_identity(values)
        has_host = identity is None or identity.has_host
        headers = [
            (name, value) for name, value in scope["headers"] if name != IDENTITY and (has_host or name != b"host")
        ]
        if identity is None:
            request_id = new_id()
            context = RequestContext(NOBODY, request_id, None, request_id.encode(), dict(headers), self._log)
            await send_error(send, {**scope, REQUEST_CONTEXT: context}, Forbidden(NO_IDENTITY))
            return
        context = RequestContext(
            _caller_of(identity),
            identity.request_id,
            identity.client_request_id,
            (identity.client_request_id or identity.request_id).encode(),
            dict(headers),
            self._log,
        )
        restored = {
            **scope,
            "headers": headers,
            "client": identity.client,
            "server": identity.server,
            "scheme": identity.scheme,
            REQUEST_CONTEXT: context,
        }
        await self._app(restored, receive, send)
