"""`serve`: flags become settings, and the process becomes the server."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter
from pydantic import Field, create_model

from llm_gateway.cli.become import become_server
from llm_gateway.settings import Settings

_fields: dict[str, Any] = {
    name: (str | None, Field(None, description=field.description)) for name, field in Settings.model_fields.items()
}
ServeFlags = create_model("ServeFlags", **_fields)
"""Every setting as text, under its own name; what the texts must be is checked by the server."""


def serve(*, flags: Any = None) -> None:
    """Start the gateway.

    Every setting can be given as a flag, an LLM_GATEWAY_* variable or a line in .env (docs/SETUP.md). Keys are better
    given as variables: a flag can be read in the list of processes until the server has started.

    ```sh
    llm-gateway serve
    llm-gateway serve --port 8300 --data-dir /var/lib/llm-gateway
    ```
    """
    become_server({} if flags is None else flags.model_dump(exclude_unset=True))


serve.__annotations__["flags"] = Annotated[ServeFlags | None, Parameter(name="*")]
