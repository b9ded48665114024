"""Keys and teams: make a key, whose secret is shown once, change, rotate and end it."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from llm_gateway.dashboard.api_client import ApiError
from llm_gateway.dashboard.named_ids import id_of as id_of_named
from llm_gateway.dashboard.named_ids import labels_of
from llm_gateway.dashboard.page import Form, Page
from llm_gateway.dashboard.screens.providers import number
from llm_gateway.dashboard.screens.teams import id_of, names_of
from llm_gateway.domain.conversation import REASONING_EFFORTS

NUMBERS = ("rpm", "tpm", "max_parallel", "max_tokens")
LISTS = ("customers", "services", "models")
TEXTS = ("owner", "max_reasoning_effort")
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
        efforts=REASONING_EFFORTS,
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
    labels = await labels_of(page, {"team": key["team_id"], "key": key["parent_id"]})
    return page.render(
        "key.html",
        status,
        title=key["name"],
        key=key,
        team=labels.get("team"),
        parent=labels.get("key"),
        scopes=SCOPES,
        efforts=REASONING_EFFORTS,
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
        ApiError: there is no such team or parent, or the tags cannot be read.
    """
    body: dict[str, Any] = {}
    if "team" in form:
        body["team_id"] = await id_of(page, form["team"])
    if "parent" in form:
        body["parent_id"] = await _parent_id(page, form["parent"].strip())
    if form.get("name", "").strip() or not is_change:
        body["name"] = form.get("name", "").strip()
    if form.get("scopes"):
        body["scopes"] = form["scopes"].split(",")
    for name in (*TEXTS, "tags", *NUMBERS, *LISTS, "max_request_usd", "expires_at"):
        if name in form:
            body[name] = _value(page, name, form[name].strip())
    return body if is_change else {name: value for name, value in body.items() if value is not None}


async def _parent_id(page: Page, name: str) -> str | None:
    """Return the id of the key that a form names as the parent, None if it names none.

    Raises:
        ApiError: there is no such key.
    """
    if not name:
        return None
    found = await id_of_named(page, "key", name)
    if found is None:
        raise _unfit("parent", f"There is no key named {name!r} that was made here: name another one as the parent.")
    return found


def _unfit(field: str, sentence: str) -> ApiError:
    return ApiError(422, "Not valid", sentence, {field: sentence})


def _tags(text: str) -> dict[str, str]:
    """Return tags that are written as `name=value`, with commas or line ends between them.

    Raises:
        ApiError: one is not.
    """
    tags = {}
    for each in filter(str.strip, text.replace(",", "\n").splitlines()):
        name, is_pair, value = each.partition("=")
        if not is_pair:
            raise _unfit("tags", f"A tag is written as name=value, not {each.strip()!r}.")
        tags[name.strip()] = value.strip()
    return tags


def _value(page: Page, name: str, text: str) -> Any:
    if name == "tags":
        return _tags(text)
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
