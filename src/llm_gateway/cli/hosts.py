"""Commands `hosts …`: list the gateways on one database, and remove those that are gone."""

from __future__ import annotations

from typing import Annotated

from cyclopts import App, Parameter

from llm_gateway.cli.client import HERE, Address, connect
from llm_gateway.cli.exits import FAILED, CommandFailed
from llm_gateway.cli.output import Column, Json, print_json, print_rows, printable

COLUMNS = (
    Column("name", "Name"),
    Column("is_living", "Living", "flag"),
    Column("version", "Version"),
    Column("started_at", "Started"),
    Column("seen_at", "Seen"),
    Column("id", "Id"),
)


def hosts_app() -> App:
    """Build the commands `hosts …`."""
    app = App(name="hosts", help="Gateways on one database: list, remove.")
    app.command(list_hosts, name="list")
    app.command(remove)
    return app


def list_hosts(*, json: Json = False, gateway: Address = HERE) -> None:
    """List the gateways on the database, those that are gone included.

    ```sh
    llm-gateway hosts list
    ```
    """
    hosts = connect(gateway).get("/hosts")["hosts"]
    if json:
        print_json(hosts)
    else:
        print_rows(hosts, COLUMNS, empty="No hosts.")


def remove(
    which: Annotated[str, Parameter(help="its id, or its name if only one of those that are gone has it")],
    /,
    *,
    json: Json = False,
    gateway: Address = HERE,
) -> None:
    """Remove a host that is gone for good.

    ```sh
    llm-gateway hosts remove machine-7
    ```
    """
    client = connect(gateway)
    hosts = client.get("/hosts")["hosts"]
    found = [host for host in hosts if host["id"] == which.lower()] or [
        host for host in hosts if host["name"] == which and not host["is_living"]
    ]
    if len(found) != 1:
        what = f"{len(found)} hosts that are gone are" if found else "There is no host that is gone and"
        raise CommandFailed(f"{what} named {printable(which)}: see llm-gateway hosts list, and give the id.", FAILED)
    client.delete(f"/hosts/{found[0]['id']}")
    if json:
        print_json(found[0])
    else:
        print(f"Removed {printable(found[0]['name'])}.")
