"""Translate requests and replies between the client's and the provider's protocol."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from llm_gateway.domain.catalog import Candidate, Provider
from llm_gateway.domain.conversation import Choice, Completion, Refusal, Text, ToolCall, VendorPart
from llm_gateway.domain.output_estimate import hides_reasoning
from llm_gateway.domain.reply import Reply
from llm_gateway.domain.request import ClientRequest, Request
from llm_gateway.domain.token_estimate import estimated_output_tokens
from llm_gateway.domain.upstream_call import UpstreamCall, UpstreamResult
from llm_gateway.json_outline import SMALL_BYTES, HeldTexts, Outline, outline_of
from llm_gateway.protocols.contract import Malformed, StreamReader, Unsupported
from llm_gateway.protocols.descriptor import DocumentTranslation
from llm_gateway.protocols.registry import PROTOCOLS, field_name
from llm_gateway.protocols.reported_values import truncated
from llm_gateway.providers.dialect import ProtocolCodec
from llm_gateway.providers.vendor_rules.body_rules import BodyRules, ModelRules
from llm_gateway.providers.vendor_rules.rule import Edit

MOST_OUTLINE_BYTES, MOST_OUTLINE_VALUES = 2 * 1024 * 1024, 20_000
"""Largest outline that is decoded at once; to decode, translate and encode it takes some 10 ms."""
MOST_CACHED_BYTES = 4 * 1024 * 1024
"""Largest answer that is cached: each hit decodes it."""

_encode = msgspec.json.Encoder().encode


class Translation:
    """The translation between clients and providers, with the codecs of the snapshot's provider.

    If the provider speaks the client's protocol, the document is passed through. Otherwise it is translated directly
    if the two protocols have such a translation (embeddings), or else by way of the canonical conversation.
    """

    def call(self, request: Request, candidate: Candidate) -> UpstreamCall:
        """Write the HTTP call of the request for the candidate's provider and model.

        Raises:
            Unreadable: the client's document is not a request of its protocol.
            Unsupported: the provider's protocol cannot express the request.
        """
        client_request, provider, model = request.client_request, candidate.provider, candidate.model
        rules: ModelRules | None = provider.rules_by_model.get(model)
        if candidate.is_required is not None and _is_required(client_request, candidate):
            return _translated(request, candidate, provider.required_codec, rules and rules.required)
        if not client_request.is_canonical:
            native: ProtocolCodec | None = provider.codecs.get(client_request.protocol)
            if native is not None:
                return _passed_call(request, native, model, rules)
            found = _translation_of_document(client_request, provider)
            if found is not None:
                codec, translation = found
                written = translation.write(client_request.document, model)
                return UpstreamCall(
                    codec.path(model, False), _encode(written.document), dropped=written.dropped, codec=codec
                )
        try:
            return _translated(request, candidate, provider.translation_codec, rules and rules.translated)
        except Unsupported as error:
            if provider.required_codec is None:
                raise
            try:  # the account's other protocol may have what this one lacks, such as files by URL
                return _translated(request, candidate, provider.required_codec, rules and rules.required)
            except Unsupported:
                raise error from None

    @staticmethod
    def mended(client_request: ClientRequest, call: UpstreamCall, *, unsigned: bool) -> UpstreamCall | None:
        """Return a refused call with its history mended; None if it has nothing to mend.

        `unsigned`: the call without the signed and encrypted reasoning of earlier answers. Otherwise with JSON objects
        as arguments of earlier tool calls. A call of a document that is decoded apart is not mended.
        """
        codec: ProtocolCodec = call.codec
        if client_request.apart is not None:
            return None
        mend = codec.without_signatures if unsigned else codec.with_valid_arguments
        if mend is None:
            return None
        document = msgspec.json.decode(call.body)
        if not mend(document):
            return None
        dropped = _dropped(client_request, call.dropped, ("thinking",)) if unsigned else call.dropped
        return msgspec.structs.replace(call, body=_encode(document), dropped=dropped)

    def reply(
        self,
        client_request: ClientRequest,
        provider: Provider,
        call: UpstreamCall,
        body: bytes,
        outline: Outline | None = None,
    ) -> Reply:
        """Read the body of a provider's 2xx response to a call. `outline` is that of a large body.

        Raises:
            Malformed: the body is not a complete answer.
        """
        codec: ProtocolCodec = call.codec
        if outline is not None:
            return _outlined_reply(client_request, call, body, outline)
        if call.renamed:
            body = call.restored(body)
        completion = codec.read_reply(body)
        if call.is_native:
            return reply_of(completion, body, call.dropped)
        if not client_request.is_canonical:
            found = _translation_of_document(client_request, provider)
            if found is not None:
                return reply_of(completion, found[1].read(body), call.dropped)
        for choice in completion.choices:
            _drop_vendor_parts(choice)
        return reply_of(completion, dropped=call.dropped, is_text=client_request.is_canonical)

    @staticmethod
    async def outlined(client_request: ClientRequest, call: UpstreamCall, result: UpstreamResult) -> UpstreamResult:
        """Return a result with the outline of its large body, if that can be read instead of the body.

        The start of an error is enough.
        """
        if not 200 <= result.status < 300:
            return msgspec.structs.replace(result, body=bytes(result.body[:SMALL_BYTES]))
        if call.renamed or not (call.is_native or _is_translatable(client_request)):
            return result
        outline = await outline_of(result.body, most_bytes=MOST_OUTLINE_BYTES, is_thinned=call.is_native)
        return msgspec.structs.replace(result, outline=outline) if outline.text else result

    def reader(self, client_request: ClientRequest, call: UpstreamCall) -> StreamReader:
        """Make the reader of the stream that a provider sends in response to a call.

        Raises:
            Unsupported: the provider's protocol has no streams.
        """
        codec: ProtocolCodec = call.codec
        if not call.is_native and codec.json_reader is not None and client_request.conversation.format is not None:
            return codec.json_reader()
        if codec.reader is None:
            raise Unsupported("stream", "its protocol has no streams for this endpoint")
        return codec.reader()


def _outlined_reply(client_request: ClientRequest, call: UpstreamCall, body: bytes, outline: Outline) -> Reply:
    """Read the outline of a large body: as `Translation.reply`, which it is a part of."""
    completion = call.codec.read_reply(bytes(outline.text))
    held: HeldTexts | None = None
    if call.is_native:
        reply = reply_of(completion, body, call.dropped)
        is_cacheable = len(body) <= MOST_CACHED_BYTES
    else:
        held = outline.held or None
        for choice in completion.choices:
            _drop_vendor_parts(choice)
        reply = reply_of(completion, dropped=call.dropped, is_text=client_request.is_canonical)
        is_cacheable = held is None
    usage = reply.usage
    if reply.usage_estimated:  # from the outline's texts alone
        rest = estimated_output_tokens(outline.held.length)
        usage = msgspec.structs.replace(usage, output_tokens=usage.output_tokens + rest)
    return msgspec.structs.replace(reply, usage=usage, held=held, is_cacheable=reply.is_cacheable and is_cacheable)


def _is_required(client_request: ClientRequest, candidate: Candidate) -> bool:
    """Return whether the candidate takes this request in the protocol of its provider's `required_codec` only."""
    provider, is_required = candidate.provider, candidate.is_required
    if provider.codecs.get(client_request.protocol) is provider.required_codec or not _is_translatable(client_request):
        return False
    return is_required is not None and is_required(client_request)


