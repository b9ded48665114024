"""OpenAI's embeddings protocol, which only passes through: https://platform.openai.com/docs/api-reference/embeddings.

An embeddings request contains no conversation, so it cannot be translated for providers of other protocols. Only the
token counts of replies are read.
"""

from __future__ import annotations

from typing import Any

import msgspec

from llm_gateway.domain.conversation import Completion
from llm_gateway.domain.usage import Usage
from llm_gateway.protocols.contract import ParsedRequest, ReplyContext, Unsupported
from llm_gateway.protocols.descriptor import Descriptor, Route
from llm_gateway.protocols.lenient_decoding import Lenient, LenientCount, ReplyDecoder
from llm_gateway.protocols.openai_chat.errors import SCHEMA, write_error
from llm_gateway.protocols.reported_values import are_plausible


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: LenientCount = None
    total_tokens: LenientCount = None


class _Embeddings(msgspec.Struct, gc=False):
    data: list[msgspec.Raw]
    model: Lenient[str] = None
    usage: Lenient[_Usage] = None


_decoder = ReplyDecoder(_Embeddings, "list of embeddings")
WHY = "embeddings require a provider that speaks OpenAI's protocol"
"""The reason in the error if the provider speaks another protocol."""


def read_request(document: dict[str, Any]) -> ParsedRequest:
    """Reject translation: an embeddings request contains no conversation.

    Raises:
        Unsupported: always.
    """
    raise Unsupported("model", WHY)


def read_reply(body: bytes) -> Completion:
    """Return the usage in a provider's reply, without choices: the embeddings stay in the body, which passes through.

    Raises:
        Malformed: the body is not a list of embeddings.
    """
    reply = _decoder.decode(body)
    counted = reply.usage.prompt_tokens if reply.usage is not None else None
    if not counted or not are_plausible(counted):  # the caller then estimates the input from the request
        return Completion(choices=[], model=reply.model, usage_estimated=True)
    return Completion(choices=[], model=reply.model, usage=Usage(input_tokens=counted))


def write_reply(completion: Completion, context: ReplyContext) -> bytes:
    """Reject translation: embeddings only pass through.

    Raises:
        Unsupported: always.
    """
    raise Unsupported("model", WHY)


DESCRIPTOR = Descriptor(
    name="openai_embeddings",
    vendor="OpenAI",
    surface="embeddings",
    routes=(
        Route(
            path="/v1/embeddings", operation="createEmbeddings", summary="Create embeddings (OpenAI's Embeddings API)"
        ),
    ),
    read_request=read_request,
    read_reply=read_reply,
    write_reply=write_reply,
    write_error=write_error,
    error_schema=SCHEMA,
    forwarded_headers=(b"openai-beta",),
    is_translatable=False,
    user_fields=(("user",), ("metadata", "user_id")),
    input_fields=("input",),
    uncached_fields=frozenset({"model", "user"}),
)
