"""Tests that a reply has the same content whole and streamed, from each vendor and through each client's API."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from llm_gateway.domain.conversation import Chunk, Completion, TextDelta, UsageUpdate
from llm_gateway.domain.reply_assembler import ReplyAssembler
from llm_gateway.protocols import anthropic_messages, gemini, openai_chat, openai_responses
from llm_gateway.protocols.contract import ReplyContext, UpstreamError
from llm_gateway.sse import Splitter
from tests.examples import examples
from tests.protocols.reply_strategies import VENDORS, Document, Reply, Vendor, replies, sse, told, told_parts, usage_of

APIS = {"chat": openai_chat, "messages": anthropic_messages, "responses": openai_responses, "gemini": gemini}
OPTIONS = {"stream_options": {"include_usage": True}, "generationConfig": {"thinkingConfig": {"includeThoughts": True}}}
"""Request fields with which clients request usage and thoughts, which some APIs send only then."""
CONTEXT = ReplyContext(request_id="1", model="m", created_s=7, document=OPTIONS)
FEW = examples(0.5)
"""Fewer examples for tests with many parameters; `make fuzz` tries more."""
DIALECTS = pytest.mark.parametrize("name", VENDORS)
SURFACES = pytest.mark.parametrize("api", APIS)


class Encoding(NamedTuple):
    """The encoding of a stream: deltas of `size` characters, line ends, ASCII or not, and segments cut at `cuts`."""

    size: int
    newline: str
    is_ascii: bool
    cuts: list[int]

    def pieces(self, body: bytes) -> list[bytes]:
        """Cut the body into the segments in which the socket delivers it."""
        places = sorted({0, len(body), *(cut % (len(body) + 1) for cut in self.cuts)})
        return [body[start:end] for start, end in pairwise(places)]


encodings = st.builds(
    Encoding,
    st.integers(1, 9),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.booleans(),
    st.lists(st.integers(0, 10**6), max_size=20),
)


def chunks_in(vendor: Vendor, events: list[Document], encoding: Encoding) -> list[Chunk]:
    """Encode the events, and read their chunks with the dialect's reader."""
    reader, splitter, chunks = vendor.protocol.StreamReader(), Splitter(10**7), list[Chunk]()
    for data in encoding.pieces(sse(vendor, events, newline=encoding.newline, is_ascii=encoding.is_ascii)):
        for event in splitter.take(data):
            chunks += reader.take(event)
    for event in splitter.end():
        chunks += reader.take(event)
    return chunks


def assembled(chunks: list[Chunk]) -> Completion:
    """Assemble the completion from the chunks; assert that it is complete."""
    assembler = ReplyAssembler()
    for chunk in chunks:
        assembler.take(chunk)
    assert assembler.is_finished
    return assembler.completion()


def whole_of(vendor: Vendor, reply: Reply) -> Completion:
    """Read the whole reply with the dialect's reader."""
    completion: Completion = vendor.protocol.read_reply(msgspec.json.encode(vendor.whole(reply)))
    return completion


def rest(completion: Completion) -> Any:
    """Return everything besides the content: finish reason, model, id, usage, and whether the usage is estimated."""
    [choice] = completion.choices
    return choice.finish_reason, completion.model, completion.id, completion.usage, completion.usage_estimated


@DIALECTS
@FEW
@given(reply=replies())
def test_a_whole_reply_is_read_as_its_vendor_defines_it(name: str, reply: Reply) -> None:
    vendor = VENDORS[name]
    reply = vendor.adapted(reply)
    completion = whole_of(vendor, reply)

    said = told_parts(reply.parts)
    reason, model, number, usage, is_estimated = rest(completion)
    if name == "responses":
        assert [one for one in told(completion) if one[0] != "thought"] == [one for one in said if one[0] != "thought"]
    else:
        assert told(completion) == said
    assert (model, number, reason) == ("m", "c", reply.reason)
    if reply.counts is None or (said and not reply.counts.answered):
        assert is_estimated, "an answer with content has output tokens"
    elif reply.counts.answered > reply.counts.reasoning or name != "gemini":
        assert (usage, is_estimated) == (usage_of(reply.counts), False)


