"""Commands `overrides …`: list, add and remove the provider and model that one customer's requests try first."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import App, Parameter

from llm_gateway.cli.client import HERE, Address, Client, connect
from llm_gateway.cli.exits import CommandFailed
from llm_gateway.cli.output import Column, Flag, Json, print_json, print_rows, printable
from llm_gateway.cli.providers import find as find_provider

COLUMNS = (
    Column("user_id", "Customer"),
    Column("service_name", "Service", missing="all"),
    Column("provider_name", "Provider"),
    Column("model_name", "Model"),
    Column("allow_fallback", "Fallback", "flag"),
    Column("id", "Id"),
)
EMPTY = "No overrides. Add one: llm-gateway overrides add alice openai gpt-4o"


def overrides_app() -> App:
    """Build the commands `overrides …`."""
    app = App(name="overrides", help="Where one customer's requests go first: list, add, remove.")
    app.command(list_overrides, name="list")
    app.command(add)
    app.command(remove)
    return app


def list_overrides(
    *,
    customer: Annotated[str | None, Parameter(help="only this customer's")] = None,
    json: Json = False,
    gateway: Address = HERE,
) -> None:
    """List the overrides.

    ```sh
    llm-gateway overrides list
    llm-gateway overrides list --customer alice
    ```
    """
    overrides = connect(gateway).get("/overrides", user_id=customer)
    if json:
        print_json(overrides)
    else:
        print_rows(overrides, COLUMNS, empty=EMPTY)


def add(
    customer: Annotated[str, Parameter(help="whose requests (the user_id of /generate)")],
    provider: Annotated[str, Parameter(help="the provider's name or id")],
    model: Annotated[str | None, Parameter(help="one of its models; without it its default")] = None,
    /,
    *,
    service: Annotated[str | None, Parameter(help="only requests of this service")] = None,
    only: Annotated[Flag, Parameter(help="never fall back to another provider")] = False,
    json: Json = False,
    gateway: Address = HERE,
) -> None:
    """Send a customer's requests to one provider and model first.

    ```sh
    llm-gateway overrides add alice openai gpt-4o
    llm-gateway overrides add alice openai gpt-4o --service shop --only
    ```
    """
    client = connect(gateway)
    found = find_provider(client, provider)
    body = {
        "user_id": customer,
        "service_name": service,
        "provider_name": found["name"],
        "model_name": model or found["models"][0],
        "allow_fallback": not only,
    }
    added = client.post("/overrides", body)
    if json:
        print_json(added)
    else:
        print(f"Added: {_sentence(added)}")


def remove(
    which: Annotated[str, Parameter(help="the override's id, or its customer")],
    /,
    *,
    service: Annotated[str | None, Parameter(help="the customer's override for this service")] = None,
    json: Json = False,
    gateway: Address = HERE,
) -> None:
    """Remove an override, by its id or by its customer.

    ```sh
    llm-gateway overrides remove alice
    llm-gateway overrides remove alice --service shop
    llm-gateway overrides remove 0199a0c4-7d3e-7f00-8000-3c5d1e2f4a6b
    ```
    """
    client = connect(gateway)
    override = find(client, which, service)
    client.delete(f"/overrides/{override['id']}")
    if json:
        print_json(override)
    else:
        print(f"Removed: {_sentence(override)}")


def find(client: Client, which: str, service: str | None) -> dict[str, Any]:
    """Return the override with the id `which`, or that of the customer `which` (and the service).

    Raises:
        CommandFailed: no override matches, or more than one.
    """
    overrides: list[dict[str, Any]] = client.get("/overrides")
    of_customer = [each for each in overrides if each["user_id"] == which]
    found = of_customer or [each for each in overrides if each["id"] == which]
    if service is not None:
        found = [each for each in found if each["service_name"] == service]
    if len(found) == 1:
        return found[0]
    if found:
        listed = "; ".join(f"{each['id']} ({each['service_name'] or 'all services'})" for each in found)
        raise CommandFailed(
            f"{printable(which)} has {len(found)} overrides, choose one by its id: {printable(listed)}."
        )
    raise CommandFailed(f"There is no such override of {printable(which)}: see llm-gateway overrides list.")


def _sentence(override: dict[str, Any]) -> str:
    service = f"service {override['service_name']}" if override["service_name"] is not None else "all services"
    fallback = "first" if override["allow_fallback"] else "only"
    return printable(
        f"{override['user_id']}, {service}: {fallback} {override['provider_name']} {override['model_name']}."
    )
