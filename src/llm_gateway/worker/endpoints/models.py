"""GET /v1/models and /v1/models/{id}: what may be asked for by name, in OpenAI's or Anthropic's shape."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

import msgspec
from starlette.types import Receive, Scope, Send

from llm_gateway.domain.catalog import Snapshot
from llm_gateway.error_format.problem import JSON, send_body
from llm_gateway.error_format.shapes import send_error
from llm_gateway.errors import GatewayError, MethodNotAllowed, UnknownModel
from llm_gateway.gate.entry import ENTRY, Entry
from llm_gateway.routing.route import AUTO

PATH = "/v1/models"


class Models:
    """The endpoint, over the configuration in force."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry."""
        entry: Entry = scope[ENTRY]
        try:
            if scope["method"] not in ("GET", "HEAD"):
                raise MethodNotAllowed("This path takes GET only.", allow=("GET", "HEAD"))
            found = _found(scope["path"], self._snapshot(), is_anthropic=b"anthropic-version" in entry.headers)
        except GatewayError as error:
            await send_error(send, scope, error)
            return
        await send_body(send, 200, msgspec.json.encode(found), JSON, [(b"x-request-id", entry.echo)])


def _found(path: str, snapshot: Snapshot, *, is_anthropic: bool) -> dict[str, Any]:
    models = [_model(AUTO, "llm-gateway", 0, is_anthropic=is_anthropic)]
    for name, tiers in sorted(snapshot.tiers_by_model.items()):
        provider = tiers[0][0].provider
        models.append(_model(name, provider.name, provider.created_at_ms, is_anthropic=is_anthropic))
    if path == PATH:
        if is_anthropic:
            return {"data": models, "has_more": False, "first_id": AUTO, "last_id": models[-1]["id"]}
        return {"object": "list", "data": models}
    wanted = unquote(path.removeprefix(f"{PATH}/"))
    for model in models:
        if model["id"] == wanted:
            return model
    raise UnknownModel(f"No enabled provider has the model {wanted[:100]!r}: GET {PATH} lists those there are.")


def _model(name: str, owner: str, created_ms: int, *, is_anthropic: bool) -> dict[str, Any]:
    if is_anthropic:
        created = datetime.fromtimestamp(created_ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        return {"type": "model", "id": name, "display_name": name, "created_at": created}
    return {"id": name, "object": "model", "created": created_ms // 1000, "owned_by": owner}
