"""Commands `providers …`: list, show, add, update, test, disable and remove the gateway's upstream accounts."""

from __future__ import annotations

import sys
from typing import Annotated, Any

from cyclopts import App, Parameter

from llm_gateway.cli.client import HERE, Address, Client, connect
from llm_gateway.cli.confirmation import confirm
from llm_gateway.cli.exits import FAILED, USAGE, CommandFailed
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
from llm_gateway.cli.provider_options import DEFAULTS, ProviderOptions
from llm_gateway.cli.vendor_key import NO_KEY, UNSAID, VendorKey
from llm_gateway.suggestions import if_meant

Name = Annotated[str, Parameter(help="the provider's name or id")]
Models = Annotated[list[str], Parameter(alias="-m", help="a model it serves; repeat it, the first is the default")]
NewModels = Annotated[list[str] | None, Parameter(alias="-m", help="the models it serves from now on; repeat it")]


def _priced(prices: dict[str, dict[str, float]]) -> str:
    """Format prices for people."""
    return "; ".join(
        f"{model}: " + ", ".join(f"{kind} {usd:g}" for kind, usd in kinds.items()) for model, kinds in prices.items()
    )


def _aliased(aliases: dict[str, str]) -> str:
    """Format aliases for people."""
    return "; ".join(f"{alias} → {model}" for alias, model in aliases.items())


def _limited(limit: int | dict[str, int]) -> str:
    """Format token limits for people."""
    return "; ".join(f"{model}: {tokens}" for model, tokens in limit.items()) if isinstance(limit, dict) else str(limit)


def _warned(warnings: list[str]) -> str:
    """Format warnings for people."""
    return " ".join(warnings) or "none"


COLUMNS = (
    Column("name", "Name"),
    Column("kind", "Kind"),
    Column("models", "Models", "list"),
    Column("is_enabled", "Enabled", "flag"),
    Column("priority", "Priority", "count"),
    Column("rate_limit_rpm", "Requests/min", "count"),
    Column("rate_limit_tpm", "Tokens/min", "count"),
    Column("id", "Id", on_terminal=False),
)
FIELDS = (
    Column("name", "Name"),
    Column("display_name", "Display name"),
    Column("id", "Id"),
    Column("kind", "Kind"),
    Column("protocols", "Protocols", "list", missing="the vendor's own"),
    Column("base_url", "Base URL", missing="the vendor's own"),
    Column("effective_base_url", "Address", missing="the embedded model"),
    Column("models", "Models", "list"),
    Column("model_aliases", "Aliases", _aliased, missing="none"),
    Column("context_window", "Context window", _limited, missing="the public list's"),
    Column("max_output_tokens", "Longest answer", _limited, missing="unknown"),
    Column("is_enabled", "Enabled", "flag"),
    Column("priority", "Priority", "count"),
    Column("rate_limit_rpm", "Requests/min", "count"),
    Column("rate_limit_tpm", "Tokens/min", "count"),
    Column("timeout_s", "Timeout (s)", "count"),
    Column("prices", "USD per 1M", _priced, missing="the public list's"),
    Column("trace", "Trace", "flag"),
    Column("created_at", "Created"),
    Column("updated_at", "Changed"),
    Column("warnings", "Warnings", _warned),
)
TESTED = (Column("name", "Name"), Column("success", "Answers", "flag"), Column("error", "What to do"))
EMPTY = "No providers yet. Add one: llm-gateway providers add openai --model gpt-4o-mini"


def providers_app() -> App:
    """Build the commands `providers …`."""
    app = App(name="providers", help="The upstream accounts: list, add, test, change.")
    app.command(list_providers, name="list")
    app.command(ask, name="test")
    for command in (show, add, update, enable, disable, remove):
        app.command(command)
    return app


def list_providers(*, json: Json = False, gateway: Address = HERE) -> None:
    """List the configured providers, the preferred ones first.

    ```sh
    llm-gateway providers list
    llm-gateway providers list --json
    ```
    """
    providers = connect(gateway).get("/providers")
    if json:
        print_json(providers)
    else:
        print_rows(providers, COLUMNS, empty=EMPTY)


def show(name: Name, /, *, json: Json = False, gateway: Address = HERE) -> None:
    """Show everything about one provider but its key.

    ```sh
    llm-gateway providers show openai
    ```
    """
    provider = find(connect(gateway), name)
    if json:
        print_json(provider)
    else:
        print_fields(provider, FIELDS)


def add(
    name: Annotated[str, Parameter(help="a short unique name; that of a known vendor brings its address")],
    /,
    *,
    model: Models,
    options: ProviderOptions = DEFAULTS,
    disabled: Annotated[Flag, Parameter(help="keep it out of use for now")] = False,
    key: VendorKey = UNSAID,
    json: Json = False,
    gateway: Address = HERE,
) -> None:
    """Add a provider. It is used from the next request on.

    On a terminal the command prompts for the vendor's API key; elsewhere it reads the key from standard input. The key
    is stored encrypted and never shown again.

    ```sh
    llm-gateway providers add openai --model gpt-4o-mini
    llm-gateway providers add groq -m llama-3.3-70b-versatile --priority 20 --api-key-env GROQ_API_KEY
    llm-gateway providers add openai -m gpt-5-mini --alias 'claude-*-haiku*=gpt-5-mini'
    llm-gateway providers add box --base-url http://10.0.0.7:8000/v1 -m qwen3 --price qwen3=0,0 --no-api-key
    ```
    """
    client = connect(gateway)
    body = {"name": name, "display_name": name, "models": model, "is_enabled": not disabled}
    body |= options.fields() | options.mappings(model)
    needs_none = options.kind == "local" or (options.kind is None and name == "local")
    body["api_key"] = NO_KEY if needs_none and not key.is_given else key.read(name, gateway)
    added = client.post("/providers", body)
    if json:
        print_json(added)
        return
    print(printable(f"Added {added['name']}: {', '.join(added['models'])}, priority {added['priority']}."))
    _warn(added)
    note(f"See whether it answers: llm-gateway providers test {added['name']}")


