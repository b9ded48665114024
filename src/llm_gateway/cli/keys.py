"""Register the commands `keys …`; and `keys new`, which makes random keys for the settings without a gateway."""

from __future__ import annotations

import base64
import re
import secrets
import time
from typing import Annotated

from cyclopts import App, Parameter

from llm_gateway.cli.exits import USAGE, CommandFailed
from llm_gateway.cli.output import Flag, Json, note, print_json
from llm_gateway.cli.service_keys import add_commands
from llm_gateway.domain.key_secret import make_secret

KEY_BYTES = 32
SCOPES = ("call", "read", "admin")
_NAME = re.compile(r"[^:,\s]+")
RELOAD = "reload the gateway, or restart it if the setting is in no file"


def keys_app() -> App:
    """Build the commands `keys …`."""
    app = App(name="keys", help="Who may call: list, add, show, set, rotate, remove; random keys for the settings.")
    add_commands(app)
    app.command(new)
    return app


def new(
    *,
    name: Annotated[str, Parameter(help="who will use the service key")] = "service",
    scope: Annotated[
        str, Parameter(help="what it may do: call, read or admin, more than one with +; admin may do everything")
    ] = "call+read",
    encryption: Annotated[Flag, Parameter(help="an encryption key for the vendors' keys instead")] = False,
    pepper: Annotated[Flag, Parameter(help="a pepper of the stored service keys instead")] = False,
    secret: Annotated[Flag, Parameter(help="the secret of a key in a file for apply instead")] = False,
    json: Json = False,
) -> None:
    """Make a service key for LLM_GATEWAY_SERVICE_KEYS, an encryption key, a pepper or a secret. Nothing is stored.

    `keys add` makes a key in a running gateway, which needs no restart.

    ```sh
    llm-gateway keys new --name shop --scope call
    llm-gateway keys new --name ops --scope admin
    llm-gateway keys new --encryption
    llm-gateway keys new --pepper
    llm-gateway keys new --secret
    ```
    """
    if secret:
        made = make_secret()
        _print(made, {"secret": made}, json=json)
        note("Put it into a variable or a file, and refer to that in the key's secret: ${VARIABLE} or file:PATH.")
        return
    if encryption:
        key = base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()
        _print(key, {"key": key}, json=json)
        note(f"Put it first in LLM_GATEWAY_ENCRYPTION_KEYS (comma-separated), {RELOAD}, then run llm-gateway rekey.")
        return
    if pepper:
        version, text = int(time.time()), base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode()
        entry = f"{version}:{text}"
        _print(entry, {"version": version, "pepper": text, "entry": entry}, json=json)
        note(f"Put it first in LLM_GATEWAY_KEY_PEPPERS (comma-separated), then {RELOAD}. Keep the old ones behind it.")
        return
    _make_service_key(name, scope, json=json)


def _make_service_key(name: str, scope: str, *, json: bool) -> None:
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
        f"Add it to LLM_GATEWAY_SERVICE_KEYS (comma-separated), then {RELOAD}. The key that {name} sends "
        "is the part between the colons."
    )


def _print(text: str, value: object, *, json: bool) -> None:
    if json:
        print_json(value)
    else:
        print(text)
