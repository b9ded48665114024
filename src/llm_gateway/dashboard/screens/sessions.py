"""Sessions: one's own, for admins all, with buttons that end them; and one's own password."""

from __future__ import annotations

from starlette.responses import Response

from llm_gateway.dashboard.api_client import ApiError
from llm_gateway.dashboard.page import Page
from llm_gateway.gate.request_context import Person


async def show(page: Page) -> Response:
    """Show one's own sessions, and for an admin those of everybody."""
    return await _show(page)


async def _show(page: Page, status: int = 200, problem: ApiError | None = None) -> Response:
    is_admin = page.may("admin")
    own, everybodys = await page.api.get_all([("/sessions", {"own": "true"}), ("/sessions", None)])
    ids = {session["id"] for session in own["sessions"]}
    return page.render(
        "sessions.html",
        status,
        title="Signed in",
        own=own["sessions"],
        others=[session for session in everybodys["sessions"] if session["id"] not in ids] if is_admin else None,
        this=page.signed_in.session.id,
        scopes=", ".join(sorted(page.signed_in.caller.scopes)),
        is_local=_local_person(page) is not None,
        problem=problem,
    )


def _local_person(page: Page) -> Person | None:
    """Return who signed in with a password, None if it was a key or an identity provider."""
    caller = page.signed_in.caller
    return caller if isinstance(caller, Person) and caller.person_id is not None else None


async def set_password(page: Page) -> Response:
    """Change one's own password, which ends one's sessions, this one too.

    The person is read before the password is checked, and must not have changed since: otherwise a person with the old
    password could replace a new one that an admin sets in between.
    """
    person, form = _local_person(page), await page.form()
    if person is None:
        raise ApiError(404, "No password", "You signed in without a password, so there is none to change.")
    path, api = f"/people/{person.person_id}", page.api.with_own_account()
    read = await api.get(path)
    refusal = await page.access.refusal_of_password(page.request, person, form["current_password"])
    try:
        if refusal is not None:
            raise ApiError(422, "Not changed", refusal, {"current_password": refusal})
        if form["password"] != form["password_again"]:
            sentence = "The new password is not the same twice."
            raise ApiError(422, "Not changed", sentence, {"password_again": sentence})
        await api.send("PATCH", path, {"password": form["password"], "unchanged_since": read["updated_at"]})
    except ApiError as error:
        if not error.is_about_form:
            raise
        return await _show(page, error.status, error)
    return page.redirect("/sign-in")


async def end(page: Page) -> Response:
    """End a session: one's own, or as an admin any."""
    await page.api.send("DELETE", f"/sessions/{page.request.path_params['id']}")
    return page.redirect("/sessions")


async def end_others(page: Page) -> Response:
    """End one's own sessions but this one."""
    await page.api.send("DELETE", "/sessions", query={"keep": page.signed_in.session.id})
    return page.redirect("/sessions")
