"""Response to a browser that opens a page without a key: a page that asks for the key, with status 401."""

from __future__ import annotations

import msgspec
from starlette.types import Scope, Send

from llm_gateway.error_format.responses import error_headers, send_body
from llm_gateway.errors import GatewayError
from llm_gateway.gate.request_context import REQUEST_CONTEXT, RequestContext, log_error

HTML = b"text/html; charset=utf-8"


class SignInPage(msgspec.Struct, frozen=True):
    """An HTML page that asks for a service key, and the headers to send it with."""

    body: bytes
    headers: dict[str, str]


async def send_sign_in(send: Send, scope: Scope, error: GatewayError, page: SignInPage) -> None:
    """Send the page as the response to `error`, and log it. The scope must have a `RequestContext`."""
    context: RequestContext = scope[REQUEST_CONTEXT]
    log_error(scope, error, error.status)
    headers = [(name.encode(), value.encode()) for name, value in page.headers.items()]
    headers += [*error_headers(error), (b"x-request-id", context.echo)]
    await send_body(send, error.status, page.body, HTML, headers)
