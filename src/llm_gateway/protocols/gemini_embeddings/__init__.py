"""Google's embedding methods, embedContent and batchEmbedContents: https://ai.google.dev/api/embeddings.

Requests pass through to Gemini accounts. For providers of OpenAI's embeddings API the documents are translated
directly (`to_openai`, `from_openai`): they contain no conversation that a canonical form could express.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec

from llm_gateway.domain.conversation import Completion, Text
from llm_gateway.domain.usage import Usage
from llm_gateway.protocols.accessors import integer, list_field, object_field, objects
from llm_gateway.protocols.contract import Malformed, ParsedRequest, ReplyContext, Unreadable, Unsupported, UpstreamBody
from llm_gateway.protocols.descriptor import Descriptor, DocumentTranslation
from llm_gateway.protocols.gemini import routes
from llm_gateway.protocols.gemini.contents import ContentsReader
from llm_gateway.protocols.gemini.errors import SCHEMA, write_error
from llm_gateway.protocols.gemini.field_names import camel_names
from llm_gateway.protocols.gemini.model_list import PREFIX
from llm_gateway.protocols.lenient_decoding import Lenient, LenientCount, LenientIndex, ReplyDecoder
from llm_gateway.protocols.reported_values import are_plausible

NO_CONVERSATION = "only a provider with an embeddings API can answer this"
OPTIONAL_FIELDS = ("taskType", "title")
"""Fields that only Google's models know. Dropped by name in a translation."""


class _Usage(msgspec.Struct, gc=False, rename="camel"):
    prompt_token_count: LenientCount = None


class _Embeddings(msgspec.Struct, gc=False, rename="camel"):
    embedding: msgspec.Raw = msgspec.Raw(b"null")
    embeddings: list[msgspec.Raw] | None = None
    usage_metadata: Lenient[_Usage] = None


class _Vector(msgspec.Struct, gc=False):
    embedding: list[float]
    index: LenientIndex = 0


class _OpenAi(msgspec.Struct, gc=False):
    data: list[_Vector]


_decoder = ReplyDecoder(_Embeddings, "embedding")
_openai_decoder = ReplyDecoder(_OpenAi, "list of embeddings")


def read_request(document: dict[str, Any]) -> ParsedRequest:
    """Reject the document, which has no conversation to read.

    Raises:
        Unsupported: always.
    """
    raise Unsupported("model", NO_CONVERSATION)


def read_reply(body: bytes) -> Completion:
    """Read the usage in a response body. The embeddings are not decoded: the client gets the body as it is.

    Raises:
        Malformed: the body has no embeddings.
    """
    reply = _decoder.decode(body)
    if bytes(reply.embedding) == b"null" and reply.embeddings is None:
        raise Malformed("The answer has no embeddings")
    counted = reply.usage_metadata.prompt_token_count if reply.usage_metadata is not None else None
    if not counted or not are_plausible(counted):
        return Completion(choices=[], usage_estimated=True)
    return Completion(choices=[], usage=Usage(input_tokens=counted))


def write_reply(completion: Completion, context: ReplyContext) -> bytes:
    """Reject the completion: embeddings pass through, or are translated by `from_openai`.

    Raises:
        Unsupported: always.
    """
    raise Unsupported("model", NO_CONVERSATION)


def to_openai(document: dict[str, Any], model: str) -> UpstreamBody:
    """Translate a request for one content, or a batch, into a request of OpenAI's embeddings API.

    Raises:
        Unreadable: the document does not conform to Google's API.
        Unsupported: a content is not text, or the requests of a batch differ in their dimensions.
    """
    document = camel_names(document)
    if document.get("requests") is None:
        requests = [(document, "")]
    else:
        given = objects(list_field(document, "requests"), "requests")
        requests = [(camel_names(request), place) for request, place in given]
    if not requests:
        raise Unreadable("requests", "requests must have at least one request.")
    sizes = {integer(request, "outputDimensionality", 1, where=place) for request, place in requests}
    if len(sizes) > 1:
        raise Unsupported("requests.outputDimensionality", "OpenAI's API accepts one value for the whole batch")
    written: dict[str, Any] = {"model": model, "input": [_text(request, place) for request, place in requests]}
    [size] = sizes
    if size is not None:
        written["dimensions"] = size
    return UpstreamBody(
        written, tuple(name for name in OPTIONAL_FIELDS if any(request.get(name) for request, _ in requests))
    )


def from_openai(body: bytes, *, is_batch: bool) -> bytes:
    """Translate a response of OpenAI's embeddings API into one of batchEmbedContents or embedContent.

    Raises:
        Malformed: the body has no embeddings.
    """
    vectors = sorted(_openai_decoder.decode(body).data, key=lambda vector: vector.index)
    if not vectors:
        raise Malformed("The answer has no embeddings")
    embeddings = [{"values": vector.embedding} for vector in vectors]
    return msgspec.json.encode({"embeddings": embeddings} if is_batch else {"embedding": embeddings[0]})


def _text(request: dict[str, Any], place: str) -> str:
    where = f"{place}.content" if place else "content"
    content = object_field(request, "content", place)
    if content is None:
        raise Unreadable(where, f"{where} is required.")
    texts = []
    for part in ContentsReader().parts(camel_names(content), where):
        if not isinstance(part, Text):
            raise Unsupported(where, "OpenAI's API embeds only text")
        texts.append(part.text)
    return "\n".join(texts)


def passthrough_request(document: dict[str, Any], *, stream: bool) -> dict[str, Any]:
    """Remove the field `model`, which is in the path, and set it in each request of a batch, as Google requires."""
    name = str(document.get("model"))
    name = name if name.startswith((PREFIX, "tunedModels/")) else PREFIX + name
    document = {field: value for field, value in document.items() if field != "model"}
    requests = document.get("requests")
    if isinstance(requests, list):
        document["requests"] = [
            {**request, "model": name} if isinstance(request, dict) else request for request in requests
        ]
    return document


def _descriptor(method: str, surface: str, name: str, summary: str, *, is_batch: bool) -> Descriptor:
    read = partial(from_openai, is_batch=is_batch)
    return Descriptor(
        name=name,
        vendor="Google",
        surface=surface,
        routes=routes(method, summary),
        read_request=read_request,
        read_reply=read_reply,
        write_reply=write_reply,
        write_error=write_error,
        error_schema=SCHEMA,
        passthrough_request=passthrough_request,
        credential_headers=(b"x-goog-api-key", b"authorization"),
        key_parameter="key",
        is_translatable=False,
        translations={"openai_embeddings": DocumentTranslation(write=to_openai, read=read)},
        input_fields=("content", "requests"),
        uncached_fields=frozenset({"model"}),
    )


DESCRIPTOR = _descriptor(
    "embedContent", "embed_content", "gemini_embeddings", "Embed one content (Google's Gemini API)", is_batch=False
)
BATCH = _descriptor(
    "batchEmbedContents",
    "batch_embed_contents",
    "gemini_batch_embeddings",
    "Embed several contents (Google's Gemini API)",
    is_batch=True,
)
