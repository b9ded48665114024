"""Errors in the shape of the surface they are told on: problem details, OpenAI's, or Anthropic's."""

from __future__ import annotations

from starlette.types import Send

from llm_gateway.api.responses import JSON, Headers, error_headers, send_body, send_problem
from llm_gateway.errors import GatewayError, Invalid
from llm_gateway.protocols.anthropic_messages.errors import write_error as anthropic_error
from llm_gateway.protocols.openai_chat.errors import write_error as openai_error

SURFACES = "/v1/"
MESSAGES = "/v1/messages"


async def send_error(
    send: Send, path: str, error: GatewayError, request_id: str, echo: bytes, more_headers: Headers | None = None
) -> None:
    """One error, as clients of that path read it. `echo` is the value of x-request-id: the caller's own, else ours."""
    if not path.startswith(SURFACES):
        await send_problem(send, error, request_id, echo, more_headers)
        return
    is_messages = path == MESSAGES or path.startswith(f"{MESSAGES}/")
    body = (anthropic_error if is_messages else openai_error)(error, request_id)
    headers = [*(more_headers or ()), *error_headers(error), (b"x-request-id", echo)]
    if is_messages:
        headers.append((b"request-id", echo))  # as the vendor names it, and its SDK
    if error.status == 413:
        headers.append((b"connection", b"close"))
    await send_body(send, status_of(error), body, JSON, headers)


def status_of(error: GatewayError) -> int:
    """The status on a surface of a vendor's: theirs have no 422."""
    return 400 if isinstance(error, Invalid) else error.status
