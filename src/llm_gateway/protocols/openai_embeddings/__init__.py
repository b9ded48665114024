"""OpenAI's embeddings: https://platform.openai.com/docs/api-reference/embeddings. It only passes through.

There is no conversation in it, so a provider that does not speak it cannot be asked.
"""

from __future__ import annotations

from typing import Any

import msgspec

from llm_gateway.domain.conversation import Completion
from llm_gateway.domain.usage import Usage
from llm_gateway.protocols.contract import ParsedRequest, ReplyContext, Unsupported
from llm_gateway.protocols.counts import are_plausible
from llm_gateway.protocols.descriptor import Descriptor, Route
from llm_gateway.protocols.lenient_decoding import Lenient, LenientCount, ReplyDecoder
from llm_gateway.protocols.openai_chat.errors import SCHEMA, write_error


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: LenientCount = None
    total_tokens: LenientCount = None


class _Embeddings(msgspec.Struct, gc=False):
    data: list[msgspec.Raw]
    model: Lenient[str] = None
    usage: Lenient[_Usage] = None


_decoder = ReplyDecoder(_Embeddings, "list of embeddings")


def read_request(document: dict[str, Any]) -> ParsedRequest:
    """There is no conversation in it.

    Raises:
        Unsupported: always.
    """
    raise Unsupported("model", "only a provider that speaks OpenAI's protocol has embeddings")


def read_reply(body: bytes) -> Completion:
    """What a provider's embeddings took; themselves they stay in the body.

    Raises:
        Malformed: the body holds none.
    """
    found = _decoder.decode(body)
    counted = found.usage.prompt_tokens if found.usage is not None else None
    if not counted or not are_plausible(counted):
        return Completion(choices=[], model=found.model, usage_estimated=True)
    return Completion(choices=[], model=found.model, usage=Usage(input_tokens=counted))


def write_reply(completion: Completion, context: ReplyContext) -> bytes:
    """There is nothing to write: embeddings pass through.

    Raises:
        Unsupported: always.
    """
    raise Unsupported("model", "only a provider that speaks OpenAI's protocol has embeddings")


DESCRIPTOR = Descriptor(
    name="openai_embeddings",
    vendor="OpenAI",
    surface="embeddings",
    routes=(Route(path="/v1/embeddings", operation="createEmbeddings", summary="Embeddings, as OpenAI's"),),
    read_request=read_request,
    read_reply=read_reply,
    write_reply=write_reply,
    write_error=write_error,
    error_schema=SCHEMA,
    forwarded_headers=(b"openai-beta",),
    is_translatable=False,
    user_fields=(("user",), ("metadata", "user_id")),
    weighed_fields=("input",),
    uncached_fields=frozenset({"model", "user"}),
)
