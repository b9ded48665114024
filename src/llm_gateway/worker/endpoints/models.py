"""Endpoints that list the models clients may name, and describe single ones, in the shape of each vendor's protocol."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import unquote

from starlette.types import Receive, Scope, Send

from llm_gateway.domain.catalog import Snapshot
from llm_gateway.error_format.responses import JSON, send_body
from llm_gateway.error_format.send_error import send_error
from llm_gateway.errors import GatewayError, MethodNotAllowed, UnknownModel
from llm_gateway.gate.request_context import REQUEST_CONTEXT, RequestContext
from llm_gateway.protocols.descriptor import ListedModel, ModelList
from llm_gateway.protocols.registry import protocol_of
from llm_gateway.routing.route import AUTO


class ModelsEndpoint:
    """The model list at `path` and single models below it, read from the current configuration."""

    def __init__(self, path: str, snapshot: Callable[[], Snapshot]) -> None:
        self._path = path
        self._snapshot = snapshot

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the list, or one model, in the format of the client's protocol (ASGI)."""
        context: RequestContext = scope[REQUEST_CONTEXT]
        protocol = protocol_of(scope["path"], context.headers, scope["query_string"])
        try:
            if scope["method"] not in ("GET", "HEAD"):
                raise MethodNotAllowed("This path accepts only GET.", allow=("GET", "HEAD"))
            if protocol.models is None:
                raise TypeError(f"{protocol.name} has no list of models.")
            body = self._encoded(scope["path"], protocol.models)
        except GatewayError as error:
            await send_error(send, scope, error)
            return
        await send_body(send, 200, body, JSON, [(name, context.echo) for name in protocol.id_headers])

    def _encoded(self, path: str, shape: ModelList) -> bytes:
        models = _listed(self._snapshot())
        if path == self._path:
            return shape.write(models)
        wanted = unquote(path.removeprefix(f"{self._path}/"))
        for model in models:
            if model.name == wanted:
                return shape.write_one(model)
        raise UnknownModel(
            f"No enabled provider has the model {wanted[:100]!r}: GET {self._path} lists the available models."
        )


def _listed(snapshot: Snapshot) -> list[ListedModel]:
    models = [ListedModel(AUTO, "llm-gateway", 0)]
    for name, tiers in sorted(snapshot.tiers_by_model.items()):
        provider = tiers[0][0].provider
        models.append(ListedModel(name, provider.name, provider.created_at_ms))
    return models
