"""Send an error in the format of the path that was requested: problem details, a vendor protocol's own, or a page."""

from __future__ import annotations

from starlette.types import Scope, Send

from llm_gateway.error_format.browser_page import HEADERS, HTML, browser_page
from llm_gateway.error_format.responses import JSON, error_headers, send_body, send_problem, shorten
from llm_gateway.errors import GatewayError, Invalid
from llm_gateway.gate.request_context import GATEWAY_ID, REQUEST_CONTEXT, RequestContext, log_error
from llm_gateway.protocols.registry import VENDOR_PATH_PREFIXES, is_call, protocol_of


async def send_error(send: Send, scope: Scope, error: GatewayError) -> None:
    """Send and log an error of a request, in the format of its path. The scope must have a `RequestContext`.

    For a call, it has the gateway's own id of the request, under which the log and the usage record have it.
    """
    path: str = scope["path"]
    context: RequestContext = scope[REQUEST_CONTEXT]
    echo = context.echo
    more = [(GATEWAY_ID, context.request_id.encode())] if is_call(path) else []
    if not path.startswith(VENDOR_PATH_PREFIXES):
        log_error(scope, error, error.status)
        page = browser_page(scope, error)
        if page is None:
            await send_problem(send, error, echo, more)
        else:
            own = [*HEADERS, *error_headers(error), (b"x-request-id", echo), *more]
            if error.status == 413:
                own.append((b"connection", b"close"))
            await send_body(send, error.status, page, HTML, own)
        return
    log_error(scope, error, status_of(error))
    protocol = protocol_of(path, context.headers, scope["query_string"])
    shorten(error)
    body = protocol.write_error(error, echo.decode())
    headers = [*error_headers(error), *((name, echo) for name in protocol.id_headers), *more]
    if error.status == 413:
        headers.append((b"connection", b"close"))
    await send_body(send, status_of(error), body, JSON, headers)


def status_of(error: GatewayError) -> int:
    """Return the error's status on vendor-compatible paths: 400 instead of 422, which vendors' APIs do not use."""
    return 400 if isinstance(error, Invalid) else error.status
