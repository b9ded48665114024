"""Pages of the sign-in and the sign-out, and of a form whose session ended before it was sent."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import quote

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import compile_path

from llm_gateway.dashboard.access import CHANGED, WRONG_ORIGIN, Access, Credentials
from llm_gateway.dashboard.api_client import ApiError
from llm_gateway.dashboard.kept_form import KeptForm, keep, kept_in
from llm_gateway.dashboard.page import MOST_FORM_BYTES, Pages, form_of, read_body
from llm_gateway.dashboard.screens import SCREENS
from llm_gateway.dashboard.time_zone import known_zone
from llm_gateway.error_format.browser_page import UI_PATH
from llm_gateway.store.sessions import OwnerChanged

MOST_SIGN_IN_BYTES = 2 * MOST_FORM_BYTES
"""Bytes of a form of the sign-in, which can keep another form in base64."""
ENDED = "Your session has ended. Sign in again: what you typed is kept, and you can send it then."


class SignIn:
    """Handlers of sign-in and sign-out. `dev_key` is the public development key if it is valid."""

    def __init__(self, access: Access, pages: Pages, dev_key: str | None) -> None:
        self._access = access
        self._pages = pages
        self._dev_key = dev_key
        self._targets = [compile_path(path)[0] for path, handlers in SCREENS.items() if "POST" in handlers]

    async def ask(self, request: Request) -> Response:
        """Answer a request of somebody who is not signed in; a form that was sent is kept."""
        if "hx-request" in request.headers:
            return PlainTextResponse("", 401, headers={"hx-redirect": f"{self._pages.root}/ui/sign-in"})
        path = request.url.path.removeprefix(UI_PATH)
        if request.method not in ("GET", "HEAD"):
            try:
                return self.form("", ENDED, 401, keep(path, await read_body(request, MOST_FORM_BYTES)))
            except ApiError as error:
                return self.form("", error.detail, error.status)
        target = path + (f"?{request.url.query}" if request.url.query else "")
        return self._pages.redirect(f"/sign-in?next={quote(target)}" if target.strip("/") else "/sign-in")

    async def handle(self, request: Request) -> Response:
        """Show the page, or sign somebody in."""
        refusal = self._access.refusal(request)
        if refusal is not None:
            return self._pages.render("refusal.html", 403, sentence=refusal)
        target = target_of(request.query_params.get("next", ""))
        if request.method != "POST":
            return self.form(target, None)
        if not self._access.is_own(request):
            return self._pages.render("refusal.html", 403, sentence=WRONG_ORIGIN)
        try:
            form = form_of(await read_body(request, MOST_SIGN_IN_BYTES))
        except ApiError as error:
            return self.form(target, error.detail, error.status)
        kept = kept_in(form, self.is_target)
        owner = await self._access.sign_in(request, Credentials(form["key"], form["name"], form["password"]))
        if isinstance(owner, str):
            return self.form(target, owner, 401, kept, name=form["name"])
        response = self._pages.redirect(target) if kept is None else self.resume(kept)
        try:
            await self._access.remember(request, response, owner, known_zone(form["timezone"]))
        except OwnerChanged:
            return self.form(target, CHANGED, 401, kept, name=form["name"])
        return response

    def resume(self, kept: KeptForm) -> Response:
        """Return the page that sends a kept form when the person says so."""
        return self._pages.render("resume.html", kept=kept)

    async def sign_out(self, request: Request) -> Response:
        """End the session."""
        if not self._access.is_own(request):
            return self._pages.render("refusal.html", 403, sentence=WRONG_ORIGIN)
        response = self._pages.redirect("/sign-in")
        signed_in = await run_in_threadpool(self._access.find, request)
        await run_in_threadpool(self._access.sign_out, request, response, signed_in)
        return response

    def form(
        self, target: str, problem: str | None, status: int = 200, kept: KeptForm | None = None, **values: Any
    ) -> Response:
        """Return the page of the sign-in, with why one failed."""
        given: dict[str, Any] = {
            "target": target,
            "problem": problem,
            "kept": kept,
            "dev_key": self._dev_key,
            "name": "",
        }
        given |= {"has_provider": self._access.has_provider, **values}
        return self._pages.render("sign_in.html", status, **given)

    def is_target(self, path: str) -> bool:
        """Return whether forms are sent to this path below /ui."""
        return any(re.fullmatch(pattern, path) for pattern in self._targets)


def target_of(text: str) -> str:
    """Return the path below /ui to open after the sign-in: only a path, so that no other site can be named."""
    return text if text.startswith("/") and not text.startswith("//") and "\\" not in text else ""
