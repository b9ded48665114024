"""Send HTTP responses with a complete body, and errors as problem details (RFC 9457)."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterable

import msgspec
from starlette.types import Send

from llm_gateway.domain.usage import NANOS_PER_USD
from llm_gateway.errors import (
    BudgetStatus,
    CodingNotSupported,
    GatewayError,
    Invalid,
    MethodNotAllowed,
    NotSupported,
    Unauthorized,
    WebSocketNotSupported,
)
from llm_gateway.json_outline import Piece

JSON = b"application/json"
PROBLEM = b"application/problem+json"
Headers = list[tuple[bytes, bytes]]

PIECE_BYTES = 256 * 1024
"""Bytes of a large body that are sent in one turn of the event loop."""
LONGEST_TEXT, LONGEST_NAME = 600, 100
"""Maximum characters of an error message, and of a field's name in it; both can quote the client."""
_UNPRINTABLE = dict.fromkeys((*range(32), 127), "�") | {ord(blank): " " for blank in "\t\n\r"}


class FieldError(msgspec.Struct):
    """An error of one field: its path `loc`, a sentence `msg`, and the kind of error `type`."""

    loc: list[str | int]
    msg: str
    type: str


class ProblemBudget(msgspec.Struct, omit_defaults=True):
    """The budget's account in which a request has no room. Amounts are in dollars, tokens or requests.

    `scope` is `all`, or the dimension and value of the account. A budget that never resets has no `resets_at`.
    """

    name: str
    scope: str
    limit_usd: float | msgspec.UnsetType = msgspec.UNSET
    spent_usd: float | msgspec.UnsetType = msgspec.UNSET
    held_usd: float | msgspec.UnsetType = msgspec.UNSET
    limit_tokens: int | msgspec.UnsetType = msgspec.UNSET
    spent_tokens: int | msgspec.UnsetType = msgspec.UNSET
    held_tokens: int | msgspec.UnsetType = msgspec.UNSET
    limit_requests: int | msgspec.UnsetType = msgspec.UNSET
    spent_requests: int | msgspec.UnsetType = msgspec.UNSET
    held_requests: int | msgspec.UnsetType = msgspec.UNSET
    resets_at: str | msgspec.UnsetType = msgspec.UNSET


class Problem(msgspec.Struct):
    """The body of an error response. `detail` says what to do; `errors` exists with 422 only, `budget` with 429."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    errors: list[FieldError] | msgspec.UnsetType = msgspec.UNSET
    budget: ProblemBudget | msgspec.UnsetType = msgspec.UNSET


def problem_of(error: GatewayError, request_id: str) -> Problem:
    """Build the problem document of an error."""
    return Problem(
        type=f"urn:llm-gateway:error:{error.code}",
        title=error.title,
        status=error.status,
        detail=shown(error.detail, LONGEST_TEXT),
        code=error.code,
        request_id=request_id,
        errors=_field_errors(error) if isinstance(error, Invalid) else msgspec.UNSET,
        budget=msgspec.UNSET if error.budget is None else _problem_budget(error.budget),
    )


def _problem_budget(budget: BudgetStatus) -> ProblemBudget:
    per_unit = NANOS_PER_USD if budget.unit == "usd" else 1
    amounts = {"limit": budget.limit, "spent": budget.spent, "held": budget.held}
    named = {f"{name}_{budget.unit}": amount / per_unit if per_unit > 1 else amount for name, amount in amounts.items()}
    shown_budget = ProblemBudget(budget.name, budget.scope, **named)  # type: ignore[arg-type]  # by its unit
    if budget.resets_at is not None:
        shown_budget.resets_at = budget.resets_at
    return shown_budget


def shown(text: str, longest: int) -> str:
    """Return `text`, which can quote the client, with unprintable characters replaced and a long middle cut out."""
    text = text.translate(_UNPRINTABLE)
    half = longest // 2
    return text if len(text) <= longest else f"{text[: half - 1]}…{text[-half:]}"


def shorten(error: GatewayError) -> None:
    """Cut the texts of an error to the lengths that are sent, since they can quote a client's body of megabytes."""
    error.detail = shown(error.detail, LONGEST_TEXT)
    if isinstance(error, NotSupported):
        error.field = shown(error.field, LONGEST_NAME)
    if isinstance(error, Invalid):
        error.errors = msgspec.to_builtins(_field_errors(error))


