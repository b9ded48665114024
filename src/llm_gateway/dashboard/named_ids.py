"""Keys and teams, which reports name by their ids, as people name them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any
from uuid import UUID

from llm_gateway.dashboard.api_client import ApiError
from llm_gateway.dashboard.page import Page

NAMED = ("key", "team")
"""What has a name beside its id."""


async def labels_of(page: Page, ids: Mapping[str, Any]) -> dict[str, str]:
    """Return the names of the key and the team in `ids`, as far as they may be read."""
    wanted = [name for name in NAMED if ids.get(name)] if page.may("read") else []
    labels = await asyncio.gather(*[_label(page, name, str(ids[name])) for name in wanted])
    return {name: label for name, label in zip(wanted, labels, strict=True) if label is not None}


async def _label(page: Page, name: str, found: str) -> str | None:
    """Return a name; None if it was deleted meanwhile, or is that of a key of the environment already."""
    if not _is_id(found):
        return None
    try:
        return str((await page.api.get(f"/{name}s/{found}"))["name"])
    except ApiError as error:
        if error.status != 404:
            raise
        return None


async def ids_of(page: Page, given: Mapping[str, str]) -> dict[str, str]:
    """Return filters with the ids of the key and the team that somebody named; others, and unknown names, as given."""
    found = dict(given)
    for name in NAMED if page.may("read") else ():
        if name in given and not _is_id(given[name]):
            found[name] = await id_of(page, name, given[name]) or given[name]
    return found


async def id_of(page: Page, kind: str, name: str) -> str | None:
    """Return the id of the key or team with this name; None if there is none, or reports have its name, too."""
    listed = (await page.api.get(f"/{kind}s", {"name": name.strip()}))[f"{kind}s"]
    return next((str(each["id"]) for each in listed if each.get("source") != "env"), None)


def _is_id(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
