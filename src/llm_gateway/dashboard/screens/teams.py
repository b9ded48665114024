"""Teams, which the screen of keys shows: make and delete one."""

from __future__ import annotations

from starlette.responses import Response

from llm_gateway.dashboard.page import Page


async def create(page: Page) -> Response:
    """Make a team."""
    form = await page.form()
    body = {"name": form.get("name", "").strip(), "description": form.get("description", "").strip()}
    await page.api.send("POST", "/teams", body)
    return page.redirect("/keys#teams")


async def remove(page: Page) -> Response:
    """Delete a team without keys."""
    await page.api.send("DELETE", f"/teams/{page.request.path_params['id']}")
    return page.redirect("/keys#teams")
