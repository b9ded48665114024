"""Translate requests and replies between the client's and the provider's protocol, by way of the canonical form.

A document passes through, nearly as it came, to a provider that speaks the client's own protocol.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from llm_gateway.domain.catalog import Candidate, Provider
from llm_gateway.domain.conversation import Completion, Foreign, Refusal, Text, ToolCall
from llm_gateway.domain.messages import Ask, Reply, Request
from llm_gateway.domain.plan import Call
from llm_gateway.protocols.base import Malformed, StreamReader, Unsupported
from llm_gateway.protocols.counts import cut
from llm_gateway.protocols.descriptor import DocumentTranslation
from llm_gateway.protocols.registry import PROTOCOLS, field_name
from llm_gateway.providers.base import Adapter, Wire

_encode = msgspec.json.Encoder().encode


class Translation:
    """Translates between clients and providers. `adapters` are keyed by the provider's kind."""

    def __init__(self, adapters: Mapping[str, Adapter]) -> None:
        self._adapters = adapters

    def call(self, request: Request, candidate: Candidate) -> Call:
        """Write the call that asks the candidate's model for the answer.

        Raises:
            Unreadable: the client's document is not a request of its protocol.
            Unsupported: the provider's protocol cannot express what the client asks for.
        """
        ask, provider, model = request.ask, candidate.provider, candidate.model
        native = self._native(ask, provider)
        if native is not None:
            document = PROTOCOLS[ask.protocol].pass_on({**ask.document, "model": model}, stream=request.stream)
            body = _encode(document)
            return Call(native.path(model, request.stream), body, is_native=True, fields=ask.fields)
        via = self._via(ask, provider)
        if via is not None:
            wire, translation = via
            written = translation.write(ask.document, model)
            return Call(wire.path(model, False), _encode(written.document), dropped=written.dropped)
        wire = self._main_wire(provider)
        if wire.write is None or not (ask.is_canonical or PROTOCOLS[ask.protocol].is_translatable):
            raise Unsupported("model", f"{provider.name} does not speak the protocol of this endpoint ({ask.protocol})")
        options = {} if provider.has_json_mode else {"has_json_mode": False}
        try:
            written = wire.write(ask.conversation, model, stream=request.stream, **options)
        except Unsupported as error:
            raise Unsupported(field_name(ask.protocol, error.field), error.why) from None
        dropped = (*ask.dropped, *[field_name(ask.protocol, field) for field in written.dropped])
        return Call(wire.path(model, request.stream), _encode(written.document), dropped=tuple(dict.fromkeys(dropped)))

    def reply(self, ask: Ask, provider: Provider, body: bytes, dropped: tuple[str, ...]) -> Reply:
        """Read the 2xx body of a provider that could not be told the hints in `dropped`.

        Raises:
            Malformed: the body is not a complete answer.
        """
        native = self._native(ask, provider)
        via = self._via(ask, provider) if native is None else None
        if via is not None:
            wire, translation = via
            return reply_of(wire.read_reply(body), translation.read(body), dropped)
        completion = (native or self._main_wire(provider)).read_reply(body)
        if native is not None:
            return reply_of(completion, body, dropped)
        _leave_foreign_out(completion)
        return reply_of(completion, dropped=dropped, is_text=ask.is_canonical)

    def reader(self, ask: Ask, provider: Provider) -> StreamReader:
        """Make the reader of the provider's stream.

        Raises:
            Unsupported: the provider's protocol has no streams.
        """
        native = self._native(ask, provider)
        wire = native or self._main_wire(provider)
        if native is None and wire.json_reader is not None and ask.conversation.format is not None:
            return wire.json_reader()
        if wire.reader is None:
            raise Unsupported("stream", "this is not answered in a stream")
        return wire.reader()

    def _native(self, ask: Ask, provider: Provider) -> Wire | None:
        """The wire of the client's own protocol, if the provider speaks it."""
        if ask.protocol == "openai_responses" and not provider.has_responses:
            return None
        return self._adapters[provider.kind].wires.get(ask.protocol)

    def _via(self, ask: Ask, provider: Provider) -> tuple[Wire, DocumentTranslation] | None:
        """Return the wire of a protocol that the client's documents have a translation of their own for."""
        if ask.is_canonical:
            return None
        wires = self._adapters[provider.kind].wires
        for name, translation in PROTOCOLS[ask.protocol].translations.items():
            if name in wires:
                return wires[name], translation
        return None

    def _main_wire(self, provider: Provider) -> Wire:
        """The wire that other protocols are translated into."""
        return next(iter(self._adapters[provider.kind].wires.values()))


def reply_of(
    completion: Completion, body: bytes = b"", dropped: tuple[str, ...] = (), *, is_text: bool = False
) -> Reply:
    """Make a reply of a completion, which it keeps unless the client gets `body` as it is, or only the text."""
    parts = completion.choices[0].parts if completion.choices and not body else []
    return Reply(
        content="".join([part.text for part in parts if isinstance(part, Text | Refusal)]),
        usage=completion.usage,
        finish_reason=completion.choices[0].finish_reason if completion.choices else "stop",
        upstream_model=cut(completion.model),
        upstream_request_id=cut(completion.id),
        usage_estimated=completion.usage_estimated,
        completion=None if body or is_text else completion,
        body=body,
        dropped=dropped,
        may_be_kept=_may_be_kept(completion),
    )


def _may_be_kept(completion: Completion) -> bool:
    """Whether the reply may be cached: not with parts that only its own protocol knows, nor without content."""
    has_content = not completion.choices  # of embeddings, which stay in the body
    for choice in completion.choices:
        for part in choice.parts:
            if isinstance(part, Foreign):
                return False
            if isinstance(part, ToolCall) or (isinstance(part, Text | Refusal) and part.text):
                has_content = True
    return has_content


def _leave_foreign_out(completion: Completion) -> None:
    for choice in completion.choices:
        if any(isinstance(part, Foreign) for part in choice.parts):
            choice.parts = [part for part in choice.parts if not isinstance(part, Foreign)]
            if not choice.parts:
                raise Malformed("The answer has nothing that the client's protocol knows")
