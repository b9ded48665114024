"""Which endpoint a path leads to; what is no endpoint of the data plane's is handed to the control plane."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from starlette.types import ASGIApp, Receive, Scope, Send

from llm_gateway.domain.catalog import Snapshot
from llm_gateway.error_format.paths import nothing_at
from llm_gateway.error_format.shapes import send_error
from llm_gateway.errors import NotFound
from llm_gateway.gate.auth import DATA_PLANE
from llm_gateway.gate.entry import ENTRY, Entry
from llm_gateway.protocols.descriptor import MODEL
from llm_gateway.protocols.registry import PROTOCOLS, ROOTS, protocol_of
from llm_gateway.worker.endpoints.chat import Asking, Serving
from llm_gateway.worker.endpoints.count_tokens import CountTokens
from llm_gateway.worker.endpoints.generate import Generate
from llm_gateway.worker.endpoints.models import Models


class Dispatch:
    """Sends a request to the endpoint of its path, else to `management`.

    A table instead of Starlette's router, which tries a regular expression per route. What is no exact path is looked
    up by its beginning: `below` are the endpoints of all paths that begin so. Where a path of `endpoints` ends with
    `{model}:method`, the model's name is all that stands there up to the last colon, and the endpoint finds it in the
    scope, as `path_params["model"]`.
    """

    def __init__(self, endpoints: Mapping[str, ASGIApp], below: Mapping[str, ASGIApp], management: ASGIApp) -> None:
        self._endpoints: dict[str, ASGIApp] = {}
        self._methods: dict[str, dict[str, ASGIApp]] = {}
        for path, endpoint in endpoints.items():
            start, names_model, method = path.partition(f"{MODEL}:")
            if names_model:
                self._methods.setdefault(start, {})[method] = endpoint
            else:
                self._endpoints[path] = endpoint
        self._below = below
        self._management = management

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The ASGI entry."""
        path: str = scope["path"]
        endpoint = self._endpoints.get(path)
        if endpoint is None:
            endpoint = self._other(path, scope)
        await endpoint(scope, receive, send)

    def _other(self, path: str, scope: Scope) -> ASGIApp:
        for start, methods in self._methods.items():
            if path.startswith(start):
                name, _, method = path[len(start) :].rpartition(":")
                if name and method in methods:
                    scope["path_params"] = {"model": name}
                    return methods[method]
                if name and scope["method"] == "POST":
                    return _nothing
        for start, endpoint in self._below.items():
            if path.startswith(start):
                return endpoint
        return _nothing if path.startswith(ROOTS) else self._management


def build_endpoints(
    serving: Serving, snapshot: Callable[[], Snapshot]
) -> tuple[Mapping[str, ASGIApp], Mapping[str, ASGIApp]]:
    """Return the endpoints by their paths, and those by the beginnings of theirs."""
    generate = Generate(
        serving.gateway, serving.in_flight, serving.drains, timeout_s=serving.timeout_s, log=serving.log
    )
    endpoints: dict[str, ASGIApp] = {DATA_PLANE: generate}
    below: dict[str, ASGIApp] = {}
    for protocol in PROTOCOLS.values():
        for route in protocol.routes:
            endpoints[route.path] = Asking(protocol, route, serving)
        if protocol.count_tokens is not None:
            for route in protocol.count_tokens.routes:
                endpoints[route.path] = CountTokens(protocol, protocol.count_tokens, route, serving, snapshot)
        if protocol.models is not None:
            for path in protocol.models.paths:
                endpoints[path] = below[f"{path}/"] = Models(path, snapshot)
    return endpoints, below


async def _nothing(scope: Scope, receive: Receive, send: Send) -> None:
    entry: Entry = scope[ENTRY]
    protocol = protocol_of(scope["path"], entry.headers, scope["query_string"])
    await send_error(send, scope, NotFound(nothing_at(scope["path"], protocol.unknown_path)))