def _is_translatable(client_request: ClientRequest) -> bool:
    return client_request.is_canonical or PROTOCOLS[client_request.protocol].is_translatable


def _translated(
    request: Request, candidate: Candidate, codec: ProtocolCodec | None, rules: BodyRules | None
) -> UpstreamCall:
    """Write the call of a request whose conversation is translated with `codec`. `rules` are those of its bodies.

    Raises:
        Unsupported: the provider's protocol cannot express the request, or the vendor cannot be sent a field.
    """
    client_request, model = request.client_request, candidate.model
    if codec is None or codec.write is None or not _is_translatable(client_request):
        name = candidate.provider.name
        raise Unsupported("model", f"{name} does not support the protocol of this endpoint ({client_request.protocol})")
    try:
        written = codec.write(client_request.conversation, model, stream=request.stream)
    except Unsupported as error:
        raise Unsupported(field_name(client_request.protocol, error.field), error.why, error.known) from None
    left_out = written.dropped
    renamed: tuple[tuple[bytes, bytes], ...] = ()
    if rules is not None:
        edit = _edited(client_request, rules, written.document)
        left_out, renamed = (*left_out, *edit.dropped), _renamed(edit)
    dropped = _dropped(client_request, client_request.dropped, left_out) if client_request.dropped or left_out else ()
    body = _encode(written.document)
    return UpstreamCall(codec.path(model, request.stream), body, dropped=dropped, codec=codec, renamed=renamed)