@DIALECTS
@given(reply=replies(), encoding=encodings)
def test_a_streamed_reply_equals_the_whole_reply(name: str, reply: Reply, encoding: Encoding) -> None:
    vendor = VENDORS[name]
    reply = vendor.adapted(reply)
    whole = whole_of(vendor, reply)
    streamed = assembled(chunks_in(vendor, vendor.events(reply, encoding.size), encoding))

    assert told(streamed) == told(whole)
    assert rest(streamed) == rest(whole)


def written_whole(api: str, completion: Completion) -> Completion:
    """Write the reply as a body, and read it as a client does."""
    protocol = APIS[api]
    read: Completion = protocol.read_reply(protocol.write_reply(completion, CONTEXT))
    return read


def written_stream(api: str, chunks: list[Chunk]) -> Completion:
    """Write the reply as a stream, and read it as a client does; estimated usage is added last, as by the gateway."""
    protocol = APIS[api]
    writer, reader, assembler = protocol.StreamWriter(CONTEXT), protocol.StreamReader(), ReplyAssembler()
    estimated = assembled(chunks)
    counted = [UsageUpdate(usage=estimated.usage)] if estimated.usage_estimated else []
    body = b"".join([writer.write(chunk) for chunk in [*chunks, *counted]]) + writer.end()
    for event in Splitter(10**7).take(body):
        for chunk in reader.take(event):
            assembler.take(chunk)
    assert reader.is_done or (api == "gemini" and assembler.is_finished)  # Google's streams have no end marker
    return assembler.completion()


def for_client(completion: Completion, api: str) -> Any:
    """Return what a client of the API can observe of a reply.

    The order of parts of different kinds differs by API. In Anthropic's and Google's a refusal is a text.
    """
    said = told(completion)
    alike = [("text", "refusal")] if api in ("messages", "gemini") else [("text",), ("refusal",)]
    texts = ["".join(value for kind, value in said if kind in kinds) for kinds in alike]
    thoughts = "".join(value for kind, value in said if kind == "thought")
    calls = [value for kind, value in said if kind == "call"]
    usage = completion.usage
    counts = (usage.input_tokens, usage.output_tokens, usage.cache_read_tokens)
    return texts, thoughts, calls, completion.choices[0].finish_reason, counts


@SURFACES
@DIALECTS
@FEW
@given(reply=replies(), encoding=encodings)
def test_clients_of_each_api_read_the_same_reply_whole_and_streamed(
    name: str, api: str, reply: Reply, encoding: Encoding
) -> None:
    assume(not reply.parts or reply.counts is None or reply.counts.answered)  # content with 0 tokens is implausible
    vendor = VENDORS[name]
    reply = vendor.adapted(reply)
    whole = whole_of(vendor, reply)
    streamed = chunks_in(vendor, vendor.events(reply, encoding.size), encoding)
    if whole.usage_estimated:  # the gateway adds the request's tokens
        whole.usage = msgspec.structs.replace(whole.usage, input_tokens=1)
        streamed.append(UsageUpdate(usage=whole.usage))

    expected = for_client(whole, api)
    assert for_client(written_whole(api, whole), api) == expected
    assert for_client(written_stream(api, streamed), api) == expected


@DIALECTS
@FEW
@given(reply=replies(), encoding=encodings, after=st.integers(0, 10**6))
def test_an_error_ends_a_stream_after_the_content_before_it(
    name: str, reply: Reply, encoding: Encoding, after: int
) -> None:
    vendor = VENDORS[name]
    reply = vendor.adapted(reply)
    events = vendor.events(reply, encoding.size)
    kept = events[: after % len(events)]
    vendor = vendor._replace(done=b"")
    before = chunks_in(vendor, kept, encoding)

    with pytest.raises(UpstreamError, match="on fire"):
        chunks_in(vendor, [*kept, vendor.error], encoding)
    whole = "".join(c.text for c in chunks_in(vendor, events, encoding) if isinstance(c, TextDelta))
    assert whole.startswith("".join(c.text for c in before if isinstance(c, TextDelta)))
    for protocol in APIS.values():
        writer, reader = protocol.StreamWriter(CONTEXT), protocol.StreamReader()
        body = b"".join([writer.write(chunk) for chunk in before]) + writer.error("on fire", "upstream_error")
        *told_before, error = Splitter(10**7).take(body)
        for event in told_before:
            reader.take(event)
        with pytest.raises(UpstreamError, match="on fire"):
            reader.take(error)
        assert not reader.is_done
