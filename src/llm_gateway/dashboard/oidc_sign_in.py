"""Pages of the sign-in over an identity provider: the way there, and the way back with the provider's answer.

The browser keeps what belongs to the sign-in in a cookie of its own. That is `SameSite=Lax`, since the provider's page
sends the browser back; that of the session stays `Strict`, so the way back ends on a page that opens the next one.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as NotBase64
from collections.abc import Callable
from typing import NamedTuple

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from llm_gateway.dashboard.access import WRONG_ORIGIN, Access, address_of
from llm_gateway.dashboard.api_client import ApiError
from llm_gateway.dashboard.kept_form import KeptForm, kept_in
from llm_gateway.dashboard.page import Pages, form_of, read_body
from llm_gateway.dashboard.sign_in import MOST_SIGN_IN_BYTES, SignIn, target_of
from llm_gateway.dashboard.time_zone import known_zone
from llm_gateway.domain.person import Identity
from llm_gateway.identity.code_flow import BEGUN_ELSEWHERE, CodeFlow, Flow, Named
from llm_gateway.identity.errors import IdentityRefused
from llm_gateway.store.kept_forms import KeptForms
from llm_gateway.store.sessions import Owner

COOKIE, SECURE_COOKIE = "llm-gateway-oidc", "__Host-llm-gateway-oidc"
LASTS_S = 600
"""Seconds that a person has at the provider."""
CALLBACK = "/ui/sign-in/oidc/callback"
NO_TEAM = "You are signed in at the identity provider as {name}, but it names no team of this gateway: ask an admin."


class Pending(msgspec.Struct, frozen=True):
    """A sign-in that has begun, as its cookie has it. `kept` is the state of a form that is kept."""

    flow: Flow
    target: str
    timezone: str
    has_kept: bool


class OidcParts(NamedTuple):
    """Parts of a sign-in at an identity provider.

    `team_id` returns the id of the team with a name or an id, or None. `forms` keeps those of people at the provider.
    """

    flow: CodeFlow
    team_id: Callable[[str], str | None]
    forms: KeptForms


class OidcSignIn:
    """Handlers of a sign-in at an identity provider."""

    def __init__(
        self, parts: OidcParts, access: Access, pages: Pages, sign_in: SignIn, *, log: Callable[..., None]
    ) -> None:
        self._flow, self._team_id, self._forms = parts
        self._access = access
        self._pages = pages
        self._sign_in = sign_in
        self._log = log

    async def begin(self, request: Request) -> Response:
        """Send the browser to the provider."""
        refusal = self._access.refusal(request)
        if refusal is not None or not self._access.is_own(request):
            return self._pages.render("refusal.html", 403, sentence=refusal or WRONG_ORIGIN)
        target = target_of(request.query_params.get("next", ""))
        kept = None
        try:
            form = form_of(await read_body(request, MOST_SIGN_IN_BYTES))
            kept = kept_in(form, self._sign_in.is_target)
            address, flow = await self._flow.begin(
                f"{request.url.scheme}://{request.url.netloc}{self._pages.root}{CALLBACK}"
            )
        except ApiError as error:
            return self._sign_in.form(target, error.detail, error.status)
        except IdentityRefused as error:
            return self._refused(request, error, target, kept)
        pending = Pending(flow, target, known_zone(form["timezone"]), kept is not None)
        if kept is not None:
            await run_in_threadpool(self._forms.put, flow.state, kept.path, kept.content)
        # Not a redirect: browsers apply the policy form-action 'self' to the redirects of a form, too.
        response = self._pages.render("onward.html", address=address, words="To the identity provider")
        response.set_cookie(
            _cookie_name(request),
            urlsafe_b64encode(msgspec.json.encode(pending)).decode(),
            max_age=LASTS_S,
            path="/",
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="lax",
        )
        return response

    async def end(self, request: Request) -> Response:
        """Take the provider's answer, and open a session."""
        refusal = self._access.refusal(request)
        if refusal is not None:
            return self._pages.render("refusal.html", 403, sentence=refusal)
        pending, kept, target = _pending_in(request), None, ""
        try:
            if pending is None:
                raise IdentityRefused(BEGUN_ELSEWHERE)
            target = target_of(pending.target)
            found = await run_in_threadpool(self._forms.take, pending.flow.state) if pending.has_kept else None
            kept = None if found is None else KeptForm(*found)
            owner = await self._owner(request, pending.flow)
        except IdentityRefused as error:
            response = self._refused(request, error, target, kept)
        else:
            response = self._pages.render(
                "onward.html", address=f"{self._pages.root}/ui{target}", words="To the dashboard"
            )
            if kept is not None:
                response = self._sign_in.resume(kept)
            await self._access.remember(request, response, owner, pending.timezone)
        response.delete_cookie(_cookie_name(request), path="/", secure=request.url.scheme == "https", httponly=True)
        return response

    async def _owner(self, request: Request, flow: Flow) -> Owner:
        """Return whose session to open.

        Raises:
            IdentityRefused: nobody's.
        """
        with self._access.attempt(request):
            named = await self._flow.finish(flow, request.query_params)
            return Owner(named.name, identity=await self._bound(named))

    async def _bound(self, named: Named) -> Identity:
        """Return the identity with its team, which the role `own` needs."""
        if named.identity.role != "own":
            return named.identity
        team_id = None if named.team is None else await run_in_threadpool(self._team_id, named.team)
        if team_id is None:
            raise IdentityRefused(NO_TEAM.format(name=named.name), 403)
        return msgspec.structs.replace(named.identity, team_id=team_id)

    def _refused(self, request: Request, error: IdentityRefused, target: str, kept: KeptForm | None) -> Response:
        """Log why a sign-in failed, and show it."""
        is_theirs = error.status == 502
        self._log(
            "sign-in over identity provider failed",
            level="warning" if is_theirs else "info",
            reason=str(error),
            client=address_of(request),
        )
        if error.status == 403:
            return self._pages.render("refusal.html", 403, sentence=str(error))
        return self._sign_in.form(target, str(error), error.status, kept)


def _cookie_name(request: Request) -> str:
    return SECURE_COOKIE if request.url.scheme == "https" else COOKIE


def _pending_in(request: Request) -> Pending | None:
    try:
        return msgspec.json.decode(urlsafe_b64decode(request.cookies.get(_cookie_name(request), "")), type=Pending)
    except (NotBase64, ValueError, msgspec.MsgspecError):
        return None