def _field_errors(error: Invalid) -> list[FieldError]:
    errors = msgspec.convert(error.errors, list[FieldError])
    for one in errors:
        one.loc = [shown(part, LONGEST_NAME) if isinstance(part, str) else part for part in one.loc]
        one.msg = shown(one.msg, LONGEST_TEXT)
    return errors


def error_headers(error: GatewayError) -> Headers:
    """Return the headers of an error: retry advice, limits, the provider, and what its status requires."""
    should_retry = b"true" if error.retryable else b"false"
    headers = [(b"x-should-retry", should_retry), *error.headers, *provider_header(error)]
    if error.retry_after_s is not None:
        milliseconds = max(1, math.ceil(error.retry_after_s * 1000))
        headers.append((b"retry-after", str(math.ceil(milliseconds / 1000)).encode()))
        headers.append((b"retry-after-ms", str(milliseconds).encode()))
    if isinstance(error, Unauthorized):
        headers.append((b"www-authenticate", b"Bearer"))  # RFC 9110, section 15.5.2
    if isinstance(error, MethodNotAllowed):
        headers.append((b"allow", ", ".join(error.allow).encode()))
    if isinstance(error, CodingNotSupported):
        headers.append((b"accept-encoding", b"identity"))  # RFC 9110, section 15.5.16
    if isinstance(error, WebSocketNotSupported):
        headers.append((b"upgrade", b"HTTP/1.1"))  # RFC 9110, section 15.5.22
    return headers


def provider_header(error: GatewayError) -> Headers:
    """Return the header that names the provider whose response an error reports; none for other errors."""
    return [] if error.provider is None else [(b"x-gateway-provider", error.provider.encode())]


async def send_body(send: Send, status: int, body: bytes, content_type: bytes, headers: Headers) -> None:
    """Send one complete response."""
    start = [(b"content-type", content_type), (b"content-length", b"%d" % len(body)), *headers]
    await send({"type": "http.response.start", "status": status, "headers": start})
    await send({"type": "http.response.body", "body": body})


async def send_pieces(
    send: Send, status: int, pieces: Iterable[bytearray | Piece], content_type: bytes, headers: Headers
) -> None:
    """Send one complete response in pieces, each when the client has read most of the earlier ones."""
    pieces = list(pieces)
    size = sum(map(len, pieces))
    start = [(b"content-type", content_type), (b"content-length", b"%d" % size), *headers]
    await send({"type": "http.response.start", "status": status, "headers": start})
    for whole in pieces:
        view = memoryview(whole if isinstance(whole, bytearray) else bytes(whole))
        for begin in range(0, len(view), PIECE_BYTES):
            piece = bytes(view[begin : begin + PIECE_BYTES])
            await send({"type": "http.response.body", "body": piece, "more_body": True})
            await asyncio.sleep(0)
    await send({"type": "http.response.body", "body": b""})


async def send_problem(send: Send, error: GatewayError, echo: bytes, more: Iterable[tuple[bytes, bytes]] = ()) -> None:
    """Send an error as a problem document. `echo` is the id for x-request-id and for the body; `more` are headers."""
    body = msgspec.json.encode(problem_of(error, echo.decode()))
    headers = [*error_headers(error), (b"x-request-id", echo), *more]
    if error.status == 413:
        headers.append((b"connection", b"close"))
    await send_body(send, error.status, body, PROBLEM, headers)
