"""Health: the gateway's own state, and its providers."""

from __future__ import annotations

from starlette.responses import Response

from llm_gateway.dashboard.page import Page


async def show(page: Page) -> Response:
    """Show the state of the gateway."""
    health, providers = await page.api.get_all([("/health", None), ("/health/providers", None)])
    return page.render("health.html", title="Health", health=health, providers=providers["providers"])
