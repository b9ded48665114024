"""Parse and run the examples of the documents: curl commands and their documented responses."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.e2e.process import GatewayProcess, Response

REPOSITORY = Path(__file__).parents[2]
ADDRESS = "http://localhost:8200"

VOLATILE = re.compile(
    r"id|version|secret|last4|request_id|erased_as|chain|number|hash|at|counts_from|period_start|since|\w+_at|(avg_)?latency_ms|p\d\d_ms"
)
"""Fields that differ from run to run: only their types are compared."""

_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_VARIABLE = re.compile(r"\$([A-Z_]+)")


class Example(NamedTuple):
    """A curl command, and the text of the response documented below it, if any."""

    command: str
    answer: str | None


class Request(NamedTuple):
    """The HTTP request of a curl command."""

    method: str
    path: str
    body: str | None
    headers: dict[str, str]


def examples(document: Path) -> Iterator[Example]:
    """Return the curl commands of a document in order, each with the JSON block that follows before any other block."""
    blocks = [(match[1], match[2]) for match in _BLOCK.finditer(document.read_text("utf-8"))]
    for position, (language, text) in enumerate(blocks):
        if language == "sh" and text.startswith("curl "):
            follows = blocks[position + 1 : position + 2]
            yield Example(text, follows[0][1] if follows and follows[0][0] == "json" else None)


def parse(command: str) -> Request:
    """Parse a curl command. Only the options that the documents use are supported."""
    words = iter(shlex.split(command.replace("\\\n", " "))[1:])
    method, url, body, headers = "", "", None, {}
    for word in words:
        if word == "-X":
            method = next(words)
        elif word == "-H":
            name, _, value = next(words).partition(":")
            headers[name.strip()] = value.strip()
        elif word == "-d":
            body = next(words)
        elif word in ("-s", "-i", "-G"):
            continue
        else:
            assert not word.startswith("-"), f"an option the tests do not know: {word}"
            assert not url, f"a second URL: {word}"
            url = word
    assert url.startswith(ADDRESS), url
    return Request(method or ("GET" if body is None else "POST"), url.removeprefix(ADDRESS), body, headers)


class Reader:
    """A reader of a document who runs its commands one after the other.

    Later commands can use ids of earlier responses: `$OPENAI_ID` is that of the provider named openai, and
    `$OVERRIDE_ID` the last one of a resource without a name. `$SHOP_SECRET` is that of the key named shop.
    """

    def __init__(self, gateway: GatewayProcess) -> None:
        self._gateway = gateway
        self._ids: dict[str, str] = {}

    def run(self, command: str) -> Response:
        """Run one command and return the response."""
        request = parse(_VARIABLE.sub(lambda found: self._ids[found[1]], command))
        response = self._gateway.send(request.method, request.path, request.body, request.headers)
        if response.body and "json" in (response.headers["content-type"] or ""):
            answer = response.json
            for thing in answer if isinstance(answer, list) else [answer]:
                if "id" in thing:
                    self._ids[f"{thing.get('name', 'override').upper()}_ID"] = thing["id"]
                if "secret" in thing:
                    self._ids[f"{thing['name'].upper()}_SECRET"] = thing["secret"]
        return response


def differences(said: Any, came: Any, place: str = "answer") -> list[str]:
    """Return the paths at which a response differs from the documented one."""
    if isinstance(said, dict) and isinstance(came, dict):
        found = [f"{place}: {sorted(said)} is said, {sorted(came)} came"] if said.keys() != came.keys() else []
        for name in said.keys() & came.keys():
            if VOLATILE.fullmatch(name):
                if type(said[name]) is not type(came[name]):
                    found.append(f"{place}.{name}: {said[name]!r} is said, {came[name]!r} came")
            else:
                found += differences(said[name], came[name], f"{place}.{name}")
        return found
    if isinstance(said, list) and isinstance(came, list) and len(said) == len(came):
        pairs = enumerate(zip(said, came, strict=True))
        return [text for number, (a, b) in pairs for text in differences(a, b, f"{place}[{number}]")]
    return [] if said == came else [f"{place}: {said!r} is said, {came!r} came"]
