"""What every endpoint of the data plane shares: the cap on requests in flight, the body, and what becomes of errors."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable

from starlette.types import Receive, Scope, Send

from llm_gateway.error_format.send_error import send_error
from llm_gateway.errors import GatewayError, InternalError, MethodNotAllowed, Overloaded
from llm_gateway.gate.body import ClientGone, InFlight, read_body
from llm_gateway.gate.request_context import REQUEST_CONTEXT, RequestContext, defect, log_defect
from llm_gateway.worker.pipeline.usage_recorder import CancelledAndRecorded


class Endpoint(ABC):
    """One POST endpoint, as a plain ASGI class."""

    def __init__(self, in_flight: InFlight, log: Callable[..., None]) -> None:
        self._in_flight = in_flight
        self._log = log

    @abstractmethod
    async def serve(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Answer with a 200. The caller is `scope[REQUEST_CONTEXT]`.

        Raises:
            GatewayError: what the caller is told instead; nothing has been sent then.
        """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry."""
        context: RequestContext = scope[REQUEST_CONTEXT]
        in_flight = self._in_flight
        try:
            if scope["method"] != "POST":
                raise MethodNotAllowed("This path takes POST only.", allow=("POST",))
            if in_flight.count >= in_flight.cap:
                raise Overloaded(
                    "The gateway serves as many requests as LLM_GATEWAY_MAX_IN_FLIGHT allows: try again, or raise it.",
                    retry_after_s=1,
                )
            in_flight.count += 1
            try:
                body = await read_body(receive, in_flight)
                try:
                    await self.serve(scope, body, receive, send)
                finally:
                    in_flight.release(len(body))
            finally:
                in_flight.count -= 1
        except GatewayError as error:
            await send_error(send, scope, error)
        except ClientGone:
            return
        except asyncio.CancelledError as cancelled:
            stopping = Overloaded("The gateway is stopping.")
            stopping.is_recorded = isinstance(cancelled, CancelledAndRecorded)
            await send_error(send, scope, stopping)
        except Exception as error:  # edge: a defect of ours
            await send_error(send, scope, self.failed(context, error))

    def failed(self, context: RequestContext, error: Exception) -> InternalError:
        """Log a defect of ours; what the caller is told of it."""
        log_defect(self._log, context, error)
        return defect(context)
