"""Commands `keys …` that work with a running gateway: list, add, show, set, rotate and remove service keys."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Annotated, Any

from cyclopts import App, Parameter

from llm_gateway.cli.client import HERE, Address, Client, connect
from llm_gateway.cli.confirmation import confirm
from llm_gateway.cli.exits import USAGE, CommandFailed
from llm_gateway.cli.key_options import CLEARED, KeyOptions
from llm_gateway.cli.output import (
    Column,
    Flag,
    Json,
    note,
    print_fields,
    print_json,
    print_rows,
    printable,
)

PAGE = 1000
"""Rows of each requested page."""
_ID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
NO_OPTIONS = KeyOptions()
Which = Annotated[str, Parameter(help="its name or id")]


def _list(value: Any) -> str:
    return f"always {value['fixed']}" if isinstance(value, dict) else ", ".join(value)


COLUMNS = (
    Column("name", "Name"),
    Column("source", "Source"),
    Column("scopes", "Scopes", "list"),
    Column("disabled", "Disabled", "flag"),
    Column("expires_at", "Ends", missing="never"),
    Column("last_used_at", "Last used", missing="unknown"),
    Column("last4", "Secret", lambda text: f"…{text}"),
    Column("id", "Id", on_terminal=False),
)
FIELDS = (
    *(Column("name", "Name"), Column("id", "Id"), Column("source", "Source"), Column("scopes", "Scopes", "list")),
    *(Column("team_id", "Team", missing="none"), Column("parent_id", "Parent", missing="none")),
    Column("owner", "Owner", missing="unknown"),
    *(Column("customers", "Customers", _list, "all"), Column("services", "Services", _list, "all")),
    Column("models", "Models", _list, "all"),
    *(Column("rpm", "Requests/min", "count", "any"), Column("tpm", "Tokens/min", "count", "any")),
    *(Column("max_parallel", "At once", "count", "any"), Column("max_tokens", "Longest answer", "count", "any")),
    Column("max_reasoning_effort", "Highest effort", missing="any"),
    Column("max_request_usd", "Dearest request", "money", "any"),
    Column("tags", "Tags", lambda tags: ", ".join(f"{name}={text}" for name, text in tags.items()) or "none"),
    *(Column("disabled", "Disabled", "flag"), Column("expires_at", "Ends", missing="never")),
    *(Column("last4", "Secret", lambda text: f"…{text}"), Column("last_used_at", "Last used", missing="unknown")),
    *(Column("created_at", "Created"), Column("updated_at", "Changed")),
)


def add_commands(app: App) -> None:
    """Add the commands to the group `keys`."""
    app.command(list_keys, name="list")
    app.command(add)
    app.command(show)
    app.command(set_key, name="set")
    app.command(rotate)
    app.command(remove)


def list_keys(
    *,
    team: Annotated[str | None, Parameter(help="only keys of this team, by name or id")] = None,
    json: Json = False,
    gateway: Address = HERE,
) -> None:
    """List the service keys: those made here, and those of the environment.

    ```sh
    llm-gateway keys list
    llm-gateway keys list --team core
    ```
    """
    client = connect(gateway)
    team_id = None if team is None else find(client, "team", team)["id"]
    keys = list(pages(client, "keys", team_id=team_id))
    if json:
        print_json(keys)
    else:
        print_rows(keys, COLUMNS, empty="No keys. Add one: llm-gateway keys add shop")


def add(
    name: Annotated[str, Parameter(help="who will use it")],
    /,
    *,
    options: KeyOptions = NO_OPTIONS,
    json: Json = False,
    gateway: Address = HERE,
) -> None:
    """Make a service key, in force at once. Its secret is shown now and never again.

    ```sh
    llm-gateway keys add shop
    llm-gateway keys add agents --team core --model "claude-*" --rpm 600 --expires 2027-01-31T12:00:00Z
    llm-gateway keys add batch --fixed-service batch --tag stage=beta
    ```
    """
    client = connect(gateway)
    made = client.post("/keys", {"name": name} | _fields(client, options))
    _print_secret(made, json=json)


def show(which: Which, /, *, json: Json = False, gateway: Address = HERE) -> None:
    """Show a service key, without its secret.

    ```sh
    llm-gateway keys show shop
    ```
    """
    key = find(connect(gateway), "key", which)
    if json:
        print_json(key)
    else:
        print_fields(key, FIELDS)


def set_key(
    which: Which,
    /,
    *,
    name: Annotated[str | None, Parameter(help="a new name")] = None,
    options: KeyOptions = NO_OPTIONS,
    disabled: Annotated[bool | None, Parameter(negative="--enabled", help="end it until it is enabled")] = None,
    clear: Annotated[
        list[str] | None,
        Parameter(metavar="FIELD", help="a field to take away, such as rpm; repeat it"),
    ] = None,
    json: Json = False,
    gateway: Address = HERE,
) -> None:
    """Change a service key: only what you name, in force at once.

    ```sh
    llm-gateway keys set shop --rpm 1200 --model "gpt-*"
    llm-gateway keys set shop --clear rpm --clear models
    llm-gateway keys set shop --disabled
    ```
    """
    client = connect(gateway)
    unknown = sorted(set(clear or ()) - set(CLEARED))
    if unknown:
        raise CommandFailed(f"--clear takes {', '.join(CLEARED)}, not {unknown[0]!r}.", USAGE)
    changes = dict.fromkeys(clear or ()) | _fields(client, options)
    changes |= {} if name is None else {"name": name}
    changes |= {} if disabled is None else {"disabled": disabled}
    if not changes:
        raise CommandFailed("Name what to change: llm-gateway keys set --help lists the options.", USAGE)
    changed = client.patch(f"/keys/{find(client, 'key', which)['id']}", changes)
    if json:
        print_json(changed)
    else:
        print(f"Changed {printable(changed['name'])}.")


def rotate(
    which: Which,
    /,
    *,
    overlap: Annotated[
        str, Parameter(help="how long the secret before stays valid, such as 30m, 24h or 7d; 0 ends it at once")
    ] = "24h",
    json: Json = False,
    gateway: Address = HERE,
) -> None:
    """Give a service key a new secret, which is shown now and never again.

    ```sh
    llm-gateway keys rotate shop
    llm-gateway keys rotate shop --overlap 0
    ```
    """
    client = connect(gateway)
    seconds = _seconds(overlap)
    key = find(client, "key", which)
    _print_secret(client.post(f"/keys/{key['id']}/rotate", {"overlap_s": seconds}), json=json)


def remove(
    which: Which,
    /,
    *,
    yes: Annotated[Flag, Parameter(name=("--yes", "-y"), help="do not ask")] = False,
    json: Json = False,
    gateway: Address = HERE,
) -> None:
    """Remove a service key; on a terminal it asks first. Requests with the key are refused at once.

    ```sh
    llm-gateway keys remove shop
    llm-gateway keys remove shop --yes
    ```
    """
    client = connect(gateway)
    key = find(client, "key", which)
    confirm(
        f"Remove the key {printable(key['name'])}? It cannot be undone.",
        f"{printable(key['name'])} was left as it is.",
        yes=yes,
    )
    client.delete(f"/keys/{key['id']}")
    if json:
        print_json(key)
    else:
        print(f"Removed {printable(key['name'])}.")


def pages(client: Client, noun: str, **filters: Any) -> Iterator[dict[str, Any]]:
    """Yield all rows of a list of the API that comes in pages."""
    cursor = None
    while True:
        page = client.get(f"/{noun}", limit=PAGE, cursor=cursor, **filters)
        yield from page[noun]
        cursor = page["next_cursor"]
        if cursor is None:
            return


def find(client: Client, noun: str, which: str) -> dict[str, Any]:
    """Return the key, team, budget or person with this name or id.

    Raises:
        CommandFailed: nothing has this name or id.
    """
    nouns = "people" if noun == "person" else f"{noun}s"
    if _ID.fullmatch(which):
        found: dict[str, Any] = client.get(f"/{nouns}/{which}")
        return found
    for row in pages(client, nouns, name=which):
        return row
    raise CommandFailed(f"There is no {noun} named {printable(which)}: see llm-gateway {nouns} list.")


def _fields(client: Client, options: KeyOptions) -> dict[str, Any]:
    fields = options.fields()
    if options.team is not None:
        fields["team_id"] = find(client, "team", options.team)["id"]
    if options.parent is not None:
        fields["parent_id"] = find(client, "key", options.parent)["id"]
    return fields


def _print_secret(made: dict[str, Any], *, json: bool) -> None:
    if json:
        print_json(made)
        return
    print(made["secret"])
    note(f"This is the secret of {printable(made['name'])}. It is shown only now: put it where its user finds it.")


def _seconds(text: str) -> float:
    if text == "0":
        return 0
    found = re.fullmatch(r"(\d{1,9})([smhd])", text, re.ASCII)
    if found is None:
        raise CommandFailed(f"--overlap takes a duration with its unit, such as 30m, 24h or 7d, not {text!r}.", USAGE)
    return int(found[1]) * _SECONDS[found[2]]
