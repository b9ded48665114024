"""Commands `audit …`: list what management requests changed, count failed authentications, verify the entries."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any

from cyclopts import App, Parameter

from llm_gateway.cli.client import HERE, Address, connect
from llm_gateway.cli.exits import USAGE, CommandFailed
from llm_gateway.cli.output import Column, Json, print_json, print_rows
from llm_gateway.cli.reports import ALL_TIME, Calendar

PAGE = 500
"""Entries of each requested page."""
LOCAL_COMMANDS = (
    (
        "verify",
        "llm_gateway.cli.audit_verify:verify",
        "Check the hashes of all audit entries, and that none is missing.",
    ),
)
"""Commands that import much of the gateway, as in `cli/commands.py`: name, function, summary."""
COLUMNS = (
    Column("at", "Time"),
    Column("action", "Action"),
    Column("name", "Name"),
    Column("actor", "By"),
    Column("address", "From"),
    Column("before", "Before", on_terminal=False),
    Column("after", "After", on_terminal=False),
    Column("request_id", "Request", on_terminal=False),
    Column("number", "Number", "count"),
)
FAILURES = (Column("address", "Address"), Column("count", "Failures", "count"), Column("last_at", "Last"))


def audit_app(arguments: Collection[str] = ()) -> App:
    """Build the commands `audit …`. The summary of a local command stands for its docstring in the list of commands."""
    app = App(name="audit", help="What management requests changed, and whether the entries are all there.")
    app.command(list_entries, name="list")
    app.command(failures)
    for name, place, help_text in LOCAL_COMMANDS:
        app.command(place, name=name, help=None if name in arguments else help_text)
    return app


def list_entries(
    *,
    actor: Annotated[str | None, Parameter(help="only changes by this key, by name or id")] = None,
    action: Annotated[str | None, Parameter(help="only this action, such as key.create")] = None,
    resource: Annotated[str | None, Parameter(help="only this type of resource, or this one, by id or name")] = None,
    limit: Annotated[int, Parameter(help="number of entries")] = 50,
    calendar: Calendar = ALL_TIME,
    json: Json = False,
    gateway: Address = HERE,
) -> None:
    """List changes, newest first. It needs a key with the scope admin.

    ```sh
    llm-gateway audit list
    llm-gateway audit list --resource key --actor ann --from 2026-11-01
    ```
    """
    if limit < 1:
        raise CommandFailed("--limit must be at least 1.", USAGE)
    client = connect(gateway)
    entries: list[dict[str, Any]] = []
    cursor = None
    while len(entries) < limit:
        size = min(PAGE, limit - len(entries))
        filters = {"actor": actor, "action": action, "resource": resource}
        page = client.get("/audit", **calendar.query(), **filters, limit=size, cursor=cursor)
        entries += page["entries"]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    if json:
        print_json(entries)
    else:
        print_rows([_row(entry) for entry in entries], COLUMNS, empty="Nothing was changed.")


def failures(*, json: Json = False, gateway: Address = HERE) -> None:
    """Count requests without a valid key, by the client's address.

    ```sh
    llm-gateway audit failures
    ```
    """
    found = connect(gateway).get("/audit/failed-authentications")
    if json:
        print_json(found)
        return
    rows = list(found["addresses"])
    if found["other"]:
        rows.append({"address": "other", "count": found["other"], "last_at": ""})
    print_rows(rows, FAILURES, empty="No authentication has failed.")


def _row(entry: dict[str, Any]) -> dict[str, Any]:
    actor, resource = entry["actor"], entry["resource"]
    return entry | {
        "name": resource["name"] or resource["id"] or "",
        "actor": actor["name"],
        "address": actor["address"],
        "request_id": actor["request_id"],
    }
