"""ASGI application of the dashboard: from a path below /ui to a screen, for people who are signed in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TypeAlias

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from llm_gateway.dashboard.access import WRONG_ORIGIN, Access, SignedIn
from llm_gateway.dashboard.api_client import ApiClient, ApiError
from llm_gateway.dashboard.oidc_sign_in import CALLBACK, OidcParts, OidcSignIn
from llm_gateway.dashboard.page import Page, Pages
from llm_gateway.dashboard.screens import SCREENS
from llm_gateway.dashboard.sign_in import SignIn
from llm_gateway.dashboard.static_files import static_files
from llm_gateway.dashboard.undo import toast_of
from llm_gateway.error_format.browser_page import is_dashboard
from llm_gateway.gate.request_context import REQUEST_CONTEXT, RequestContext, defect, log_defect
from llm_gateway.gate.reverse_proxy import FORWARDED_HOST

Log: TypeAlias = Callable[..., None]
Screen: TypeAlias = Callable[[Page], Awaitable[Response]]
Handler: TypeAlias = Callable[[Request], Awaitable[Response]]


class WithDashboard:
    """ASGI application that sends paths below /ui to the dashboard and all others to the management API.

    Without `is_behind_proxy`, the dashboard gets no `X-Forwarded-Host`, which would be the client's own.
    """

    def __init__(self, management: ASGIApp, dashboard: ASGIApp, *, is_behind_proxy: bool = False) -> None:
        self._management = management
        self._dashboard = dashboard
        self._is_behind_proxy = is_behind_proxy

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one HTTP request."""
        path: str = scope["path"]
        is_page = is_dashboard(path)
        if is_page and not self._is_behind_proxy:
            scope["headers"] = [field for field in scope["headers"] if field[0] != FORWARDED_HOST]
        await (self._dashboard if is_page else self._management)(scope, receive, send)


class Dashboard:
    """The dashboard's handlers over the management API `management`."""

    def __init__(
        self,
        management: ASGIApp,
        access: Access,
        log: Log,
        root: str = "",
        dev_key: str | None = None,
        *,
        oidc: OidcParts | None = None,
    ) -> None:
        self._management = management
        self._access = access
        self._log = log
        self._files = static_files()
        self._pages = Pages(root)
        self._sign_in = SignIn(access, self._pages, dev_key)
        self._oidc = None
        if oidc is not None:
            self._oidc = OidcSignIn(oidc, access, self._pages, self._sign_in, log=log)

    def build(self) -> ASGIApp:
        """Return the ASGI application."""
        routes = [
            Route("/ui/sign-in", self._guarded(self._sign_in.handle), methods=["GET", "POST"]),
            Route("/ui/sign-out", self._guarded(self._sign_in.sign_out), methods=["POST"]),
            Route("/ui/static/{name}", self._static),
        ]
        if self._oidc is not None:
            routes.append(Route("/ui/sign-in/oidc", self._guarded(self._oidc.begin), methods=["POST"]))
            routes.append(Route(CALLBACK, self._guarded(self._oidc.end), methods=["GET"]))
        for path, handlers in SCREENS.items():
            routes.append(Route(f"/ui{path}", self._guarded(self._signed_in(handlers)), methods=[*handlers]))
        app = Starlette(routes=routes, exception_handlers={404: self._not_found})
        app.router.redirect_slashes = False
        return app

    def _signed_in(self, handlers: Mapping[str, Screen]) -> Handler:
        """Return a handler of those who are signed in: one of `handlers` by method."""

        async def handle(request: Request) -> Response:
            is_change = request.method not in ("GET", "HEAD")
            if is_change and not self._access.is_own(request):
                return self._pages.render("refusal.html", 403, sentence=WRONG_ORIGIN)
            signed_in = await run_in_threadpool(self._access.find, request)
            if signed_in is None:
                return await self._sign_in.ask(request)
            page = self._page(request, signed_in)
            try:
                if not is_change and not page.is_fragment:
                    page.toast = await toast_of(page)
                return await handlers["GET" if request.method == "HEAD" else request.method](page)
            except ApiError as error:
                return page.refused(error)

        return handle

    def _page(self, request: Request, signed_in: SignedIn) -> Page:
        client = (request.client.host, request.client.port) if request.client else None
        api = ApiClient(self._management, signed_in.caller, client, self._log)
        return Page(request, self._pages, signed_in, api, self._access)

    async def _static(self, request: Request) -> Response:
        return self._files.respond(request)

    async def _not_found(self, request: Request, _: Exception) -> Response:
        return self._pages.render("refusal.html", 404, sentence="There is no such page.")

    def _guarded(self, handle: Handler) -> Handler:
        """Return the handler with a page for a defect in it, whose cause is logged."""

        async def guarded(request: Request) -> Response:
            try:
                return await handle(request)
            except Exception as error:  # edge: a defect of one page must not end the connection without an answer
                context: RequestContext = request.scope[REQUEST_CONTEXT]
                log_defect(self._log, context, error)
                return self._pages.render("refusal.html", 500, sentence=defect(context).detail)

        return guarded
