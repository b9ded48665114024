"""Base class of POST endpoints: limit requests in flight, read the body, and turn exceptions into error responses."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable

from starlette.types import Receive, Scope, Send

from llm_gateway.error_format.send_error import send_error
from llm_gateway.errors import GatewayError, InternalError, MethodNotAllowed, Overloaded, WebSocketNotSupported
from llm_gateway.gate.body import MAX_BODY_BYTES, ClientGone, read_body, refuse_compressed
from llm_gateway.gate.in_flight import InFlight
from llm_gateway.gate.request_context import REQUEST_CONTEXT, RequestContext, defect, log_defect
from llm_gateway.json_outline import Buffer
from llm_gateway.worker.pipeline.usage_recorder import CancelledAndRecorded


def _wrong_method(context: RequestContext) -> GatewayError:
    """Return the error for a method other than POST.

    Codex opens a WebSocket first: only a 426 makes it send the request by POST at once, and without further tries
    (https://github.com/ranxianglei/billion-context/pull/169, 2026-08-17).
    """
    if b"sec-websocket-key" in context.headers:
        return WebSocketNotSupported("This path does not support WebSocket: send the request by POST.")
    return MethodNotAllowed("This path accepts only POST.", allow=("POST",))


class Endpoint(ABC):
    """A POST endpoint, as an ASGI app. Subclasses implement `serve`. `most_bytes` is the limit of a body."""

    def __init__(self, in_flight: InFlight, log: Callable[..., None], most_bytes: int = MAX_BODY_BYTES) -> None:
        self._in_flight = in_flight
        self._log = log
        self._most_bytes = most_bytes

    @abstractmethod
    async def serve(self, scope: Scope, body: Buffer, receive: Receive, send: Send) -> None:
        """Send the 200 response. `scope[REQUEST_CONTEXT]` holds the caller and the request's headers.

        Raises:
            GatewayError: the error to send instead; raise it only before anything was sent.
        """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body and call `serve`; send an error response for what it raises (ASGI)."""
        context: RequestContext = scope[REQUEST_CONTEXT]
        in_flight = self._in_flight
        try:
            if scope["method"] != "POST":
                raise _wrong_method(context)
            refuse_compressed(context.headers)
            in_flight.enter()
            try:
                body = await read_body(receive, in_flight, self._most_bytes)
                try:
                    await self.serve(scope, body, receive, send)
                finally:
                    in_flight.release(len(body))
            finally:
                in_flight.leave()
        except GatewayError as error:
            await send_error(send, scope, error)
        except ClientGone:
            return
        except asyncio.CancelledError as cancelled:
            stopping = Overloaded("The gateway is stopping: send the request again.")
            stopping.is_recorded = isinstance(cancelled, CancelledAndRecorded)
            await send_error(send, scope, stopping)
        except Exception as error:  # edge: a defect of the gateway is logged and answered with 500
            await send_error(send, scope, self.failed(context, error))

    def failed(self, context: RequestContext, error: Exception) -> InternalError:
        """Log a defect of the gateway, and return the error for the client."""
        log_defect(self._log, context, error)
        return defect(context)
