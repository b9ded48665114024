"""Endpoints for health, liveness and readiness of a worker, answered from what control sent last.

They answer GET and HEAD requests with any query, since monitoring systems add parameters of their own. Other methods go
to the management API, which knows what is wrong with them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

from starlette.types import ASGIApp, Receive, Scope, Send

from llm_gateway.error_format.responses import JSON, send_body
from llm_gateway.error_format.send_error import send_error
from llm_gateway.errors import GatewayError, JournalUnavailable, Overloaded
from llm_gateway.gate.request_context import REQUEST_CONTEXT, RequestContext
from llm_gateway.journal.committed_journal import NO_DATABASE

ALIVE = b'{"status":"ok"}'
READY = b'{"status":"ready"}'
HEALTHY = b'{"status":"ok","service":"llm-gateway","database":"ok"}'
DEGRADED = b'{"status":"degraded","service":"llm-gateway","database":"unavailable"}'
BEHIND = b'{"status":"degraded","service":"llm-gateway","database":"ok"}'
"""The database answers, but usage has not reached it for a minute."""
OK, DEGRADED_STATUS = b'"status":"ok"', b'"status":"degraded"'
REDIS = {True: b',"redis":"ok"}', False: b',"redis":"unavailable"}'}
"""End of the document where several hosts share a Redis: without it limits and cache are this host's own."""
UNREADY = "The gateway is starting or stopping: ask another one."
UNWRITABLE = (
    "The usage journal cannot be written, so calls are refused: free space on the disk of LLM_GATEWAY_DATA_DIR, or "
    "repair it."
)


class WorkerState(Protocol):
    """State of a worker that its health endpoints report."""

    def is_serving(self) -> bool:
        """Return whether requests are accepted: the process is neither starting nor stopping."""
        ...

    def can_record(self) -> bool:
        """Return whether the journal can be written."""
        ...

    def can_commit(self) -> bool:
        """Return whether the database stores usage, if each record must be there before its answer."""
        ...

    def has_database(self) -> bool:
        """Return whether control answers, and said last that the database does."""
        ...

    def is_behind(self) -> bool:
        """Return whether control said last that usage has waited for the database for more than a minute."""
        ...

    def hosts(self) -> int:
        """Return the number of gateways on the database, as control said last; 0 if only one can use it."""
        ...

    def has_redis(self) -> bool | None:
        """Return whether the Redis of several hosts answers; None without one."""
        ...


def health_endpoints(state: WorkerState, management: ASGIApp) -> Mapping[str, ASGIApp]:
    """Return the endpoints by path; requests that they do not answer go to `management`."""

    def alive() -> bytes:
        return ALIVE

    def without_redis() -> bytes:
        serving = BEHIND if state.is_behind() else HEALTHY
        body = serving if state.has_database() else DEGRADED  # still a 200: it serves without its database
        hosts = state.hosts()
        return b'%b,"hosts":%d}' % (body[:-1], hosts) if hosts else body

    def health() -> bytes:
        found = without_redis()
        has_redis = state.has_redis()
        if has_redis is None:
            return found
        return (found if has_redis else found.replace(OK, DEGRADED_STATUS, 1))[:-1] + REDIS[has_redis]

    def ready() -> bytes:
        if not state.is_serving():
            raise Overloaded(UNREADY)
        if not state.can_record():
            raise JournalUnavailable(UNWRITABLE)
        if not state.can_commit():
            raise JournalUnavailable(NO_DATABASE)
        return READY

    answers = {"/healthz": alive, "/api/v1/health": health, "/readyz": ready}
    return {path: HealthEndpoint(answer, management) for path, answer in answers.items()}


class HealthEndpoint:
    """ASGI app that answers with the JSON document of `answer`, or with the error that it raises."""

    def __init__(self, answer: Callable[[], bytes], management: ASGIApp) -> None:
        self._answer = answer
        self._management = management

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["method"] not in ("GET", "HEAD"):
            await self._management(scope, receive, send)
            return
        context: RequestContext = scope[REQUEST_CONTEXT]
        try:
            body = self._answer()
        except GatewayError as error:
            await send_error(send, scope, error)
            return
        await send_body(send, 200, body, JSON, [(b"x-request-id", context.echo)])
