"""Audit: when, who, what, before and after."""

from __future__ import annotations

from typing import Any

from starlette.responses import Response

from llm_gateway.dashboard.page import Page

FILTERS = (("actor", "Who"), ("action", "Action"), ("resource", "What"))
PAGE = 100


async def show(page: Page) -> Response:
    """Show the newest entries that match."""
    filters = {name: page.given(name) for name, _ in FILTERS}
    found, failures = await page.api.get_all(
        [
            ("/audit", {**filters, "cursor": page.given("cursor"), "limit": PAGE}),
            ("/audit/failed-authentications", None),
        ]
    )
    cursor = found["next_cursor"]
    return page.render(
        "audit.html",
        title="Audit",
        entries=[{**entry, "changes": _changes(entry)} for entry in found["entries"]],
        filters=filters,
        names=FILTERS,
        older=page.link("/audit", {**filters, "cursor": cursor}) if cursor else None,
        failures=failures,
    )


def _changes(entry: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """Return the fields that an entry names, each before and after."""
    before, after = entry["before"] or {}, entry["after"] or {}
    return [(name, before.get(name), after.get(name)) for name in {**before, **after}]
