"""Asks on their way to a provider: passed through where it speaks the client's protocol, else translated."""

from __future__ import annotations

from typing import Any

import msgspec

from llm_gateway.domain.catalog import Provider
from llm_gateway.domain.conversation import Completion, Foreign, Refusal, Text, ToolCall
from llm_gateway.domain.messages import Ask, Reply
from llm_gateway.domain.plan import Call
from llm_gateway.protocols import openai_responses
from llm_gateway.protocols.base import Malformed, StreamReader, Unsupported
from llm_gateway.protocols.counts import cut
from llm_gateway.protocols.names import named
from llm_gateway.providers.base import Adapter, Wire

_encode = msgspec.json.Encoder().encode


def encode_ask(ask: Ask, adapter: Adapter, provider: Provider, model: str, *, stream: bool) -> Call:
    """The call that asks `model` for the answer.

    Raises:
        Unreadable: the client's document is none of its protocol.
        Unsupported: what it asks for cannot be expressed in the provider's.
    """
    native = _native(ask, adapter, provider)
    if native is not None:
        body = _encode(_passed_on(ask, model, stream=stream))
        return Call(native.path(model, stream), body, is_native=True, fields=ask.fields)
    wire = next(iter(adapter.wires.values()))
    if wire.write is None or ask.protocol == "openai_embeddings":
        raise Unsupported("model", f"{provider.name} has no embeddings")
    conversation = ask.conversation
    options = {} if provider.has_json_mode else {"has_json_mode": False}
    try:
        written = wire.write(conversation, model, stream=stream, **options)
    except Unsupported as error:
        raise Unsupported(named(ask.protocol, error.field), error.why) from None
    dropped = (*ask.dropped, *(named(ask.protocol, field) for field in written.dropped))
    return Call(wire.path(model, stream), _encode(written.document), dropped=tuple(dict.fromkeys(dropped)))


def decode_ask(ask: Ask, adapter: Adapter, provider: Provider, body: bytes, dropped: tuple[str, ...]) -> Reply:
    """The reply in a 2xx body to a call that had to leave `dropped` out.

    Raises:
        Malformed: the body is no complete answer.
    """
    native = _native(ask, adapter, provider)
    wire = native or next(iter(adapter.wires.values()))
    completion = wire.read_reply(body)
    if native is None:
        _leave_foreign_out(completion)
    return reply_of(completion, b"" if native is None else body, dropped)


def reply_of(completion: Completion, body: bytes = b"", dropped: tuple[str, ...] = ()) -> Reply:
    """A completion as a reply; with a `body` that the client gets as it is, the completion need not be kept."""
    parts = completion.choices[0].parts if completion.choices and not body else []
    return Reply(
        content="".join([part.text for part in parts if isinstance(part, Text | Refusal)]),
        usage=completion.usage,
        finish_reason=completion.choices[0].finish_reason if completion.choices else "stop",
        upstream_model=cut(completion.model),
        upstream_request_id=cut(completion.id),
        usage_estimated=completion.usage_estimated,
        completion=None if body else completion,
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


def reader_for(ask: Ask, adapter: Adapter, provider: Provider) -> StreamReader:
    """What reads the provider's stream."""
    native = _native(ask, adapter, provider)
    wire = native or next(iter(adapter.wires.values()))
    if native is None and wire.json_reader is not None and ask.conversation.format is not None:
        return wire.json_reader()
    if wire.reader is None:
        raise Unsupported("stream", "this is not answered in a stream")
    return wire.reader()


def _native(ask: Ask, adapter: Adapter, provider: Provider) -> Wire | None:
    if ask.protocol == "openai_responses" and not provider.has_responses:
        return None
    return adapter.wires.get(ask.protocol)


def _passed_on(ask: Ask, model: str, *, stream: bool) -> dict[str, Any]:
    """The client's document with the model's own name, and the request for usage that accounting needs."""
    document = {**ask.document, "model": model}
    if stream and ask.protocol == "openai_chat":
        options = document.get("stream_options")
        document["stream_options"] = {**(options if isinstance(options, dict) else {}), "include_usage": True}
    elif ask.protocol == "openai_responses":
        document["store"] = False  # the vendor's own default is to keep it
        if isinstance(items := document.get("input"), list):
            document["input"] = [item for item in items if not _is_ours(item)]
    elif ask.protocol == "anthropic_messages" and isinstance(messages := document.get("messages"), list):
        document["messages"] = [_without_unsigned_thoughts(message) for message in messages]
    return document


def _without_unsigned_thoughts(message: Any) -> Any:
    """A message without the thoughts that another vendor had, which this surface gave without a signature.

    Anthropic refuses a thought that it did not sign.
    """
    content = message.get("content") if isinstance(message, dict) else None
    if not isinstance(content, list) or message.get("role") != "assistant":
        return message
    kept = [block for block in content if not _is_unsigned(block)]
    return message if not kept or len(kept) == len(content) else {**message, "content": kept}


def _is_ours(item: Any) -> bool:
    """Whether it is a thought of another vendor's, in the envelope in which this surface gave it."""
    return (
        isinstance(item, dict)
        and item.get("type") == "reasoning"
        and str(item.get("encrypted_content")).startswith(openai_responses.OURS)
    )


def _is_unsigned(block: Any) -> bool:
    return isinstance(block, dict) and block.get("type") == "thinking" and not block.get("signature")
