"""Commands `people …`: list, add and remove people who sign in to the dashboard, and change password and role.

A password is typed on the terminal, hidden, or read from standard input. The command line never has it, since other
users can read it in the list of processes.
"""

from __future__ import annotations

import sys
from getpass import getpass
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter

from llm_gateway.cli.client import HERE, Address, Client, connect
from llm_gateway.cli.confirmation import confirm
from llm_gateway.cli.exits import USAGE, CommandFailed
from llm_gateway.cli.output import Column, Flag, Json, print_json, print_rows, printable
from llm_gateway.cli.service_keys import find, pages

COLUMNS = (
    Column("name", "Name"),
    Column("role", "Role"),
    Column("team_id", "Team"),
    Column("customer", "Customer"),
    Column("disabled", "Disabled"),
    Column("id", "Id"),
)
Which = Annotated[str, Parameter(help="the person's name or id")]
Role = Annotated[Literal["viewer", "own", "admin"], Parameter(help="what the person may do")]
Team = Annotated[str | None, Parameter(help="the team whose usage a person with the role own sees: name or id")]
Customer = Annotated[str | None, Parameter(help="the customer whose usage a person with the role own sees")]


def people_app() -> App:
    """Build the commands `people …`."""
    app = App(name="people", help="Who signs in to the dashboard with a password: list, add, remove, password, role.")
    app.command(list_people, name="list")
    app.command(add)
    app.command(remove)
    app.command(password)
    app.command(role)
    return app


def list_people(*, json: Json = False, gateway: Address = HERE) -> None:
    """List the people.

    ```sh
    llm-gateway people list
    ```
    """
    people = list(pages(connect(gateway), "people"))
    if json:
        print_json(people)
    else:
        print_rows(people, COLUMNS, empty="No people. Add one: llm-gateway people add ann --role viewer")


def add(
    name: Annotated[str, Parameter(help="the person's name")],
    /,
    *,
    role: Role = "viewer",
    team: Team = None,
    customer: Customer = None,
    json: Json = False,
    gateway: Address = HERE,
) -> None:
    """Add a person. The password is typed on the terminal, or read from standard input.

    ```sh
    llm-gateway people add ann --role admin
    llm-gateway people add bob --role own --team core
    ```
    """
    client = connect(gateway)
    body = {"name": name, "role": role, **_bounds(client, team, customer), "password": _password(name, gateway)}
    _tell("Added", client.post("/people", body), json=json)


def remove(
    which: Which,
    /,
    *,
    yes: Annotated[Flag, Parameter(name=("--yes", "-y"), help="do not ask")] = False,
    json: Json = False,
    gateway: Address = HERE,
) -> None:
    """Remove a person, who is signed out at once; on a terminal it asks first.

    ```sh
    llm-gateway people remove ann
    ```
    """
    client = connect(gateway)
    person = find(client, "person", which)
    name = printable(person["name"])
    confirm(f"Remove the person {name}? It cannot be undone.", f"{name} was left as it is.", yes=yes)
    client.delete(f"/people/{person['id']}")
    _tell("Removed", person, json=json)


def password(which: Which, /, *, json: Json = False, gateway: Address = HERE) -> None:
    """Give a person a new password, which ends the person's sessions. It is typed, or read from standard input.

    ```sh
    llm-gateway people password ann
    ```
    """
    client = connect(gateway)
    person = find(client, "person", which)
    _change(client, person, {"password": _password(person["name"], gateway)}, json=json)


def role(
    which: Which,
    role: Role,
    /,
    *,
    team: Team = None,
    customer: Customer = None,
    disabled: Annotated[
        bool | None, Parameter(negative="--enabled", help="whether the person may sign in; unsaid, it stays")
    ] = None,
    json: Json = False,
    gateway: Address = HERE,
) -> None:
    """Give a person another role, which is in force at once.

    ```sh
    llm-gateway people role ann admin
    llm-gateway people role bob own --team core
    llm-gateway people role bob viewer --disabled
    ```
    """
    client = connect(gateway)
    body: dict[str, Any] = {"role": role, **_bounds(client, team, customer)}
    body |= {} if disabled is None else {"disabled": disabled}
    _change(client, find(client, "person", which), body, json=json)


def _bounds(client: Client, team: str | None, customer: str | None) -> dict[str, Any]:
    bounds = {} if team is None else {"team_id": find(client, "team", team)["id"]}
    return bounds if customer is None else bounds | {"customer": customer}


def _change(client: Client, person: dict[str, Any], body: dict[str, Any], *, json: bool) -> None:
    _tell("Changed", client.patch(f"/people/{person['id']}", body), json=json)


def _tell(what: str, person: dict[str, Any], *, json: bool) -> None:
    if json:
        print_json(person)
    else:
        print(f"{what} {printable(person['name'])}.")


def _password(name: str, address: Address) -> str:
    """Return the password of a person: from a hidden prompt on a terminal, else the first line of standard input.

    Raises:
        CommandFailed: no password was entered, the two entries differ, or standard input already holds the service key.
    """
    if sys.stdin.isatty():
        typed = getpass(f"Password of {name} (it is not shown): ")
        if typed != getpass("The same again: "):
            raise CommandFailed("The two passwords differ: try again.", USAGE)
        return typed
    if address.key_is_on_stdin:
        raise CommandFailed("Standard input holds the service key: give that in GATEWAY_KEY.", USAGE)
    typed = sys.stdin.readline().rstrip("\r\n")
    if not typed:
        raise CommandFailed("No password was given: pipe it in, or run the command on a terminal.", USAGE)
    return typed
