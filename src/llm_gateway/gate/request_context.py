"""The authenticated caller, ids and headers of a request, and the log line of a request that fails."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from starlette.types import Scope

from llm_gateway.error_format.responses import LONGEST_TEXT, shown
from llm_gateway.errors import GatewayError, InternalError

REQUEST_CONTEXT = "llm_gateway.request_context"
"""The key of the ASGI scope under which the gate stores the `RequestContext`."""
LONGEST_PATH = 200


class Caller(msgspec.Struct, frozen=True):
    """Who calls: the key's name and what it may do (`call`, `read`, `admin`)."""

    name: str
    scopes: frozenset[str]


NOBODY = Caller("", frozenset())


class RequestContext(msgspec.Struct, frozen=True, gc=False):
    """Caller, ids and headers of a request that passed the gate; of repeated headers the last counts.

    `echo` is the id that the client sees, in the header x-request-id and in an error's body: its own, else ours. `log`
    takes the line of an error.
    """

    caller: Caller
    request_id: str
    client_request_id: str | None
    echo: bytes
    headers: dict[bytes, bytes]
    log: Callable[..., None]


def log_error(scope: Scope, error: GatewayError, status: int) -> None:
    """Log a request's error, unless the line of its usage record reports it already.

    The query string is left out, since keys may stand in it.
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
        path=shown(scope["path"], LONGEST_PATH),
        status=status,
        error_code=error.code,
        detail=shown(error.detail, LONGEST_TEXT),
        key=context.caller.name or None,
        client=client[0] if client else None,
    )


def log_defect(log: Callable[..., None], context: RequestContext, error: Exception) -> None:
    """Log an exception that is a defect of ours, under both ids of its request."""
    log(
        "request failed",
        level="error",
        request_id=context.request_id,
        client_request_id=context.client_request_id,
        exc_info=error,
    )


def defect(context: RequestContext) -> InternalError:
    """Return the error for a request that failed by a defect of ours, which `log_defect` logs."""
    error = InternalError(f"The gateway failed to serve this; report request {context.echo.decode()}.")
    error.is_recorded = True
    return error
