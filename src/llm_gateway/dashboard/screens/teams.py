"""Teams, which the screen of keys shows: make and delete one, and find one for the forms that name a team."""

from __future__ import annotations

from collections.abc import Iterable

from starlette.responses import Response

from llm_gateway.dashboard.api_client import ApiError
from llm_gateway.dashboard.page import Page

SUGGESTED = 20
"""Teams that a form suggests while somebody types."""
MOST_LISTED = 1000


async def suggest(page: Page) -> Response:
    """Return options for a form's field: teams whose name has the part that somebody has typed."""
    found = await page.api.get("/teams", {"contains": page.given("team"), "limit": SUGGESTED})
    return page.render("team_options.html", teams=found["teams"])


async def create(page: Page) -> Response:
    """Make a team."""
    form = await page.form()
    body = {"name": form.get("name", "").strip(), "description": form.get("description", "").strip()}
    await page.api.send("POST", "/teams", body)
    return page.redirect_changed("/keys#teams")


async def remove(page: Page) -> Response:
    """Delete a team without keys."""
    await page.api.send("DELETE", f"/teams/{page.request.path_params['id']}")
    return page.redirect_changed("/keys#teams")


async def id_of(page: Page, name: str) -> str | None:
    """Return the id of the team that a form names, None if it names none.

    Raises:
        ApiError: there is no such team.
    """
    if not name.strip():
        return None
    found = (await page.api.get("/teams", {"name": name.strip()}))["teams"]
    if not found:
        sentence = (
            f"There is no team named {name.strip()!r}: take one that is suggested while you type, or make it first."
        )
        raise ApiError(422, "Not valid", sentence, {"team": sentence})
    return str(found[0]["id"])


async def names_of(page: Page, ids: Iterable[str | None]) -> dict[str, str]:
    """Return the names of teams by id, those of teams deleted meanwhile not."""
    wanted = {each for each in ids if each is not None}
    if not wanted:
        return {}
    names = {}
    if len(wanted) > 1:
        listed = (await page.api.get("/teams", {"limit": MOST_LISTED}))["teams"]
        names = {team["id"]: team["name"] for team in listed if team["id"] in wanted}
    for each in wanted - names.keys():  # few: those made after the first thousand
        try:
            names[each] = (await page.api.get(f"/teams/{each}"))["name"]
        except ApiError as error:
            if error.status != 404:
                raise
    return names
