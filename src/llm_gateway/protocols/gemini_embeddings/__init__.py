"""Google's embedContent and batchEmbedContents: https://ai.google.dev/api/embeddings.

They pass through to a provider of this protocol. For OpenAI's embeddings they are translated as documents, since there
is no conversation in them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import msgspec

from llm_gateway.domain.conversation import Completion, Text
from llm_gateway.domain.usage import Usage
from llm_gateway.protocols.accessors import child, listed, objects, whole
from llm_gateway.protocols.contract import Malformed, ParsedRequest, ReplyContext, Unreadable, Unsupported, UpstreamBody
from llm_gateway.protocols.counts import are_plausible
from llm_gateway.protocols.descriptor import Descriptor, DocumentTranslation
from llm_gateway.protocols.gemini import routes
from llm_gateway.protocols.gemini.contents import ContentsReader
from llm_gateway.protocols.gemini.errors import SCHEMA, write_error
from llm_gateway.protocols.gemini.field_names import camel_names
from llm_gateway.protocols.gemini.model_list import PREFIX
from llm_gateway.protocols.lenient_decoding import Lenient, LenientCount, LenientIndex, ReplyDecoder

NO_CONVERSATION = "only a provider that has embeddings can be asked for them"
HINTS = ("taskType", "title")
"""Told to Google's own models."""


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
    """Refuse: there is no conversation in the document.

    Raises:
        Unsupported: always.
    """
    raise Unsupported("model", NO_CONVERSATION)


def read_reply(body: bytes) -> Completion:
    """Return the usage of a provider's embeddings; they themselves stay in the body.

    Raises:
        Malformed: the body holds none.
    """
    found = _decoder.decode(body)
    if bytes(found.embedding) == b"null" and found.embeddings is None:
        raise Malformed("The answer has no embeddings")
    counted = found.usage_metadata.prompt_token_count if found.usage_metadata is not None else None
    if not counted or not are_plausible(counted):
        return Completion(choices=[], usage_estimated=True)
    return Completion(choices=[], usage=Usage(input_tokens=counted))


def write_reply(completion: Completion, context: ReplyContext) -> bytes:
    """Refuse: embeddings pass through, or are translated by `from_openai`.

    Raises:
        Unsupported: always.
    """
    raise Unsupported("model", NO_CONVERSATION)


def to_openai(document: dict[str, Any], model: str) -> UpstreamBody:
    """Return the request of OpenAI's embeddings that asks for the same, for one content or a batch.

    Raises:
        Unreadable: the document is no request.
        Unsupported: a content is not text, or the requests of a batch differ in their dimensions.
    """
    document = camel_names(document)
    if document.get("requests") is None:
        requests = [(document, "")]
    else:
        given = objects(listed(document, "requests"), "requests")
        requests = [(camel_names(one), place) for one, place in given]
    if not requests:
        raise Unreadable("requests", "requests must hold at least one request.")
    sizes = {whole(one, "outputDimensionality", 1, where=place) for one, place in requests}
    if len(sizes) > 1:
        raise Unsupported("requests.outputDimensionality", "OpenAI's protocol takes one for all of a batch")
    written: dict[str, Any] = {"model": model, "input": [_text(one, place) for one, place in requests]}
    [size] = sizes
    if size is not None:
        written["dimensions"] = size
    return UpstreamBody(written, tuple(name for name in HINTS if any(one.get(name) for one, _ in requests)))


def from_openai(body: bytes, *, is_batch: bool) -> bytes:
    """Return OpenAI's embeddings as the answer of batchEmbedContents or of embedContent.

    Raises:
        Malformed: the body holds none.
    """
    vectors = sorted(_openai_decoder.decode(body).data, key=lambda vector: vector.index)
    if not vectors:
        raise Malformed("The answer has no embeddings")
    embeddings = [{"values": vector.embedding} for vector in vectors]
    return msgspec.json.encode({"embeddings": embeddings} if is_batch else {"embedding": embeddings[0]})


def _text(request: dict[str, Any], place: str) -> str:
    where = f"{place}.content" if place else "content"
    content = child(request, "content", place)
    if content is None:
        raise Unreadable(where, f"{where} is required.")
    texts = []
    for part in ContentsReader().parts(camel_names(content), where):
        if not isinstance(part, Text):
            raise Unsupported(where, "OpenAI's protocol has embeddings of text only")
        texts.append(part.text)
    return "\n".join(texts)


def pass_on(document: dict[str, Any], *, stream: bool) -> dict[str, Any]:
    """Name the model where Google wants it besides the path: in each request of a batch."""
    name = str(document.get("model"))
    name = name if name.startswith((PREFIX, "tunedModels/")) else PREFIX + name
    document = {field: value for field, value in document.items() if field != "model"}
    requests = document.get("requests")
    if isinstance(requests, list):
        document["requests"] = [{**one, "model": name} if isinstance(one, dict) else one for one in requests]
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
        pass_on=pass_on,
        credential_headers=(b"x-goog-api-key", b"authorization"),
        key_parameter="key",
        is_translatable=False,
        translations={"openai_embeddings": DocumentTranslation(write=to_openai, read=read)},
        weighed_fields=("content", "requests"),
        uncached_fields=frozenset({"model"}),
    )


DESCRIPTOR = _descriptor(
    "embedContent", "embed_content", "gemini_embeddings", "Embedding of one content, as Google's", is_batch=False
)
BATCH = _descriptor(
    "batchEmbedContents",
    "batch_embed_contents",
    "gemini_batch_embeddings",
    "Embeddings of several contents, as Google's",
    is_batch=True,
)