def update(
    name: Name,
    /,
    *,
    new_name: Annotated[str | None, Parameter(help="rename it, and its overrides along")] = None,
    model: NewModels = None,
    options: ProviderOptions = DEFAULTS,
    key: VendorKey = UNSAID,
    json: Json = False,
    gateway: Address = HERE,
) -> None:
    """Change a provider. Options that are not given change nothing, nor does the key.

    ```sh
    llm-gateway providers update openai --priority 5
    llm-gateway providers update openai -m gpt-4o -m gpt-4o-mini --rpm 500
    llm-gateway providers update openai --api-key-prompt
    llm-gateway providers update openai --context-window gpt-4o=64000
    llm-gateway providers update openai --base-url '' --protocols '' --alias ''
    ```
    """
    client = connect(gateway)
    before = find(client, name)
    changes = options.fields() | options.mappings(model or before["models"], before)
    if new_name is not None:
        changes["name"] = new_name
    if model is not None:
        changes["models"] = model
    if key.is_given:
        changes["api_key"] = key.read(before["name"], gateway)
    if not changes:
        raise CommandFailed("Nothing to change was named: see llm-gateway providers update --help.", USAGE)
    _changed(client, before, changes, "Updated", json=json)


def enable(name: Name, /, *, json: Json = False, gateway: Address = HERE) -> None:
    """Use a provider again.

    ```sh
    llm-gateway providers enable openai
    ```
    """
    client = connect(gateway)
    _changed(client, find(client, name), {"is_enabled": True}, "Enabled", json=json)


def disable(name: Name, /, *, json: Json = False, gateway: Address = HERE) -> None:
    """Stop using a provider, and keep it.

    ```sh
    llm-gateway providers disable openai
    ```
    """
    client = connect(gateway)
    _changed(client, find(client, name), {"is_enabled": False}, "Disabled", json=json)


def ask(
    name: Annotated[str | None, Parameter(help="the provider's name or id; without it all are tested")] = None,
    /,
    *,
    json: Json = False,
    gateway: Address = HERE,
) -> None:
    """Ask a provider for its list of models, which costs nothing. Ends with 1 if it does not answer.

    ```sh
    llm-gateway providers test openai
    llm-gateway providers test --json
    ```
    """
    client = connect(gateway)
    providers = client.get("/providers") if name is None else [find(client, name)]
    results = [_test(client, provider) for provider in providers]
    if json:
        print_json(results if name is None else {field: results[0][field] for field in ("success", "error")})
    else:
        print_rows(results, TESTED, empty=EMPTY)
    if not all(result["success"] for result in results):
        raise CommandFailed("", FAILED)


def remove(
    name: Name,
    /,
    *,
    yes: Annotated[Flag, Parameter(alias="-y", help="do not ask")] = False,
    json: Json = False,
    gateway: Address = HERE,
) -> None:
    """Remove a provider and its key. On a terminal it asks first. Its usage stays in the reports.

    ```sh
    llm-gateway providers remove openai
    llm-gateway providers remove openai --yes
    ```
    """
    client = connect(gateway)
    provider = find(client, name)
    confirm(
        f"Remove {provider['name']} and its API key? It cannot be undone.",
        f"{provider['name']} was left as it is.",
        yes=yes,
    )
    client.delete(f"/providers/{provider['id']}")
    if json:
        print_json(provider)
    else:
        print(f"Removed {provider['name']}.")


def find(client: Client, name: str) -> dict[str, Any]:
    """Return the provider with this name, else with this id.

    Raises:
        CommandFailed: no provider matches; the message lists the configured ones.
    """
    providers: list[dict[str, Any]] = client.get("/providers")
    for field in ("name", "id"):
        for provider in providers:
            if provider[field] == name:
                return provider
    names = [each["name"] for each in providers]
    there_are = f"there are {', '.join(names)}" if providers else "none is configured"
    raise CommandFailed(f"There is no provider {name!r}: {there_are}.{if_meant(name, names)}")


def _changed(client: Client, before: dict[str, Any], changes: dict[str, Any], done: str, *, json: bool) -> None:
    after = client.patch(f"/providers/{before['id']}", changes)
    if json:
        print_json(after)
    else:
        print(f"{done} {after['name']}.")
        _warn(after)


def _warn(provider: dict[str, Any]) -> None:
    for warning in provider.get("warnings", ()):
        print(printable(f"Warning: {warning}"), file=sys.stderr)


def _test(client: Client, provider: dict[str, Any]) -> dict[str, Any]:
    return {"name": provider["name"], **client.post(f"/providers/{provider['id']}/test")}
