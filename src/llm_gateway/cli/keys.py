"""Commands `keys …`: generate random service keys and encryption keys."""

from __future__ import annotations

import base64
import re
import secrets
from typing import Annotated

from cyclopts import App, Parameter

from llm_gateway.cli.exits import USAGE, CommandFailed
from llm_gateway.cli.output import Flag, Json, note, print_json

KEY_BYTES = 32
SCOPES = ("call", "read", "admin")
_NAME = re.compile(r"[^:,\s]+")


def keys_app() -> App:
    """Build the commands `keys …`."""
    app = App(name="keys", help="Random keys, ready to be set.")
    app.command(new)
    return app


def new(
    *,
    name: Annotated[str, Parameter(help="who will use the service key")] = "service",
    scope: Annotated[
        str, Parameter(help="what it may do: call, read or admin, more than one with +; admin may do everything")
    ] = "call+read",
    encryption: Annotated[Flag, Parameter(help="an encryption key for the vendors' keys instead")] = False,
    json: Json = False,
) -> None:
    """Make a service key (an entry of LLM_GATEWAY_SERVICE_KEYS), or an encryption key. Nothing is stored.

    ```sh
    llm-gateway keys new --name shop --scope call
    llm-gateway keys new --name ops --scope admin
    llm-gateway keys new --encryption
    ```
    """
    if encryption:
        key = base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()
        _print(key, {"key": key}, json=json)
        note("Put it first in LLM_GATEWAY_ENCRYPTION_KEYS (comma-separated), restart, then run llm-gateway rekey.")
        return
    scopes = scope.split("+")
    if not _NAME.fullmatch(name):
        raise CommandFailed(f"--name must be one word without colons and commas, such as shop, not {name!r}.", USAGE)
    if not set(scopes) <= set(SCOPES):
        raise CommandFailed(
            f"--scope must be {' or '.join(SCOPES)}, or several of these joined by +, not {scope!r}.", USAGE
        )
    key = secrets.token_hex(KEY_BYTES)
    entry = f"{name}:{key}:{scope}"
    _print(entry, {"name": name, "key": key, "scopes": scopes, "entry": entry}, json=json)
    note(
        f"Add it to LLM_GATEWAY_SERVICE_KEYS (comma-separated) and restart. The key that {name} sends is the part "
        "between the colons."
    )


def _print(text: str, value: object, *, json: bool) -> None:
    if json:
        print_json(value)
    else:
        print(text)
