"""POST /v1/messages/count_tokens: about how many tokens a conversation will take, before anyone is asked."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from starlette.types import Receive, Send

from llm_gateway.domain.catalog import Snapshot
from llm_gateway.domain.weight import weigh
from llm_gateway.error_format.problem import JSON, send_body
from llm_gateway.errors import UnknownModel
from llm_gateway.gate.body import InFlight
from llm_gateway.gate.entry import Entry
from llm_gateway.routing.route import AUTO
from llm_gateway.worker.endpoints.chat import asked_model, document_of
from llm_gateway.worker.endpoints.endpoint import Endpoint


class CountTokens(Endpoint):
    """The endpoint. The count is the gateway's own estimate, the one that limits are kept with; it costs nothing."""

    def __init__(self, in_flight: InFlight, snapshot: Callable[[], Snapshot], log: Callable[..., None]) -> None:
        super().__init__(in_flight, log)
        self._snapshot = snapshot

    async def serve(self, entry: Entry, body: bytes, receive: Receive, send: Send) -> None:
        """As in `Endpoint`."""
        document = document_of(body)
        model = asked_model(document)
        if model != AUTO and model not in self._snapshot().tiers_by_model:
            raise UnknownModel(
                f"No enabled provider has the model {model[:100]!r}: GET /v1/models lists those there are."
            )
        content = msgspec.json.encode({"input_tokens": weigh(document) // 4 + 8})
        headers = [(b"x-request-id", entry.echo), (b"request-id", entry.echo), (b"x-gateway-estimated", b"true")]
        await send_body(send, 200, content, JSON, headers)
