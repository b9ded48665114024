"""Undo: what a page says after a change, with a button that restores what was before.

The audit trail has what each change found, so nothing is kept here: a page names the request that made the change, and
the entry of that request says how to restore it over the API. What needs a secret to be restored is not offered.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from starlette.responses import Response

from llm_gateway import wall_clock
from llm_gateway.dashboard.api_client import ApiError
from llm_gateway.dashboard.page import CHANGED, UNDONE, Page, Toast, with_parameter
from llm_gateway.dashboard.restoring import can_be_restored, restoring_call

LASTS = timedelta(minutes=5)
"""How long a change can be undone; the page's script takes the button away sooner."""
CLOCKS_DIFFER = timedelta(milliseconds=2 * wall_clock.TOLERATED_MS)
"""Most by which the clocks of two hosts differ: each may differ from that of the database by half of it."""
MOST_ENTRIES = 500
CHANGED_AGAIN = "It was changed again since, so undoing would lose that: the screen Audit has what was before."
TOO_LATE = "This change cannot be undone any more: the screen Audit has what was before."
VERBS = {"create": "added", "update": "changed", "delete": "deleted"}


class Place(NamedTuple):
    """Paths of a type of resource: of the screen that shows one, and of the API for one."""

    screen: str
    api: str


PLACES = {
    "provider": Place("/providers/{id}", "/providers/{id}"),
    "key": Place("/keys/{id}", "/keys/{id}"),
    "budget": Place("/budgets/{id}", "/budgets/{id}"),
    "person": Place("/people/{id}", "/people/{id}"),
    "alert_target": Place("/alerts", "/alert-targets/{id}"),
    "override": Place("/routing#overrides", "/overrides"),
}


async def toast_of(page: Page) -> Toast | None:
    """Return what a page says about the change that its address names; None if it names none of the last minutes."""
    if page.given(UNDONE):
        return Toast("It is undone.", None)
    return await toast_about(page, page.given(CHANGED))


async def toast_about(page: Page, request_id: str | None) -> Toast | None:
    """Return what a page says about the change that a request made, None if it made none lately.

    None also if the audit trail cannot be read: the change was made, and its page must not say otherwise.
    """
    if not request_id or not page.may("admin"):
        return None
    try:
        entry = await _entry(page, request_id)
    except ApiError:
        return None
    verb = "" if entry is None else entry["action"].partition(".")[2]
    if entry is None or verb not in VERBS:
        return None
    name = entry["resource"]["name"] or (entry["before"] or entry["after"] or {}).get("user_id", "")
    words = f"The {_kind(entry).replace('_', ' ')} {name} is {VERBS[verb]}."
    return Toast(words, request_id if can_be_restored(entry) else None)


async def undo(page: Page) -> Response:
    """Restore what was before the change that the form names.

    Raises:
        ApiError: the change is too long ago, cannot be undone, or something was changed after it.
    """
    entry = await _entry(page, (await page.form())["change"])
    if entry is None or not can_be_restored(entry):
        raise ApiError(404, "Too late", TOO_LATE)
    place, resource_id = PLACES[_kind(entry)], entry["resource"]["id"]
    path = place.api.format(id=resource_id)
    call = restoring_call(entry, {} if entry["action"] == "override.delete" else await page.api.get(path))
    await _refuse_if_changed_again(page, entry)  # right before the call, so that hardly a change can be in between
    await page.api.send(call.method, path + call.below, call.body)
    return page.redirect(with_parameter(place.screen.format(id=resource_id), UNDONE, "1"))


async def _refuse_if_changed_again(page: Page, entry: dict[str, Any]) -> None:
    """Refuse if the resource was changed after the change.

    Raises:
        ApiError: it was, or may have been: by another host whose clock shows another time.
    """
    since = datetime.fromisoformat(entry["at"]) - CLOCKS_DIFFER
    about = {"resource": entry["resource"]["id"], "from": since.isoformat(), "limit": MOST_ENTRIES}
    found = (await page.api.get("/audit", about))["entries"]
    if any(may_be_later(each, entry) for each in found if not each["action"].endswith(".test")):
        raise ApiError(409, "Changed again", CHANGED_AGAIN)


def may_be_later(other: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    """Return whether a change of the same resource may have been made after another one.

    The entries of a host are numbered. Those of two are dated by clocks that may differ.
    """
    if other["chain"] == entry["chain"]:
        return bool(other["number"] > entry["number"])
    return datetime.fromisoformat(other["at"]) >= datetime.fromisoformat(entry["at"]) - CLOCKS_DIFFER


def _kind(entry: dict[str, Any]) -> str:
    kind: str = entry["action"].partition(".")[0]
    return kind


async def _entry(page: Page, request_id: str) -> dict[str, Any] | None:
    """Return the entry of the change that a request made, None if there is none that is new enough."""
    since = (wall_clock.now() - LASTS).isoformat()
    found = await page.api.get("/audit", {"from": since, "limit": MOST_ENTRIES})
    return next((each for each in found["entries"] if each["actor"]["request_id"] == request_id), None)
