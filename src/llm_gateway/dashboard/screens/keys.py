"""Keys and teams: make a key, whose secret is shown once, change, rotate and end it."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from llm_gateway.dashboard.api_client import ApiError
from llm_gateway.dashboard.page import Form, Page
from llm_gateway.dashboard.screens.providers import number
from llm_gateway.dashboard.screens.teams import id_of, names_of

NUMBERS = ("rpm", "tpm", "max_parallel", "max_tokens")
LISTS = ("customers", "services", "models")
REFERENCES = ("parent_id", "owner", "max_reasoning_effort")
SCOPES = ("call", "read", "admin", "own")
FIXED = "="
"""Beginning of a field with the one value that all requests get."""
PAGE = 200


async def show(page: Page) -> Response:
    """Show all keys and teams."""
    return await _table(page)


async def _table(page: Page, status: int = 200, **values: Any) -> Response:
    query: dict[str, str | int | None] = {"limit": PAGE, "cursor": page.given("cursor")}
    of_teams: dict[str, str | int | None] = {"limit": PAGE, "cursor": page.given("teams")}
    keys, teams = await page.api.get_all([("/keys", query), ("/teams", of_teams)])
    more, more_teams = keys["next_cursor"], teams["next_cursor"]
    return page.render(
        "keys.html",
        status,
        title="Keys and teams",
        keys=keys["keys"],
        teams=teams["teams"],
        team_names=await names_of(page, (key["team_id"] for key in keys["keys"])),
        more=page.link("/keys", {"cursor": more}) if more else None,
        more_teams=page.link("/keys", {"teams": more_teams}) + "#teams" if more_teams else None,
        scopes=SCOPES,
        **{"problem": None, "form": Form(), "made": None, **values},
    )


async def create(page: Page) -> Response:
    """Make a key, and show its secret once, with the first requests to copy."""
    form = await page.form()
    try:
        made = await page.api.send("POST", "/keys", await _fields(page, form))
    except ApiError as error:
        if not error.is_about_form:
            raise
        return await _table(page, error.status, problem=error, form=form)
    return await _table(page, 201, made=made)


async def show_one(page: Page) -> Response:
    """Show a key with its form."""
    return await _one(page)


async def _one(page: Page, status: int = 200, **values: Any) -> Response:
    key = await page.api.get(f"/keys/{page.request.path_params['id']}")
    names = await names_of(page, [key["team_id"]])
    return page.render(
        "key.html",
        status,
        title=key["name"],
        key=key,
        team=names.get(key["team_id"]),
        scopes=SCOPES,
        **{"problem": None, "form": Form(), "made": None, **values},
    )


async def change(page: Page) -> Response:
    """Change a key. Empty fields remove a restriction."""
    form = await page.form()
    path = f"/keys/{page.request.path_params['id']}"
    try:
        await page.api.send("PATCH", path, await _fields(page, form, is_change=True))
    except ApiError as error:
        if not error.is_about_form:
            raise
        return await _one(page, error.status, problem=error, form=form)
    return page.redirect_changed(path)


async def rotate(page: Page) -> Response:
    """Make a new secret, and show it once."""
    form = await page.form()
    hours = number(form.get("overlap_hours", "") or "0")
    overlap_s = hours * 3600 if isinstance(hours, int) else hours
    try:
        made = await page.api.send("POST", f"/keys/{page.request.path_params['id']}/rotate", {"overlap_s": overlap_s})
    except ApiError as error:
        if not error.is_about_form:
            raise
        return await _one(page, error.status, problem=error)
    return await _one(page, made=made)


async def disable(page: Page) -> Response:
    """Disable a key, or enable it again."""
    form = await page.form()
    path = f"/keys/{page.request.path_params['id']}"
    await page.api.send("PATCH", path, {"disabled": form.get("disabled") == "true"})
    return page.redirect_changed(path)


async def remove(page: Page) -> Response:
    """Delete a key."""
    await page.api.send("DELETE", f"/keys/{page.request.path_params['id']}")
    return page.redirect_changed("/keys")


async def _fields(page: Page, form: Form, *, is_change: bool = False) -> dict[str, Any]:
    """Return the body for the API; fields left empty are null in a change, and left out of a new key.

    Raises:
        ApiError: there is no such team.
    """
    body: dict[str, Any] = {}
    if "team" in form:
        team_id = await id_of(page, form["team"])
        if team_id is not None or is_change:
            body["team_id"] = team_id
    if form.get("name", "").strip() or not is_change:
        body["name"] = form.get("name", "").strip()
    if form.get("scopes"):
        body["scopes"] = form["scopes"].split(",")
    for name in (*REFERENCES, *NUMBERS, *LISTS, "max_request_usd", "expires_at"):
        if name not in form:
            continue
        value = _value(page, name, form[name].strip())
        if value is not None or is_change:
            body[name] = value
    return body


def _value(page: Page, name: str, text: str) -> Any:
    if not text:
        return None
    if name in NUMBERS:
        return number(text)
    if name in LISTS:
        if text.startswith(FIXED):
            return {"fixed": text.removeprefix(FIXED).strip()}
        return [each.strip() for each in text.replace(",", "\n").splitlines() if each.strip()]
    if name == "max_request_usd":
        try:
            return float(text)
        except ValueError:
            return text
    if name == "expires_at":
        return page.moment(text)
    return text
