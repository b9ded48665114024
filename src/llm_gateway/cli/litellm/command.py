"""Command `import litellm`: write the gateway's configuration file from one of LiteLLM's proxy."""

from __future__ import annotations

import sys
from typing import Annotated, Any

from cyclopts import Parameter

from llm_gateway.cli.configuration import write_file
from llm_gateway.cli.exits import CommandFailed
from llm_gateway.cli.litellm.models import Models
from llm_gateway.cli.litellm.settings import carry_over, credentials, request_timeout
from llm_gateway.cli.output import Flag, printable
from llm_gateway.cli.yaml_file import YamlFile, read_yaml, written


def litellm(
    file: Annotated[str, Parameter(allow_leading_hyphen=True, help="LiteLLM's config.yaml; - is standard input")],
    /,
    *,
    output: Annotated[str | None, Parameter(name=("--output", "-o"), help="a file to write")] = None,
    replace: Annotated[Flag, Parameter(help="replace the file if it exists")] = False,
) -> None:
    """Convert a configuration of LiteLLM's proxy to a file for `apply`.

    Deployments become providers, and their names aliases of models. What cannot be carried over is listed on standard
    error, with its line and what to do instead. Keys in the file are not repeated.

    ```sh
    llm-gateway import litellm config.yaml
    llm-gateway import litellm config.yaml -o gateway.yaml
    ```
    """
    source = read_yaml(file)
    document, models = converted(source)
    text = f"# From {source.place} of LiteLLM's proxy. Apply it with: llm-gateway apply -f FILE\n{written(document)}"
    if output is None:
        print(text, end="")
    else:
        write_file(output, text, replace=replace)
        print(f"Wrote {output}: {_counted(document)}.")
    for note in sorted(models.notes, key=lambda note: source.line(note.path)):
        print(printable(f"{source.where(note.path)}: {note.sentence}."), file=sys.stderr)


def converted(source: YamlFile) -> tuple[dict[str, Any], Models]:
    """Return the document of the gateway for a file of LiteLLM's, and the models with what is not carried over.

    Raises:
        CommandFailed: the file is not a configuration of LiteLLM's, or nothing in it can be carried over.
    """
    config = source.value
    entries = config.get("model_list") if isinstance(config, dict) else None
    if not isinstance(entries, list):
        raise CommandFailed(f"{source.place} has no model_list: it is not a config.yaml of LiteLLM's proxy.")
    models = Models(entries, credentials(config), request_timeout(config))
    budgets = carry_over(config, models)
    if not models.providers:
        first = f": {source.where(models.notes[0].path)}: {models.notes[0].sentence}" if models.notes else ""
        raise CommandFailed(f"{source.place} has no model that can be carried over{first}.")
    return {"providers": models.providers, **({"budgets": budgets} if budgets else {})}, models


def _counted(document: dict[str, Any]) -> str:
    providers = document["providers"]
    models = sum(len(each["models"]) for each in providers)
    aliases = sum(len(each.get("model_aliases", ())) for each in providers)
    counts = [(len(providers), "provider"), (models, "model"), (aliases, "alias")]
    if "budgets" in document:
        counts.append((len(document["budgets"]), "budget"))
    plural = {"alias": "aliases"}
    return ", ".join(f"{count} {noun if count == 1 else plural.get(noun, noun + 's')}" for count, noun in counts)
