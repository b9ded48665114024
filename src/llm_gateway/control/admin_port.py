"""Admin port: the management API on a TCP socket of control's own, behind the same gate as a worker's.

The supervisor holds the socket, so that connections wait in it while one control process replaces another. The old
control process closes its copy and answers on the connections that it has; the new one accepts those that wait.
"""

from __future__ import annotations

import socket
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from llm_gateway.docs_page.page import build_page
from llm_gateway.domain.catalog import Snapshot
from llm_gateway.domain.explanation import EXPLAIN_PATH
from llm_gateway.error_format.responses import send_body
from llm_gateway.error_format.send_error import send_error
from llm_gateway.errors import GatewayError, NotFound, Overloaded
from llm_gateway.gate.authentication import DOCS_PATH, HOME_PATH, Gate, Keyring
from llm_gateway.gate.body import MAX_BODY_BYTES
from llm_gateway.gate.dashboard_limit import DashboardLimit
from llm_gateway.gate.jwt_callers import TokenCallers
from llm_gateway.gate.request_context import REQUEST_CONTEXT, RequestContext
from llm_gateway.gate.reverse_proxy import ReverseProxy
from llm_gateway.protocols.registry import GENERATE_PATH, is_call
from llm_gateway.server import Limits, Server, most_connections
from llm_gateway.server.accepting import accept_new_connections
from llm_gateway.settings import Settings

MOST_REQUESTS = 64
"""Requests at once, as many as a worker forwards."""
MOST_CONNECTIONS = 1024
MEBIBYTE = 1024 * 1024
KEPT_IDLE_S = 1.0
"""Seconds for which an idle connection is kept when another control process takes over. It waits for them."""
PUBLIC_ONLY = "is served at LLM_GATEWAY_HOST and LLM_GATEWAY_PORT, not on the admin port: send the request there."


class AdminPort:
    """A server of `app`, the management API, on a socket that the supervisor has bound. `app` is started elsewhere.

    Call `start` once `app` serves, then `run`, which ends after `stop` or `retire`. `snapshot` returns the
    configuration in force, which has the service keys.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Settings,
        descriptor: int,
        *,
        snapshot: Callable[[], Snapshot],
        log: Callable[..., None],
        tokens: TokenCallers,
    ) -> None:
        self._sock = socket.socket(fileno=descriptor)
        self._sock.setblocking(False)
        self._server = Server(
            Lasting(build_entrance(app, settings, snapshot, log, tokens)),
            accept_s=0.0,
            drain_s=settings.drain_seconds,
            on_stopping=lambda: None,
            log=log,
            limits=Limits(
                connections=min(most_connections(), MOST_CONNECTIONS),
                body_bytes=2 * MAX_BODY_BYTES + MEBIBYTE,  # the application's own 413 comes first
                retired_idle_s=KEPT_IDLE_S,
            ),
        )

    async def start(self) -> None:
        """Accept connections, those that have waited first.

        Raises:
            ConfigurationError: another process listens on the address.
        """
        accept_new_connections(self._sock)
        await self._server.start(self._sock)

    async def run(self) -> None:
        """Serve until stopped; then answer the requests in flight."""
        await self._server.run()

    @property
    def is_stopping(self) -> bool:
        """True from the first `stop` or `retire` on."""
        return self._server.is_stopping

    def stop(self) -> None:
        """Begin to stop, since the gateway stops; a second call cancels running requests."""
        self._server.stop(accepting=False)

    def retire(self) -> None:
        """Begin to stop, since another control process takes over; connections wait for it in the socket."""
        self._server.retire()


class Lasting:
    """ASGI app that answers the lifespan of a server by itself, and passes requests on to `app`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request or the lifespan."""
        if scope["type"] != "lifespan":
            await self._app(scope, receive, send)
            return
        await receive()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await send({"type": "lifespan.shutdown.complete"})


class ManagementOnly:
    """ASGI app that refuses what workers serve, and too many requests at once, and passes others on to `app`."""

    def __init__(self, app: ASGIApp, root_path: str = "") -> None:
        self._app = app
        self._root_path = root_path
        self._count = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request that has passed the gate."""
        if scope["path"] == HOME_PATH and scope["method"] in ("GET", "HEAD"):
            context: RequestContext = scope[REQUEST_CONTEXT]
            headers = [(b"location", f"{self._root_path}{DOCS_PATH}".encode()), (b"x-request-id", context.echo)]
            await send_body(send, 307, b"", b"text/plain", headers)
            return
        try:
            self._check(scope["path"])
        except GatewayError as error:
            await send_error(send, scope, error)
            return
        self._count += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._count -= 1

    def _check(self, path: str) -> None:
        """Check that a request may be served.

        Raises:
            NotFound: workers serve its path.
            Overloaded: too many requests are being served.
        """
        if is_call(path) or path == EXPLAIN_PATH:
            what = path if path in (GENERATE_PATH, EXPLAIN_PATH) else "What vendors' clients call"
            raise NotFound(f"{what} {PUBLIC_ONLY}")
        if self._count >= MOST_REQUESTS:
            raise Overloaded(
                f"{MOST_REQUESTS} requests are being served on the admin port, which is the limit: send this one "
                "again.",
                retry_after_s=1,
            )


def build_entrance(
    app: ASGIApp,
    settings: Settings,
    snapshot: Callable[[], Snapshot],
    log: Callable[..., None],
    tokens: TokenCallers | None = None,
) -> ASGIApp:
    """Return what requests pass before `app`: the same as in a worker, and the limits of the admin port."""
    gate = Gate(
        DashboardLimit(ManagementOnly(app, settings.root_path)),
        Keyring(settings.callers(), snapshot, tokens=tokens if settings.jwt_issuer else None),
        local_only=settings.env == "dev",
        log=log,
        dev_key=settings.dev_key,
        allowed_hosts=settings.own_hosts,
        sign_in_page=build_page(settings.dev_key),
    )
    networks = settings.proxy_networks
    return ReverseProxy(gate, networks, settings.root_path) if networks or settings.root_path else gate
