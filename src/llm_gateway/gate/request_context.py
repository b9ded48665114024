"""Authenticated caller, ids and headers of a request, and the log lines of requests that fail."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from starlette.types import Scope

from llm_gateway.domain.person import Identity
from llm_gateway.domain.service_key import ServiceKey
from llm_gateway.error_format.paths import without_query
from llm_gateway.error_format.responses import LONGEST_TEXT, shown
from llm_gateway.errors import GatewayError, InternalError

REQUEST_CONTEXT = "llm_gateway.request_context"
"""Key of the ASGI scope under which authentication stores the `RequestContext`."""
GATEWAY_ID = b"x-gateway-request-id"
"""Header of an answer with the gateway's own id; x-request-id has the client's if it sent one."""
LONGEST_PATH = 200
"""Characters of a path that a log line quotes."""


class Caller(msgspec.Struct, frozen=True):
    """The owner of a service key: the key's name and its scopes (`call`, `read`, `admin`, `own`).

    `key_id` is that of a key made over the API, else None. `key` has the rights of such a key, but not in the control
    process, and of a token of an identity provider; it is None for keys of the environment.
    """

    name: str
    scopes: frozenset[str]
    key_id: str | None = None
    key: ServiceKey | None = None


class Person(Caller, frozen=True):
    """A person who is signed in to the dashboard without a key; `name` is `person:` or `oidc:` and the person's name.

    A person with the scope `own` sees the usage of a team, a customer, or that of the customer in the team.
    `person_id` is that of a local person, `identity` what an identity provider said.
    """

    team_id: str | None = None
    customer: str | None = None
    person_id: str | None = None
    identity: Identity | None = None


NOBODY = Caller("", frozenset())


class RequestContext(msgspec.Struct, frozen=True, gc=False):
    """Caller, ids and headers of a request. Of a repeated header, `headers` has the last value.

    `echo` is the id in the response's x-request-id and in an error's body: the client's own, else `request_id`. `log`
    takes the request's error lines.
    """

    caller: Caller
    request_id: str
    client_request_id: str | None
    echo: bytes
    headers: dict[bytes, bytes]
    log: Callable[..., None]


def log_error(scope: Scope, error: GatewayError, status: int) -> None:
    """Log a request's error, unless the line of its usage record reports it already.

    The query string is not logged, since it can contain a key; nor is one behind an encoded question mark.
    """
    if error.is_recorded:
        return
    context: RequestContext = scope[REQUEST_CONTEXT]
    client = scope.get("client")
    context.log(
        "request refused",
        level="info" if status < 500 else "warning",
        at_once=False,
        request_id=context.request_id,
        client_request_id=context.client_request_id,
        method=scope["method"],
        path=shown(without_query(scope["path"]), LONGEST_PATH),
        status=status,
        error_code=error.code,
        detail=shown(error.detail, LONGEST_TEXT),
        key=context.caller.name or None,
        client=client[0] if client else None,
    )


def log_defect(log: Callable[..., None], context: RequestContext, error: Exception) -> None:
    """Log an unexpected exception with its traceback and both ids of the request."""
    log(
        "request failed",
        level="error",
        request_id=context.request_id,
        client_request_id=context.client_request_id,
        exc_info=error,
    )


def defect(context: RequestContext) -> InternalError:
    """Return the error to send for an unexpected exception, which `log_defect` logs."""
    error = InternalError(f"The gateway failed to serve this; report request {context.echo.decode()}.")
    error.is_recorded = True
    return error