def _passed_call(request: Request, native: ProtocolCodec, model: str, rules: ModelRules | None) -> UpstreamCall:
    """Write the call of a request whose document passes through.

    Raises:
        Unsupported: the vendor cannot be sent a field.
    """
    client_request = request.client_request
    document = PROTOCOLS[client_request.protocol].passthrough_request(
        {**client_request.document, "model": model}, stream=request.stream
    )
    dropped: tuple[str, ...] = ()
    renamed: tuple[tuple[bytes, bytes], ...] = ()
    if rules is not None and (applied := rules.passed.get(client_request.protocol)) is not None:
        edit = _edited(client_request, applied, document)
        dropped = _dropped(client_request, (), edit.dropped) if edit.dropped else ()
        renamed = _renamed(edit)
    return UpstreamCall(
        native.path(model, request.stream),
        _encode(document),
        is_native=True,
        header_lines=client_request.header_lines,
        dropped=dropped,
        codec=native,
        renamed=renamed,
    )


def _translation_of_document(
    client_request: ClientRequest, provider: Provider
) -> tuple[ProtocolCodec, DocumentTranslation] | None:
    """Find a protocol of the provider into which the client's documents are translated directly."""
    for name, translation in PROTOCOLS[client_request.protocol].translations.items():
        codec = provider.codecs.get(name)
        if codec is not None:
            return codec, translation
    return None


def _dropped(client_request: ClientRequest, read: tuple[str, ...], fields: Iterable[str]) -> tuple[str, ...]:
    """Return the names of the options that were left out, each once, by their names in the client's protocol.

    `read` are those that the reader left out, `fields` fields of `Conversation` that were not written.
    """
    return tuple(dict.fromkeys((*read, *[field_name(client_request.protocol, field) for field in fields])))


def _edited(client_request: ClientRequest, rules: BodyRules, document: dict[str, Any]) -> Edit:
    """Apply the vendor's rules to the document of a call.

    Raises:
        Unsupported: the vendor cannot be sent a field; it is named as in the client's protocol.
    """
    try:
        return rules.apply(document)
    except Unsupported as error:
        raise Unsupported(field_name(client_request.protocol, error.field), error.why) from None


def _renamed(edit: Edit) -> tuple[tuple[bytes, bytes], ...]:
    return tuple([(_encode(sent), _encode(own)) for sent, own in edit.restored.items()]) if edit.restored else ()


def reply_of(
    completion: Completion, body: bytes = b"", dropped: tuple[str, ...] = (), *, is_text: bool = False
) -> Reply:
    """Make a `Reply` of a completion.

    It carries the completion only if the endpoint needs it: not if the client gets `body`, or only the text.
    """
    choices = completion.choices
    return Reply(
        content=_text_of(choices[0]) if choices and not body else "",
        usage=completion.usage,
        finish_reason=choices[0].finish_reason if choices else "stop",
        upstream_model=truncated(completion.model),
        upstream_request_id=truncated(completion.id),
        usage_estimated=completion.usage_estimated,
        completion=None if body or is_text else completion,
        body=body,
        dropped=dropped,
        is_cacheable=_is_cacheable(choices),
        service_tier=completion.service_tier,
        units=completion.units,
        has_hidden_reasoning=completion.usage_estimated and hides_reasoning(choices),
    )


def _text_of(choice: Choice) -> str:
    parts = choice.parts
    if len(parts) == 1 and type(parts[0]) is Text:  # nearly always
        return parts[0].text
    return "".join([part.text for part in parts if isinstance(part, Text | Refusal)])


def _is_cacheable(choices: list[Choice]) -> bool:
    """Return whether the reply may be cached.

    It has content that no filter cut off, and no part that only one protocol can express.
    """
    has_content = not choices  # of embeddings, which stay in the body
    for choice in choices:
        if choice.finish_reason == "content_filter":
            return False
        for part in choice.parts:
            if type(part) is Text:  # first, since nearly all are
                has_content = has_content or part.text != ""
            elif isinstance(part, VendorPart):
                return False
            elif isinstance(part, ToolCall) or (isinstance(part, Refusal) and part.text):
                has_content = True
    return has_content


def _drop_vendor_parts(choice: Choice) -> None:
    """Remove the parts that only the provider's protocol can express.

    Raises:
        Malformed: no other part is left.
    """
    for part in choice.parts:
        if type(part) is VendorPart:
            break
    else:
        return
    choice.parts = [part for part in choice.parts if type(part) is not VendorPart]
    if not choice.parts:
        raise Malformed("The answer holds nothing that the client's protocol can express")
