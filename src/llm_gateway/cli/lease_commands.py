"""Commands `leases list` and `leases release`, which work on the settings' database, with or without a gateway."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter

from llm_gateway.cli.confirmation import confirm
from llm_gateway.cli.database import command_actor, current_database
from llm_gateway.cli.env_files import EnvFiles
from llm_gateway.cli.exits import FAILED, CommandFailed
from llm_gateway.cli.output import Column, Flag, Json, print_json, print_rows, printable
from llm_gateway.domain.audit import acting
from llm_gateway.settings_reader import load_settings
from llm_gateway.store.audit import AuditTrail
from llm_gateway.store.database import Database
from llm_gateway.store.hosts import HostTable
from llm_gateway.store.lease_ledger import lease_holders, release

COLUMNS = (
    Column("name", "Name"),
    Column("is_living", "Living"),
    Column("may_use", "May use"),
    Column("accounts", "Accounts", "count"),
    Column("id", "Id"),
)


def list_leases(*, env_file: EnvFiles = None, json: Json = False) -> None:
    """List the hosts that use budgets, and how many accounts each may use a part of.

    A host that is alone may use whole limits. On SQLite there is one host, which has no row.

    ```sh
    llm-gateway leases list
    ```
    """
    with current_database(load_settings(env_files=env_file)) as database:
        rows = _rows(database)
    if json:
        print_json(rows)
    else:
        print_rows(rows, COLUMNS, empty="No host uses budgets by leases.")


def release_leases(
    host: Annotated[str, Parameter(help="its id, or its name if only one host that does not live has it")],
    /,
    *,
    yes: Annotated[Flag, Parameter(alias="-y", help="do not ask")] = False,
    env_file: EnvFiles = None,
    json: Json = False,
) -> None:
    """Free what a host that is gone for good may use of budgets. On a terminal it asks first.

    If its data directory is still there, start a gateway on it instead, or move its journals to another host before:
    what is in them counts then. Requests that are lost with a journal are in no budget.

    ```sh
    llm-gateway leases release machine-7
    llm-gateway leases release 01a2074f-d831-7587-bb58-3e8215ed7271 --yes
    ```
    """
    settings = load_settings(env_files=env_file)
    with current_database(settings) as database:
        found = _find(_rows(database), host)
        confirm(
            f"Is the host {printable(found['name'])} gone for good, and its journals with it or moved? Budgets may be "
            "exceeded by what it has spent and not stored.",
            f"The leases of {printable(found['name'])} were left as they are.",
            yes=yes,
        )
        with acting(command_actor("leases release")):
            audit = AuditTrail(database, settings.data_dir.absolute())
            with audit.change("lease.release") as change:
                freed = release(change.connection, found["id"]) or 0
                change.about(found["id"], found["name"], before={"accounts": freed})
    if json:
        print_json({"id": found["id"], "accounts": freed})
    else:
        print(printable(f"Released {found['name']}: {freed} accounts have more room for the other hosts now."))


def _rows(database: Database) -> list[dict[str, Any]]:
    if database.is_sqlite:
        return []
    known = {each.id: each for each in HostTable(database).list()}
    with database.read() as connection:
        holders = lease_holders(connection)
    return [
        {
            "id": holder.host,
            "name": known[holder.host].name if holder.host in known else holder.host,
            "is_living": holder.host in known and known[holder.host].is_living,
            "may_use": "whole limits" if holder.is_alone else "leases",
            "accounts": holder.accounts,
        }
        for holder in holders
    ]


def _find(rows: list[dict[str, Any]], host: str) -> dict[str, Any]:
    """Return the row of the host with this id or name.

    Raises:
        CommandFailed: no host or several hosts match, or the host is still running.
    """
    found = [row for row in rows if row["id"] == host.lower()] or [
        row for row in rows if row["name"] == host and not row["is_living"]
    ]
    if len(found) != 1:
        what = "No host" if not found else "More than one host"
        raise CommandFailed(
            f"{what} that uses budgets is called {printable(host)!r}: llm-gateway leases list shows their ids.", FAILED
        )
    if found[0]["is_living"]:
        raise CommandFailed(
            f"The host {printable(host)} was there a moment ago: stop it, which returns its leases.", FAILED
        )
    return found[0]
