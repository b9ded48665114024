"""Health: the gateway's own state, its settings in force, and who is signed in."""

from __future__ import annotations

from datetime import UTC, datetime

from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from llm_gateway.dashboard.api_client import ApiError
from llm_gateway.dashboard.page import Page


async def show(page: Page) -> Response:
    """Show the state of the gateway."""
    health, providers = await page.api.get_all([("/health", None), ("/health/providers", None)])
    living = await run_in_threadpool(page.sessions.living) if page.may("admin") else []
    return page.render(
        "health.html",
        title="Health",
        health=health,
        providers=providers["providers"],
        sessions=[(each, _iso(each.created_at_ms), _iso(each.used_at_ms)) for each in living],
        own_session=page.signed_in.session.id,
    )


async def end_session(page: Page) -> Response:
    """Sign somebody out."""
    if not page.may("admin"):
        raise ApiError(403, "Not allowed", "Only an admin can sign others out.")
    await run_in_threadpool(page.sessions.end, page.request.path_params["id"])
    return page.redirect("/health#sessions")


def _iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat()
