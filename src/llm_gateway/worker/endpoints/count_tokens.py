"""Endpoints that estimate a request's input tokens (such as Anthropic's count_tokens), without calling a provider."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from starlette.types import Receive, Scope, Send

from llm_gateway.domain.catalog import Snapshot
from llm_gateway.domain.service_key import ServiceKey
from llm_gateway.domain.token_estimate import equivalent_length_of, estimated_tokens
from llm_gateway.error_format.responses import JSON, send_body
from llm_gateway.errors import Invalid
from llm_gateway.gate.request_context import REQUEST_CONTEXT, RequestContext
from llm_gateway.json_outline import SMALL_BYTES, Buffer
from llm_gateway.protocols.contract import Unreadable
from llm_gateway.protocols.descriptor import Descriptor, Route, TokenCount
from llm_gateway.routing.restricted_plan import check_allowed
from llm_gateway.routing.route import check_model
from llm_gateway.worker.endpoints.endpoint import Endpoint
from llm_gateway.worker.endpoints.protocol_endpoint import EndpointDependencies, requested_model_of
from llm_gateway.worker.endpoints.request_document import parse_document, read_large_document


class CountTokensEndpoint(Endpoint):
    """One token-count route of a protocol. It returns the estimate that rate limits use, and costs nothing."""

    def __init__(
        self,
        protocol: Descriptor,
        count: TokenCount,
        route: Route,
        dependencies: EndpointDependencies,
        snapshot: Callable[[], Snapshot],
    ) -> None:
        super().__init__(dependencies.in_flight, dependencies.log, dependencies.most_bytes)
        self._forks = dependencies.forks
        self._protocol = protocol
        self._count = count
        self._is_model_in_path = route.names_model
        self._snapshot = snapshot

    async def serve(self, scope: Scope, body: Buffer, receive: Receive, send: Send) -> None:
        """Send the estimate (see `Endpoint.serve`)."""
        context: RequestContext = scope[REQUEST_CONTEXT]
        length: int | None = None
        if len(body) > SMALL_BYTES:
            document, length = await self._read_large(body)
        else:
            document = parse_document(body)  # type: ignore[arg-type]  # only a large body is a bytearray
        self._check_model(requested_model_of(scope, document, is_in_path=self._is_model_in_path), context.caller.key)
        if length is None:
            length = equivalent_length_of(self._counted(document), self._protocol.input_fields)
        content = self._count.write(estimated_tokens(length))
        ids = [(name, context.echo) for name in self._protocol.id_headers]
        await send_body(send, 200, content, JSON, [*ids, (b"x-gateway-estimated", b"true")])

    def _check_model(self, model: str, key: ServiceKey | None) -> None:
        snapshot, rights = self._snapshot(), None if key is None else key.rights
        if rights is not None and rights.fixed_model is not None:
            model = rights.fixed_model
        check_model(model, snapshot)
        if rights is not None:
            check_allowed(rights, model, snapshot)

    def _counted(self, document: dict[str, Any]) -> dict[str, Any]:
        try:
            return self._count.request_of(document)
        except Unreadable as error:
            raise Invalid(error.message, loc=("body", error.field)) from None

    async def _read_large(self, body: Buffer) -> tuple[dict[str, Any], int]:
        """Return a large document, and the length of the request in it."""
        fields = self._protocol.input_fields
        document, large = await read_large_document(body, fields, self._forks)
        if large.apart is not None:
            return document, large.length
        counted = self._counted(document)
        text = b"" if large.held is None else msgspec.json.encode([counted.get(name) for name in fields])
        rest = 0 if large.held is None else large.held.length_in(text)
        return document, equivalent_length_of(counted, fields) + rest
