"""Command `usage erase`: replace a customer's label in stored usage by a random one."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter

from llm_gateway.cli.client import HERE, Address, connect
from llm_gateway.cli.confirmation import confirm
from llm_gateway.cli.output import Flag, Json, print_json, printable


def erase(
    customer: Annotated[str, Parameter(help="whose usage (the user_id of /generate)")],
    /,
    *,
    yes: Annotated[Flag, Parameter(alias="-y", help="do not ask")] = False,
    json: Json = False,
    gateway: Address = HERE,
) -> None:
    """Replace a customer's label in stored usage by a random one. On a terminal it asks first. Costs and counts stay.

    ```sh
    llm-gateway usage erase alice
    llm-gateway usage erase alice --yes
    ```
    """
    from urllib.parse import quote  # noqa: PLC0415 - only this command needs it

    client = connect(gateway)
    confirm(
        f"Erase {printable(customer)} from all stored usage? It cannot be undone.",
        f"The usage of {printable(customer)} was left as it is.",
        yes=yes,
    )
    erased = client.delete(f"/usage/customers/{quote(customer, safe='')}")
    if json:
        print_json(erased)
        return
    print(printable(f"Erased {customer}: {erased['records']} records and all sums are of {erased['erased_as']} now."))
    if erased["overrides"]:
        print("Its overrides stay. Remove them with `llm-gateway overrides remove ID`:", *erased["overrides"])
