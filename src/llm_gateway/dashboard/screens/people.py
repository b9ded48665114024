"""People who sign in with a password: make one, change role and password, disable and delete."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from llm_gateway.dashboard.api_client import ApiError
from llm_gateway.dashboard.page import Form, Page
from llm_gateway.dashboard.screens.teams import id_of, names_of

ROLES = (
    ("viewer", "viewer: sees everything but the audit"),
    ("own", "own: sees the usage of a team or customer"),
    ("admin", "admin: changes everything"),
)
PAGE = 200


async def show(page: Page) -> Response:
    """Show all people."""
    return await _table(page)


async def _table(page: Page, status: int = 200, **values: Any) -> Response:
    query: dict[str, str | int | None] = {"limit": PAGE, "cursor": page.given("cursor")}
    found = await page.api.get("/people", query)
    more = found["next_cursor"]
    return page.render(
        "people.html",
        status,
        title="People",
        people=found["people"],
        team_names=await names_of(page, (each["team_id"] for each in found["people"])),
        more=page.link("/people", {"cursor": more}) if more else None,
        roles=ROLES,
        **{"problem": None, "form": Form(), **values},
    )


async def create(page: Page) -> Response:
    """Make a person."""
    form = await page.form()
    try:
        await page.api.send("POST", "/people", {**await _fields(page, form), "password": form["password"]})
    except ApiError as error:
        if not error.is_about_form:
            raise
        return await _table(page, error.status, problem=error, form=form)
    return page.redirect_changed("/people")


async def show_one(page: Page) -> Response:
    """Show a person with the forms that change it."""
    return await _one(page)


async def _one(page: Page, status: int = 200, **values: Any) -> Response:
    found = await page.api.get(_path(page))
    names = await names_of(page, [found["team_id"]])
    return page.render(
        "person.html",
        status,
        title=found["name"],
        each=found,
        team=names.get(found["team_id"]),
        roles=ROLES,
        **{"problem": None, "form": Form(), **values},
    )


async def change(page: Page) -> Response:
    """Change name and role."""
    form = await page.form()
    try:
        body = await _fields(page, form)
    except ApiError as error:
        if not error.is_about_form:
            raise
        return await _one(page, error.status, problem=error, form=form)
    return await _send(page, body, form)


async def set_password(page: Page) -> Response:
    """Give a new password, which ends the person's sessions."""
    form = await page.form()
    return await _send(page, {"password": form["password"]}, form)


async def disable(page: Page) -> Response:
    """Disable a person, or enable it again."""
    form = await page.form()
    return await _send(page, {"disabled": form["disabled"] == "true"}, form)


async def remove(page: Page) -> Response:
    """Delete a person, which ends the person's sessions."""
    await page.api.send("DELETE", _path(page))
    return page.redirect_changed("/people")


async def _send(page: Page, body: dict[str, Any], form: Form) -> Response:
    try:
        await page.api.send("PATCH", _path(page), body)
    except ApiError as error:
        if not error.is_about_form:
            raise
        return await _one(page, error.status, problem=error, form=form)
    return page.redirect_changed(_path(page))


def _path(page: Page) -> str:
    return f"/people/{page.request.path_params['id']}"


async def _fields(page: Page, form: Form) -> dict[str, Any]:
    """Return the body for the API.

    Raises:
        ApiError: there is no such team.
    """
    fields: dict[str, Any] = {"name": form["name"].strip(), "role": form["role"] or "viewer"}
    team_id = await id_of(page, form["team"])
    if fields["role"] == "own" or team_id or form["customer"]:
        fields |= {"team_id": team_id, "customer": form["customer"].strip() or None}
    return fields
