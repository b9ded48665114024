"""Endpoints that estimate a request's input tokens (such as Anthropic's count_tokens), without calling a provider."""

from __future__ import annotations

from collections.abc import Callable

from starlette.types import Receive, Scope, Send

from llm_gateway.domain.catalog import Snapshot
from llm_gateway.domain.token_estimate import equivalent_length_of, estimated_tokens
from llm_gateway.error_format.responses import JSON, send_body
from llm_gateway.errors import Invalid
from llm_gateway.gate.request_context import REQUEST_CONTEXT, RequestContext
from llm_gateway.protocols.contract import Unreadable
from llm_gateway.protocols.descriptor import Descriptor, Route, TokenCount
from llm_gateway.routing.route import check_model
from llm_gateway.worker.endpoints.endpoint import Endpoint
from llm_gateway.worker.endpoints.protocol_endpoint import EndpointDependencies, parse_document, requested_model_of


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
        super().__init__(dependencies.in_flight, dependencies.log)
        self._protocol = protocol
        self._count = count
        self._is_model_in_path = route.names_model
        self._snapshot = snapshot

    async def serve(self, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
        """Send the estimate (see `Endpoint.serve`)."""
        context: RequestContext = scope[REQUEST_CONTEXT]
        document = parse_document(body)
        check_model(requested_model_of(scope, document, is_in_path=self._is_model_in_path), self._snapshot())
        try:
            counted = self._count.request_of(document)
        except Unreadable as error:
            raise Invalid(error.message, loc=("body", error.field)) from None
        content = self._count.write(estimated_tokens(equivalent_length_of(counted, self._protocol.input_fields)))
        ids = [(name, context.echo) for name in self._protocol.id_headers]
        await send_body(send, 200, content, JSON, [*ids, (b"x-gateway-estimated", b"true")])
