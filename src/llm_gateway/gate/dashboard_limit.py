"""Limit requests to the dashboard and forms at once, so that clients without a key cannot starve the management API.

A request takes a place while it is served. One with a form takes it once the form is complete, so that clients that
send slowly hold none. Sign-ins, which strangers can make slow, have places of their own.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from llm_gateway.error_format.browser_page import UI_PREFIX, is_dashboard
from llm_gateway.error_format.send_error import send_error
from llm_gateway.errors import BadRequest, GatewayError, Overloaded, PayloadTooLarge
from llm_gateway.gate.body import WITH_BODY, ClientGone

SIGN_IN = f"{UI_PREFIX}sign-in"


@dataclass(frozen=True, slots=True)
class DashboardLimits:
    """Limits of one process."""

    requests: int = 24  # at once; with the sign-ins, half of what a worker forwards
    sign_ins: int = 8  # at once
    forms: int = 64  # read at once
    forms_of_address: int = 8  # of them from one address; of IPv6 a /64 is one
    form_bytes: int = 768 * 1024  # more than the dashboard takes, so that its own page with a 413 comes first
    form_s: float = 10.0  # to send the whole form


class DashboardLimit:
    """ASGI app that limits requests to the dashboard, and passes all requests on to `app`."""

    def __init__(self, app: ASGIApp, limits: DashboardLimits | None = None) -> None:
        self._app = app
        self._limits = limits or DashboardLimits()
        self._requests = _Places("requests to the dashboard are being served", self._limits.requests)
        self._sign_ins = _Places("sign-ins are being served", self._limits.sign_ins)
        self._addresses: Counter[str] = Counter()
        self._forms = _Places("forms are being sent to the dashboard", self._limits.forms)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request that has passed the gate."""
        path: str = scope["path"]
        if not is_dashboard(path):
            await self._app(scope, receive, send)
            return
        try:
            if scope["method"] in WITH_BODY:
                receive = await self._read_of(_address_of(scope), receive)
            with (self._sign_ins if path.startswith(SIGN_IN) else self._requests).taken():
                await self._app(scope, receive, send)
        except GatewayError as error:
            await send_error(send, scope, error)
        except ClientGone:
            return

    async def _read_of(self, address: str, receive: Receive) -> Receive:
        """Read a form of a client's address. Returns and raises as `_read`."""
        if self._addresses[address] >= self._limits.forms_of_address:
            raise Overloaded(
                f"{self._limits.forms_of_address} forms are being sent from your address, which is the limit: send "
                "this one again.",
                retry_after_s=1,
            )
        self._addresses[address] += 1
        try:
            return await self._read(receive)
        finally:
            self._addresses[address] -= 1
            if not self._addresses[address]:
                del self._addresses[address]

    async def _read(self, receive: Receive) -> Receive:
        """Read a form. Returns an ASGI `receive` that begins with it.

        Raises:
            Overloaded: too many others are being read.
            BadRequest: it does not arrive in time.
            PayloadTooLarge: it is larger than any form.
            ClientGone: the client disconnected.
        """
        limits, body = self._limits, bytearray()
        with self._forms.taken():
            try:
                async with asyncio.timeout(limits.form_s):
                    while (message := await receive())["type"] == "http.request":
                        body += message.get("body", b"")
                        if len(body) > limits.form_bytes:
                            raise PayloadTooLarge(f"The form is larger than {limits.form_bytes} bytes: send less.")
                        if not message.get("more_body", False):
                            return _beginning_with(bytes(body), receive)
            except TimeoutError:
                raise BadRequest(f"The form did not arrive within {limits.form_s:g} seconds: send it again.") from None
        raise ClientGone


def _address_of(scope: Scope) -> str:
    """Return the client's address; of IPv6 its /64, which is what one subscriber has (RFC 6177)."""
    client = scope.get("client")
    address = client[0] if client else ""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if parsed.version == 4 or parsed.ipv4_mapped is not None:
        return address
    return str(ipaddress.ip_network((parsed.packed[:8] + bytes(8), 64)))


class _Places:
    """A count of what is under way, at most `most` at once; `what` says in an error what they are."""

    def __init__(self, what: str, most: int) -> None:
        self._what = what
        self._most = most
        self._count = 0

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Take a place for the block.

        Raises:
            Overloaded: there is none.
        """
        if self._count >= self._most:
            raise Overloaded(f"{self._most} {self._what}, which is the limit: send this one again.", retry_after_s=1)
        self._count += 1
        try:
            yield
        finally:
            self._count -= 1


def _beginning_with(body: bytes, receive: Receive) -> Receive:
    """Return an ASGI `receive` that returns a whole body, and then what `receive` returns."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def next_message() -> Message:
        return messages.pop() if messages else await receive()

    return next_message
