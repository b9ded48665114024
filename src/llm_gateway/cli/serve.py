"""Command `serve`: pass its flags on as settings and replace the process with the server."""

from __future__ import annotations

from typing import Annotated, Any, TypedDict

from cyclopts import Parameter

from llm_gateway.cli.exec_server import exec_server
from llm_gateway.settings_reader import setting_helps

_fields: Any = {
    name: Annotated[str, Parameter(help=found.text, metavar=found.form)] for name, found in setting_helps().items()
}
ServeFlags: Any = TypedDict("ServeFlags", _fields, total=False)  # type: ignore[misc]
"""All settings as text flags of the same name; the server checks their values."""


def serve(*, flags: Any = None) -> None:
    """Start the gateway.

    Every setting can be given as a flag, an LLM_GATEWAY_* variable or a line in .env (docs/SETUP.md). Keys are better
    given as variables: a flag can be read in the list of processes until the server has started.

    ```sh
    llm-gateway serve
    llm-gateway serve --port 8300 --data-dir /var/lib/llm-gateway
    ```
    """
    exec_server(flags or {})


serve.__annotations__["flags"] = Annotated[ServeFlags, Parameter(name="*")]
