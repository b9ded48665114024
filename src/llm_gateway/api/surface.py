"""What every data-plane surface shares: the cap on requests in flight, the body, and what becomes of errors."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable

from starlette.types import Receive, Scope, Send

from llm_gateway.api.entry import ENTRY, Entry
from llm_gateway.api.shapes import send_error
from llm_gateway.api.value_limit import check_number_of_values
from llm_gateway.domain.plan import Recorded
from llm_gateway.errors import GatewayError, InternalError, MethodNotAllowed, Overloaded, PayloadTooLarge

MAX_BODY_BYTES = 4 * 1024 * 1024
DROP_BYTES = 2 * MAX_BODY_BYTES
DROP_SECONDS = 5.0


class ClientGone(Exception):
    """The client went away before its request was complete: there is nobody to answer."""


class InFlight:
    """Counts the requests being served and the bytes of their bodies, over all endpoints.

    `cap` bounds the requests, `cap_bytes` their bodies' bytes: a decoded body takes several times its size.
    """

    __slots__ = ("bytes", "cap", "cap_bytes", "count")

    def __init__(self, cap: int, cap_bytes: int) -> None:
        self.cap = cap
        self.cap_bytes = cap_bytes
        self.count = 0
        self.bytes = 0

    def hold(self, size: int) -> None:
        """Count `size` bytes of a body until `release`.

        Raises:
            Overloaded: they would be more than the cap.
        """
        if self.bytes + size > self.cap_bytes:
            raise Overloaded(
                "The bodies of the requests in flight are as large as they may be: try again.", retry_after_s=1
            )
        self.bytes += size

    def release(self, size: int) -> None:
        """Give back what `hold` counted."""
        self.bytes -= size


async def read_body(receive: Receive, in_flight: InFlight) -> bytes:
    """Return the whole body of a request, counted in `in_flight`; the caller releases its length.

    Raises:
        PayloadTooLarge: it is over 4 MiB; up to 8 MiB or 5 s of it were read and dropped. Or it holds too many values.
        Overloaded: there is no room for it; the rest of it was dropped in the same way.
        ClientGone: the client went away.
    """
    message = await receive()
    chunks: list[bytes] = []
    held = size = 0
    try:
        while True:
            if message["type"] == "http.disconnect":
                raise ClientGone
            chunk: bytes = message.get("body", b"")
            size += len(chunk)
            if size > MAX_BODY_BYTES:
                raise PayloadTooLarge(f"The body is larger than {MAX_BODY_BYTES} bytes: send less.")
            in_flight.hold(size - held)
            held = size
            more_body = message.get("more_body", False)
            chunks.append(chunk)
            if not more_body:
                body = chunk if len(chunks) == 1 else b"".join(chunks)
                check_number_of_values(body)
                return body
            message = await receive()
    except BaseException as error:  # edge: however it fails, its bytes are counted no more
        in_flight.release(held)
        chunks.clear()
        if isinstance(error, GatewayError) and message.get("more_body", False):
            await _drop_rest(receive, size)
        raise


async def _drop_rest(receive: Receive, size: int) -> None:
    try:
        async with asyncio.timeout(DROP_SECONDS):
            while size <= DROP_BYTES:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGone
                size += len(message.get("body", b""))
                if not message.get("more_body", False):
                    return
    except TimeoutError:
        return


def log_defect(log: Callable[..., None], entry: Entry, error: Exception) -> None:
    """Log an exception that is a defect of ours, under both ids of its request."""
    log(
        "request failed",
        level="error",
        request_id=entry.request_id,
        client_request_id=entry.client_request_id,
        exc_info=error,
    )


def defect(entry: Entry) -> InternalError:
    """Return the error for a request that failed by a defect of ours, which `log_defect` logs."""
    error = InternalError(f"The gateway failed to serve this; report request {entry.echo.decode()}.")
    error.is_recorded = True
    return error


class Surface(ABC):
    """A client-facing dialect: a POST endpoint as a plain ASGI class."""

    def __init__(self, in_flight: InFlight, log: Callable[..., None]) -> None:
        self._in_flight = in_flight
        self._log = log

    @abstractmethod
    async def serve(self, entry: Entry, body: bytes, receive: Receive, send: Send) -> None:
        """Answer with a 200.

        Raises:
            GatewayError: what the caller is told instead; nothing has been sent then.
        """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry."""
        entry: Entry = scope[ENTRY]
        in_flight = self._in_flight
        try:
            if scope["method"] != "POST":
                raise MethodNotAllowed("This path takes POST only.", allow=("POST",))
            if in_flight.count >= in_flight.cap:
                raise Overloaded("The gateway is serving as many requests as it may: try again.", retry_after_s=1)
            in_flight.count += 1
            try:
                body = await read_body(receive, in_flight)
                try:
                    await self.serve(entry, body, receive, send)
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
            stopping.is_recorded = isinstance(cancelled, Recorded)
            await send_error(send, scope, stopping)
        except Exception as error:  # edge: a defect of ours
            await send_error(send, scope, self.failed(entry, error))

    def failed(self, entry: Entry, error: Exception) -> InternalError:
        """Log a defect of ours; what the caller is told of it."""
        log_defect(self._log, entry, error)
        return defect(entry)
