"""Command `serve`: pass its flags on as settings and replace the process with the server."""

from __future__ import annotations

from typing import Annotated, Any, TypedDict

from cyclopts import Parameter

from llm_gateway.cli.env_files import EnvFiles, joined
from llm_gateway.cli.exec_server import exec_server
from llm_gateway.settings_reader import ENV_FILE, file_helps, setting_helps

_fields: Any = {
    name: Annotated[str, Parameter(help=found.text, metavar=found.form)]
    for name, found in (setting_helps() | file_helps()).items()
}
ServeFlags: Any = TypedDict("ServeFlags", _fields, total=False)  # type: ignore[misc]
"""All settings as text flags of the same name; the server checks their values."""


def serve(*, env_file: EnvFiles = None, flags: Any = None) -> None:
    """Start the gateway.

    Every setting can be given as a flag, in a file, as an LLM_GATEWAY_* variable or as a line in .env; the first wins
    (docs/SETUP.md). Keys are better given in files: a flag can be read in the list of processes until the server has
    started. Files are read again at a reload.

    ```sh
    llm-gateway serve
    llm-gateway serve --port 8300 --data-dir /var/lib/llm-gateway
    llm-gateway serve --env-file /etc/llm-gateway.env --service-keys-file /run/secrets/service-keys
    ```
    """
    files = {ENV_FILE: joined(env_file)} if env_file else {}
    exec_server({**(flags or {}), **files})


serve.__annotations__["flags"] = Annotated[ServeFlags, Parameter(name="*")]
