"""Dispatch requests by path: to the data plane's endpoints, and every other path to the control plane's ASGI app."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from starlette.types import ASGIApp, Receive, Scope, Send

from llm_gateway.domain.catalog import Snapshot
from llm_gateway.domain.explanation import EXPLAIN_PATH
from llm_gateway.error_format.paths import LONGEST, closest_path, nothing_at, without_query
from llm_gateway.error_format.send_error import send_error
from llm_gateway.errors import NotFound
from llm_gateway.gate.authentication import ME_PATH, OPEN_PATHS
from llm_gateway.gate.request_context import REQUEST_CONTEXT, RequestContext
from llm_gateway.protocols.descriptor import MODEL
from llm_gateway.protocols.registry import (
    GENERATE_PATH,
    MANAGEMENT_PREFIXES,
    PROTOCOLS,
    VENDOR_PATH_PREFIXES,
    protocol_of,
)
from llm_gateway.worker.endpoints.count_tokens import CountTokensEndpoint
from llm_gateway.worker.endpoints.generate import GenerateEndpoint
from llm_gateway.worker.endpoints.models import ModelsEndpoint
from llm_gateway.worker.endpoints.protocol_endpoint import EndpointDependencies, ProtocolEndpoint

PUBLIC_OF_CONTROL = OPEN_PATHS | {ME_PATH}
"""Paths of the management API that are served beside calls even if there is an admin port."""


class ManagementElsewhere:
    """ASGI app in the place of the management API if that has a port of its own; it answers open paths only."""

    def __init__(self, management: ASGIApp) -> None:
        self._management = management

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request that no endpoint of the data plane is for."""
        path: str = scope["path"]
        if path in PUBLIC_OF_CONTROL:
            await self._management(scope, receive, send)
            return
        meant = closest_path(path)
        if meant is not None and (meant in (GENERATE_PATH, EXPLAIN_PATH) or meant.startswith(VENDOR_PATH_PREFIXES)):
            message = nothing_at(path)
        else:
            message = (
                f"There is nothing at {without_query(path)[:LONGEST]} on this port: the management API is served at "
                "LLM_GATEWAY_ADMIN_HOST and LLM_GATEWAY_ADMIN_PORT."
            )
        await send_error(send, scope, NotFound(message))


class Dispatch:
    """An ASGI app that calls the endpoint of a request's path, or `management` if the data plane has none.

    It looks paths up in a table, since Starlette's router tries a regular expression per route. `endpoints` holds
    exact paths; `below` holds prefixes, for every path that starts with one. A path in `endpoints` that ends with
    `{model}:method` matches any model name, up to the last colon; the endpoint reads the name from the scope, as
    `path_params["model"]`.
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

    def __call__(self, scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        """Call the endpoint of the request's path (ASGI). A plain function, so that no coroutine only passes on."""
        path: str = scope["path"]
        endpoint = self._endpoints.get(path)
        if endpoint is None:
            endpoint = self._other(path, scope)
        return endpoint(scope, receive, send)

    def add(self, path: str, endpoint: ASGIApp) -> None:
        """Add an endpoint for an exact path."""
        self._endpoints[path] = endpoint

    def find(self, path: str, scope: Scope) -> ASGIApp:
        """Return the endpoint of a path; `scope` gets the model that the path names."""
        return self._endpoints.get(path) or self._other(path, scope)

    def _other(self, path: str, scope: Scope) -> ASGIApp:
        for start, methods in self._methods.items():
            if path.startswith(start):
                name, _, method = path[len(start) :].rpartition(":")
                if name and method in methods:
                    scope["path_params"] = {"model": name}
                    return methods[method]
                if name and scope["method"] == "POST":  # a GET may be about a model whose name holds a colon
                    return _not_found
        for start, endpoint in self._below.items():
            if path.startswith(start):
                return endpoint
        # Below a vendor's prefix, a client expects an unknown path to be refused in that vendor's error format.
        is_management = path.startswith(MANAGEMENT_PREFIXES) or not path.startswith(VENDOR_PATH_PREFIXES)
        return self._management if is_management else _not_found


def build_endpoints(
    dependencies: EndpointDependencies, snapshot: Callable[[], Snapshot]
) -> tuple[Mapping[str, ASGIApp], Mapping[str, ASGIApp]]:
    """Return two tables of endpoints: by exact path, and by path prefix (see `Dispatch`)."""
    generate = GenerateEndpoint(
        dependencies.gateway,
        dependencies.in_flight,
        dependencies.drain_limit,
        timeout_s=dependencies.timeout_s,
        log=dependencies.log,
    )
    endpoints: dict[str, ASGIApp] = {GENERATE_PATH: generate}
    below: dict[str, ASGIApp] = {}
    for protocol in PROTOCOLS.values():
        for route in protocol.routes:
            endpoints[route.path] = ProtocolEndpoint(protocol, route, dependencies)
        if protocol.count_tokens is not None:
            for route in protocol.count_tokens.routes:
                endpoints[route.path] = CountTokensEndpoint(
                    protocol, protocol.count_tokens, route, dependencies, snapshot
                )
        if protocol.models is not None:
            for path in protocol.models.paths:
                endpoints[path] = below[f"{path}/"] = ModelsEndpoint(path, snapshot)
    return endpoints, below


async def _not_found(scope: Scope, receive: Receive, send: Send) -> None:
    context: RequestContext = scope[REQUEST_CONTEXT]
    protocol = protocol_of(scope["path"], context.headers, scope["query_string"])
    await send_error(send, scope, NotFound(nothing_at(scope["path"], protocol.unknown_path)))
