"""Health and settings: state of the workers, the journal, telemetry and sign-in, and the settings in force."""

from __future__ import annotations

from starlette.responses import Response

from llm_gateway.dashboard.page import Page

LATE_S = 60
"""Seconds that usage waits for the database, above which that is shown as a failure."""


async def show(page: Page) -> Response:
    """Show the state of the gateway."""
    health, state, hosts = await page.api.get_all([("/health", None), ("/state", None), ("/hosts", None)])
    return page.render(
        "health.html",
        title="Health and settings",
        health=health,
        state=state,
        late_s=LATE_S,
        hosts=hosts["hosts"],
        changed=[each for each in state["settings"] or () if not each["is_default"]],
        defaults=[each for each in state["settings"] or () if each["is_default"]],
    )
