"""Replace the references to secrets in a configuration file: `${VARIABLE}` and `file:PATH`."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from llm_gateway.cli.exits import CommandFailed
from llm_gateway.cli.vendor_key import NO_KEY
from llm_gateway.cli.yaml_file import YamlFile

SECRET_FIELDS = {"providers": ("api_key",), "keys": ("secret",), "alert_targets": ("url", "secret", "password")}
"""The fields of each section whose value is a secret."""
MOST_BYTES = 64 * 1024
VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")
_FILE = "file:"


class Mistake(NamedTuple):
    """A mistake in a file, and the path of what is wrong."""

    path: tuple[str | int, ...]
    sentence: str


def resolve(file: YamlFile, folder: Path) -> Any:
    """Return the document of a file with its secrets in place. Relative paths are relative to `folder`.

    Raises:
        CommandFailed: a variable or file is missing, or a secret is in the file itself; a line for each mistake.
    """
    if not isinstance(file.value, dict):
        raise CommandFailed(f"{file.place} must be sections, such as providers: and keys:.")
    document, mistakes = dict(file.value), []
    for section, fields in SECRET_FIELDS.items():
        entries = document.get(section)
        if not isinstance(entries, list):
            continue
        document[section] = resolved = []
        for position, entry in enumerate(entries):
            found = entry
            for field in fields:
                if isinstance(entry, dict) and isinstance(entry.get(field), str):
                    name = entry.get("name", f"number {position + 1}")
                    secret, problem = _secret(entry[field], field, folder)
                    if problem is not None:
                        mistakes.append(Mistake((section, position, field), f"{section} {name!r}: {field}: {problem}"))
                    found = {**found, field: secret}
            resolved.append(found)
    if mistakes:
        raise CommandFailed(lines_of(file, mistakes))
    return document


def lines_of(file: YamlFile, mistakes: list[Mistake]) -> str:
    """Return a message with a line for each mistake."""
    return "\n".join(f"{file.where(mistake.path)}: {mistake.sentence}" for mistake in mistakes)


def _secret(text: str, field: str, folder: Path) -> tuple[str, str | None]:
    """Return the secret that a text refers to, or what is wrong with it."""
    if field == "api_key" and text == NO_KEY:
        return text, None
    if variable := VARIABLE.fullmatch(text):
        secret = os.environ.get(variable[1], "").strip()
        return secret, None if secret else f"the variable {variable[1]} is not set: export it."
    if not text.startswith(_FILE):
        also = f", or {NO_KEY} for a server that asks for none" if field == "api_key" else ""
        return "", (
            "a file should not hold a secret, which is not repeated here: write ${VARIABLE} or file:PATH" + also + "."
        )
    path = folder / text.removeprefix(_FILE).strip()
    try:
        with path.open("rb") as file:
            data = file.read(MOST_BYTES + 1)
        secret = data.decode().strip() if len(data) <= MOST_BYTES else ""
    except OSError as error:
        return "", f"the file {path} cannot be read: {error.strerror}."
    except UnicodeDecodeError:
        secret = ""
    return secret, None if secret else f"the file {path} holds no secret: it takes one line of text."


def placeholders(document: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str, str]]:
    """Yield what a written document lacks: the entry, the field of the secret, and the name of a variable for it.

    A provider lacks its key, unless it is the embedded model; a target of alerts has null for each of its secrets.
    """
    taken: Counter[str] = Counter()
    for entry, field, variable in _missing(document):
        taken[variable] += 1
        yield entry, field, variable if taken[variable] == 1 else f"{variable}_{taken[variable]}"


def _missing(document: dict[str, Any]) -> Iterator[tuple[dict[str, Any], str, str]]:
    for provider in document.get("providers", ()):
        is_embedded = provider.get("kind", provider["name"]) == "local" and provider.get("base_url") is None
        if "api_key" not in provider and not is_embedded:
            yield provider, "api_key", _variable(provider["name"], "API_KEY")
    for target in document.get("alert_targets", ()):
        for field in SECRET_FIELDS["alert_targets"]:
            if field in target:
                yield target, field, _variable(f"alert_{target['name']}", field.upper())


def _variable(name: str, what: str) -> str:
    plain = re.sub("[^A-Z0-9]", "_", name.upper())
    return f"{'_' if plain[0].isdigit() else ''}{plain}_{what}"
