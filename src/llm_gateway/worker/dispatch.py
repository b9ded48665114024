"""Which endpoint a path leads to; what is no endpoint of the data plane's is handed to the control plane."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from starlette.types import ASGIApp, Receive, Scope, Send

from llm_gateway.domain.catalog import Snapshot
from llm_gateway.error_format.shapes import SURFACES, send_error
from llm_gateway.errors import NotFound
from llm_gateway.gate.auth import DATA_PLANE
from llm_gateway.gate.body import InFlight
from llm_gateway.protocols.registry import PROTOCOLS
from llm_gateway.worker.endpoints.chat import Asking
from llm_gateway.worker.endpoints.count_tokens import CountTokens
from llm_gateway.worker.endpoints.generate import Generate
from llm_gateway.worker.endpoints.models import PATH, Models
from llm_gateway.worker.endpoints.streaming import Drains
from llm_gateway.worker.gateway import Gateway


class Dispatch:
    """Sends a request to the endpoint of its path, else to `management`.

    A table instead of Starlette's router, which tries a regular expression per route. Paths with something open at
    their end are found by what stands before it (`below`).
    """

    def __init__(self, endpoints: Mapping[str, ASGIApp], below: Mapping[str, ASGIApp], management: ASGIApp) -> None:
        self._endpoints = endpoints
        self._below = below
        self._management = management

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry."""
        path: str = scope["path"]
        endpoint = self._endpoints.get(path)
        if endpoint is None:
            endpoint = self._other(path)
        await endpoint(scope, receive, send)

    def _other(self, path: str) -> ASGIApp:
        for start, endpoint in self._below.items():
            if path.startswith(start):
                return endpoint
        return _nothing if path.startswith(SURFACES) else self._management


def build_endpoints(
    gateway: Gateway,
    in_flight: InFlight,
    drains: Drains,
    snapshot: Callable[[], Snapshot],
    *,
    timeout_s: float,
    log: Callable[..., None],
) -> tuple[Mapping[str, ASGIApp], Mapping[str, ASGIApp]]:
    """Return the endpoints by their paths, and those by the beginnings of theirs."""
    shared: dict[str, Any] = {"timeout_s": timeout_s, "log": log}
    models = Models(snapshot)
    endpoints: dict[str, ASGIApp] = {
        DATA_PLANE: Generate(gateway, in_flight, drains, **shared),
        PATH: models,
        "/v1/messages/count_tokens": CountTokens(in_flight, snapshot, log),
    }
    for protocol in PROTOCOLS.values():
        endpoints[protocol.path] = Asking(protocol, gateway, in_flight, drains, **shared)
    return endpoints, {f"{PATH}/": models}


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    error = NotFound(f"There is nothing at {scope['path'][:200]}: docs/API.md lists what there is.")
    await send_error(send, scope, error)
