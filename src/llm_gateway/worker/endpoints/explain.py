"""Endpoint for POST /api/v1/routing/explain: how a request would be routed, without sending it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

import msgspec
from starlette.types import Receive, Scope, Send

from llm_gateway import wall_clock
from llm_gateway.domain.client_presence import ClientPresence
from llm_gateway.domain.explanation import ExplainBody
from llm_gateway.domain.request import Request
from llm_gateway.domain.service_key import SCOPES_OF_BITS
from llm_gateway.error_format.json_problem import not_json
from llm_gateway.error_format.query_parameters import refuse_parameters
from llm_gateway.error_format.responses import JSON, send_body
from llm_gateway.errors import Invalid
from llm_gateway.gate.authentication import check_scope
from llm_gateway.gate.in_flight import InFlight
from llm_gateway.gate.request_context import REQUEST_CONTEXT, Caller, RequestContext
from llm_gateway.json_outline import Buffer
from llm_gateway.protocols.registry import GENERATE_PATH
from llm_gateway.suggestions import closest
from llm_gateway.worker.endpoints.endpoint import Endpoint
from llm_gateway.worker.pipeline.explanation import Explainer

HEADER_OF = {"user_id": b"x-user-id", "service": b"x-service-name", "session": b"x-session-id"}
OF_TOKENS = "jwt:"
"""Beginning of the names of tokens' callers, whose names are not known before they call."""


@runtime_checkable
class ReadsRequests(Protocol):
    """An endpoint whose requests can be explained."""

    def read(self, scope: Scope, body: bytes, presence: ClientPresence) -> Request:
        """Read a request as `serve` does.

        Raises:
            GatewayError: 400 or 422 for a body that cannot be read.
        """


class ExplainEndpoint(Endpoint):
    """The endpoint that explains requests. `find` returns the endpoint of a path, and completes the scope for it.

    `environment` has the scopes of the keys of the environment, by their names.
    """

    def __init__(
        self,
        explainer: Explainer,
        find: Callable[[str, Scope], object],
        environment: Mapping[str, frozenset[str]],
        in_flight: InFlight,
        log: Callable[..., None],
    ) -> None:
        super().__init__(in_flight, log)
        self._explainer = explainer
        self._find = find
        self._environment = environment
        self._decode = msgspec.json.Decoder(ExplainBody).decode

    async def serve(self, scope: Scope, body: Buffer, receive: Receive, send: Send) -> None:
        """Send the explanation.

        Raises:
            GatewayError: what the request itself would get before it is sent to a provider.
        """
        refuse_parameters(scope["query_string"])
        asked = self._decoded(bytes(body))
        context: RequestContext = scope[REQUEST_CONTEXT]
        explained = self._scope(scope, asked, context)
        endpoint = self._find(explained["path"], explained)
        if not isinstance(endpoint, ReadsRequests):
            raise Invalid(
                f"No request for a model is posted to {asked.path[:200]!r}: name one of the paths of the API, "
                "such as /api/v1/generate.",
                loc=("body", "path"),
            )
        if asked.key is not None:
            check_scope(explained[REQUEST_CONTEXT].caller, explained)
        if explained["path"] == GENERATE_PATH:  # its body names the customer and the service
            given = {"user_id": asked.user_id, "service": asked.service}
            asked.body = {name: value for name, value in given.items() if value is not None} | asked.body
        request = endpoint.read(explained, msgspec.json.encode(asked.body), ClientPresence(receive, send))
        explanation = await self._explainer.explain(request)
        await send_body(send, 200, msgspec.json.encode(explanation), JSON, [(b"x-request-id", context.echo)])

    def _decoded(self, body: bytes) -> ExplainBody:
        try:
            return self._decode(body)
        except msgspec.ValidationError as error:
            raise Invalid(f'The body must be {{"path": …, "body": {{…}}}}: {error}.', loc=("body",)) from None
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise not_json(body, error) from None

    def _scope(self, scope: Scope, asked: ExplainBody, context: RequestContext) -> dict[str, Any]:
        """Return the scope that the request to explain would have."""
        named = {
            HEADER_OF[field]: value.encode("utf-8", "replace")
            for field in HEADER_OF
            if (value := getattr(asked, field)) is not None
        }
        caller = context.caller if asked.key is None else self._caller(asked.key)
        pretended = msgspec.structs.replace(context, caller=caller, headers={**context.headers, **named})
        path, _, query = asked.path.partition("?")
        return {**scope, "path": path, "query_string": query.encode("utf-8", "replace"), REQUEST_CONTEXT: pretended}

    def _caller(self, name: str) -> Caller:
        """Return the caller with the key of this name.

        Raises:
            Invalid: there is no such key, or it is not in force.
        """
        keys = [each for each in self._explainer.snapshot().service_keys.values() if each.name == name]
        key = next((each for each in keys if each.is_in_force(wall_clock.now_ms())), None)
        if key is not None:
            return Caller(name, SCOPES_OF_BITS[key.scopes], key.id, key)
        if keys:
            raise Invalid(
                f"The key {name!r} is disabled or has ended, so requests with it get 401: enable it, or name another "
                "one.",
                loc=("body", "key"),
            )
        if name in self._environment or name.startswith(OF_TOKENS):
            return Caller(name, self._environment.get(name, frozenset({"call"})))
        known = {each.name for each in self._explainer.snapshot().service_keys.values()}
        near = closest(name, known.union(self._environment))
        meant = "" if near is None else f" Did you mean {near}?"
        raise Invalid(
            f"There is no key named {name[:100]!r}: GET /api/v1/keys lists those there are.{meant}", loc=("body", "key")
        )
