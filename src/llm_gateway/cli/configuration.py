"""Commands `apply` and `export`: the configuration of a running gateway as one YAML file."""

from __future__ import annotations

import json as json_text
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from llm_gateway.cli.client import HERE, Address, Client, Refused, connect
from llm_gateway.cli.confirmation import confirm
from llm_gateway.cli.exits import USAGE, CommandFailed
from llm_gateway.cli.output import Flag, Json, note, print_json, printable
from llm_gateway.cli.secret_references import Mistake, lines_of, placeholders, resolve
from llm_gateway.cli.yaml_file import YamlFile, read_yaml, written

PATH = "/configuration"
SIGNS = {"add": "+", "change": "~", "remove": "-"}
FIRST = ("name", "display_name", "user_id", "service_name", "kind", "base_url", "api_key")
"""Fields that come first in an exported entry."""


def apply(
    *,
    file: Annotated[
        str, Parameter(name=("--file", "-f"), allow_leading_hyphen=True, help="the YAML file; - is standard input")
    ],
    dry_run: Annotated[Flag, Parameter(help="only show what would change")] = False,
    prune: Annotated[Flag, Parameter(help="also remove what the file's sections do not have")] = False,
    yes: Annotated[Flag, Parameter(name=("--yes", "-y"), help="remove without asking")] = False,
    json: Json = False,
    gateway: Address = HERE,
) -> None:
    """Make a gateway's providers, overrides, teams, keys, budgets and alert targets what a file says.

    What changes is shown first. All of it is in force at once, or nothing. A second time nothing changes.

    ```sh
    llm-gateway apply -f gateway.yaml --dry-run
    llm-gateway apply -f gateway.yaml
    llm-gateway apply -f gateway.yaml --prune
    ```
    """
    if file == "-" and gateway.key_is_on_stdin:
        raise CommandFailed("Standard input holds the service key: name the file, or set GATEWAY_KEY.", USAGE)
    source = read_yaml(file)
    document = resolve(source, Path() if file == "-" else Path(file).parent)
    client = connect(gateway)
    plan = _send(client, source, document, dry_run=True, prune=prune)
    if not json:
        _show(plan, source.place)
    if plan["changes"] and not dry_run:
        removed = sum(change["action"] == "remove" for change in plan["changes"])
        if removed:
            confirm(f"Remove {removed} and apply the rest? It cannot be undone.", "Nothing was changed.", yes=yes)
        plan = _send(client, source, document, dry_run=False, prune=prune, version=plan["version"])
        if not json:
            print("Applied.")
    if json:
        print_json(plan)


def export(
    *,
    output: Annotated[str | None, Parameter(name=("--output", "-o"), help="a file to write")] = None,
    replace: Annotated[Flag, Parameter(help="replace the file if it exists")] = False,
    gateway: Address = HERE,
) -> None:
    """Write a gateway's configuration as a file for `apply`, without secrets.

    The API keys of providers and the secrets of alert targets are variables in it, such as ${OPENAI_API_KEY}, and
    service keys have the hashes of their secrets.

    ```sh
    llm-gateway export > gateway.yaml
    llm-gateway export -o gateway.yaml
    ```
    """
    client = connect(gateway)
    document: dict[str, Any] = client.get(PATH)["document"]
    variables = []
    for entry, field, variable in placeholders(document):
        entry[field] = f"${{{variable}}}"
        variables.append(variable)
    sections = {name: [_ordered(entry) for entry in entries] for name, entries in document.items()}
    hint = f"Secrets are not exported: set {', '.join(variables)} before you apply the file."
    head = [f"# Configuration of {client.base_url}. Apply it with: llm-gateway apply -f FILE"]
    text = "\n".join([*head, *([f"# {printable(hint)}"] if variables else []), written(sections)])
    if output is None:
        print(text, end="")
    else:
        write_file(output, text, replace=replace)
        print(f"Wrote {output}.")
    if variables:
        note(hint)


def _send(client: Client, source: YamlFile, document: object, **options: Any) -> Any:
    """Send a document.

    Raises:
        CommandFailed: the gateway refuses it; a line for each mistake, with its line in the file.
    """
    try:
        return client.post(PATH, {"document": document, **options})
    except Refused as error:
        mistakes = [
            Mistake(tuple(found["loc"][2:]), printable(found["msg"]))
            for found in error.errors
            if found["loc"][:2] == ["body", "document"]
        ]
        if not mistakes:
            raise
        raise CommandFailed(lines_of(source, mistakes)) from None


def _show(plan: dict[str, Any], place: str) -> None:
    for change in plan["changes"]:
        print(printable(f"{SIGNS[change['action']]} {change['section']} {_named(change)}"))
        for field in change["fields"]:
            after = _text(field["after"])
            shown = after if change["action"] == "add" else f"{_text(field['before'])} → {after}"
            print(printable(f"    {field['name']}: {shown}"))
    counts = {action: sum(change["action"] == action for change in plan["changes"]) for action in SIGNS}
    print(
        f"{counts['add']} to add, {counts['change']} to change, {counts['remove']} to remove, "
        f"{plan['unchanged']} unchanged."
    )
    if plan["unlisted"]:
        names = ", ".join(f"{each['section']} {_named(each)}" for each in plan["unlisted"])
        print(printable(f"Not in {place}, and kept without --prune: {names}."))


def _named(entry: dict[str, Any]) -> str:
    return entry["name"] if entry["service_name"] is None else f"{entry['name']}, service {entry['service_name']}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json_text.dumps(value, ensure_ascii=False)


def _ordered(entry: dict[str, Any]) -> dict[str, Any]:
    return {name: entry[name] for name in (*FIRST, *entry) if name in entry}


def write_file(output: str, text: str, *, replace: bool) -> None:
    """Write a file that only its owner can read.

    Raises:
        CommandFailed: the file exists, or cannot be written.
    """
    path = Path(output)
    partial = path.with_name(f"{path.name}.partial")
    try:
        if path.exists() and not replace:
            raise CommandFailed(f"{output} exists: name another file, or use --replace.")
        partial.touch(mode=0o600)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise CommandFailed(f"{output} cannot be written ({error.strerror}): name another file.") from None
