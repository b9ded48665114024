"""Commands `teams …`: list, add, show, set and remove teams, to which service keys belong."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from llm_gateway.cli.client import HERE, Address, connect
from llm_gateway.cli.exits import USAGE, CommandFailed
from llm_gateway.cli.output import Column, Json, print_fields, print_json, print_rows, printable
from llm_gateway.cli.service_keys import find, pages

COLUMNS = (Column("name", "Name"), Column("description", "Description"), Column("id", "Id"))
FIELDS = (*COLUMNS, Column("created_at", "Created"), Column("updated_at", "Changed"))
Which = Annotated[str, Parameter(help="its name or id")]


def teams_app() -> App:
    """Build the commands `teams …`."""
    app = App(name="teams", help="Groups of service keys: list, add, show, set, remove.")
    app.command(list_teams, name="list")
    app.command(add)
    app.command(show)
    app.command(set_team, name="set")
    app.command(remove)
    return app


def list_teams(*, json: Json = False, gateway: Address = HERE) -> None:
    """List the teams.

    ```sh
    llm-gateway teams list
    ```
    """
    teams = list(pages(connect(gateway), "teams"))
    if json:
        print_json(teams)
    else:
        print_rows(teams, COLUMNS, empty="No teams. Add one: llm-gateway teams add core")


def add(
    name: Annotated[str, Parameter(help="its name")],
    /,
    *,
    description: Annotated[str, Parameter(help="what it is")] = "",
    json: Json = False,
    gateway: Address = HERE,
) -> None:
    """Add a team.

    ```sh
    llm-gateway teams add core
    llm-gateway teams add core --description "The core services"
    ```
    """
    added = connect(gateway).post("/teams", {"name": name, "description": description})
    if json:
        print_json(added)
    else:
        print(f"Added {printable(added['name'])}.")


def show(which: Which, /, *, json: Json = False, gateway: Address = HERE) -> None:
    """Show a team.

    ```sh
    llm-gateway teams show core
    ```
    """
    team = find(connect(gateway), "team", which)
    if json:
        print_json(team)
    else:
        print_fields(team, FIELDS)


def set_team(
    which: Which,
    /,
    *,
    name: Annotated[str | None, Parameter(help="a new name")] = None,
    description: Annotated[str | None, Parameter(help="what it is")] = None,
    json: Json = False,
    gateway: Address = HERE,
) -> None:
    """Change a team's name or description.

    ```sh
    llm-gateway teams set core --name platform
    ```
    """
    given = {"name": name, "description": description}
    changes = {field: text for field, text in given.items() if text is not None}
    if not changes:
        raise CommandFailed("Give --name or --description, or both.", USAGE)
    client = connect(gateway)
    changed = client.patch(f"/teams/{find(client, 'team', which)['id']}", changes)
    if json:
        print_json(changed)
    else:
        print(f"Changed {printable(changed['name'])}.")


def remove(which: Which, /, *, json: Json = False, gateway: Address = HERE) -> None:
    """Remove a team that has no keys.

    ```sh
    llm-gateway teams remove core
    ```
    """
    client = connect(gateway)
    team = find(client, "team", which)
    client.delete(f"/teams/{team['id']}")
    if json:
        print_json(team)
    else:
        print(f"Removed {printable(team['name'])}.")
