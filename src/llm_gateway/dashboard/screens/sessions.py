"""Sessions: one's own, for admins all, with buttons that end them."""

from __future__ import annotations

from starlette.responses import Response

from llm_gateway.dashboard.page import Page


async def show(page: Page) -> Response:
    """Show one's own sessions, and for an admin those of everybody."""
    is_admin = page.may("admin")
    own, everybodys = await page.api.get_all([("/sessions", {"own": "true"}), ("/sessions", None)])
    ids = {session["id"] for session in own["sessions"]}
    return page.render(
        "sessions.html",
        title="Signed in",
        own=own["sessions"],
        others=[session for session in everybodys["sessions"] if session["id"] not in ids] if is_admin else None,
        this=page.signed_in.session.id,
        scopes=", ".join(sorted(page.signed_in.caller.scopes)),
    )


async def end(page: Page) -> Response:
    """End a session: one's own, or as an admin any."""
    await page.api.send("DELETE", f"/sessions/{page.request.path_params['id']}")
    return page.redirect("/sessions")


async def end_others(page: Page) -> Response:
    """End one's own sessions but this one."""
    await page.api.send("DELETE", "/sessions", query={"keep": page.signed_in.session.id})
    return page.redirect("/sessions")
