"""Tests that a request gives the same conversation and the same upstream call through every API, streamed or not.

Intended differences between the APIs are listed here: `lacks` holds the settings for which an API has no field,
`as_read` what its requests cannot express about the settings that it has.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import example, given

from llm_gateway.domain.catalog import Candidate, Provider
from llm_gateway.domain.conversation import Conversation, ResponseFormat, Text, ToolChoice, Turn
from llm_gateway.domain.request import ClientRequest
from llm_gateway.protocols import anthropic_messages, gemini, openai_chat, openai_responses
from llm_gateway.protocols.contract import Unsupported
from llm_gateway.protocols.generate import GenerateBody, client_request_of
from llm_gateway.worker.pipeline.translation import Translation
from tests.examples import examples
from tests.protocols.gemini import generated_requests as google
from tests.protocols.request_strategies import (
    Document,
    Question,
    chat_document,
    expected,
    messages_document,
    questions,
    responses_document,
    short_questions,
)
from tests.worker.pipeline.fakes import provider, request


class Api(NamedTuple):
    """A client's API and the function that writes a request for it. `lacks`: settings for which it has no field."""

    protocol: ModuleType
    write: Callable[[Question], Document]
    lacks: frozenset[str]


APIS = {
    "openai_chat": Api(openai_chat, chat_document, frozenset()),
    "anthropic_messages": Api(
        anthropic_messages,
        messages_document,
        frozenset({"n", "seed", "presence_penalty", "frequency_penalty", "logit_bias", "metadata", "verbosity"}),
    ),
    "openai_responses": Api(
        openai_responses,
        responses_document,
        frozenset({"n", "seed", "presence_penalty", "frequency_penalty", "logit_bias", "stop", "top_k"}),
    ),
    "gemini_content": Api(gemini, google.content_document, google.LACKS),
}
DIALECTS = [
    (openai_chat, "gpt-4o"),
    (openai_chat, "gpt-5.2"),
    (openai_responses, "gpt-4o"),
    (openai_responses, "gpt-5.2"),
    (anthropic_messages, "claude-haiku-4-5"),
    (anthropic_messages, "claude-opus-4-8"),
    (anthropic_messages, "claude-3-haiku-20240307"),
    (gemini, "gemini-2.5-pro"),
    (gemini, "gemini-3-flash"),
]
WRITERS = pytest.mark.parametrize(
    ("dialect", "model"), DIALECTS, ids=[f"{dialect.DESCRIPTOR.name}-{model}" for dialect, model in DIALECTS]
)
FEW = examples(0.5)
"""Fewer examples for tests with many parameters; `make fuzz` tries more."""
STREAM_FLAGS = ("stream", "stream_options")
EMPTY_SYSTEM = Turn(role="system", parts=[Text(text="")])


def can_ask(name: str, question: Question) -> bool:
    """Return whether the API has fields for all of the request's settings, and accepts their values."""
    settings = question.settings
    if not APIS[name].lacks.isdisjoint(settings):
        return False
    if name == "gemini_content":
        return google.can_ask(question)
    if name != "anthropic_messages":
        return True
    wanted, choice = settings.get("format"), settings.get("tool_choice")
    return (
        "max_tokens" in settings  # which is required
        and settings.get("temperature", 0) <= 1
        and (wanted is None or wanted.schema is not None)  # there is no JSON mode without a schema
        and (choice is None or choice != ToolChoice(mode="none", parallel=True))
    )


def as_read(name: str, question: Question) -> Conversation:
    """Return the conversation that this API's reader must find in the request."""
    conversation = expected(question)
    if name == "gemini_content":
        return google.as_read(conversation)
    if name == "openai_chat" and question.system == "":
        conversation.turns.insert(0, EMPTY_SYSTEM)  # a message of its own, which the writers leave out
    if name == "anthropic_messages" and conversation.format is not None:
        conversation.format = ResponseFormat(schema=conversation.format.schema)  # it has no name
    return conversation


def read(name: str, question: Question) -> Conversation:
    """Write the request as a client of this API does, and read the conversation in it."""
    api = APIS[name]
    body = msgspec.json.encode(api.write(question))
    found = api.protocol.read_request(msgspec.json.decode(body))
    assert found.dropped == ()
    conversation: Conversation = found.conversation
    return conversation


def asked(dialect: ModuleType, model: str, conversation: Conversation, *, stream: bool = False) -> Any:
    """Write the upstream request; return it with the dropped fields, or field and reason of the refusal."""
    try:
        written = dialect.write_request(conversation, model, stream=stream)
    except Unsupported as error:
        return error.field, error.why
    document = {name: value for name, value in written.document.items() if name not in STREAM_FLAGS}
    return msgspec.json.encode(document), written.dropped


@given(question=questions())
def test_every_api_reads_a_request_as_the_same_conversation(question: Question) -> None:
    for name in APIS:
        if can_ask(name, question):
            assert read(name, question) == as_read(name, question)


@WRITERS
@FEW
@given(question=questions())
def test_the_upstream_call_does_not_depend_on_the_api_nor_on_streaming(
    dialect: ModuleType, model: str, question: Question
) -> None:
    calls = {}
    for name in APIS:
        if can_ask(name, question):
            conversation = read(name, question)
            for stream in (False, True):
                calls[name, stream] = asked(dialect, model, conversation, stream=stream)

    [first, *others] = calls.items()
    for other in others:
        assert other[1] == first[1], (other[0], first[0])


def bodies(question: Question) -> list[GenerateBody]:
    """Return all bodies that express the request for /generate: all messages, or the last message as prompt."""
    settings = {name: value for name, value in question.settings.items() if name != "format"}
    common = {"user_id": "u", "service": "s", "json_mode": "format" in question.settings, **settings}
    messages = chat_document(question._replace(system=None))["messages"]
    system = question.system or ""
    spelled = [
        {"system": system, "messages": messages},
        {"messages": [{"role": "system", "content": system}, *messages]},
    ]
    last = question.turns[-1].parts
    if len(last) == 1 and isinstance(last[0], Text) and last[0].text:
        rest = {"messages": messages[:-1]} if messages[1:] else {}
        spelled.append({"system": system, **rest, "prompt": last[0].text})
    decoder = msgspec.json.Decoder(GenerateBody)
    return [
        decoder.decode(msgspec.json.encode({**common, **one, "stream": stream}))
        for one in spelled
        for stream in (False, True)
    ]


def account(kind: str, model: str) -> Provider:
    """Make a provider of this kind; `responses` is one of kind `openai` that speaks only the Responses API."""
    if kind == "responses":
        return provider(kind="openai", models=(model,), protocols=("openai_responses",))
    return provider(kind=kind, models=(model,))


def sent(ask: ClientRequest, kind: str, model: str, *, stream: bool) -> Any:
    """Return the body of the upstream call, or the field and reason of the refusal."""
    try:
        candidate = Candidate.of(account(kind, model), model)
        call = Translation().call(request(client_request=ask, stream=stream), candidate)
    except Unsupported as error:
        return error.field, error.why
    document = msgspec.json.decode(call.body)
    return {name: value for name, value in document.items() if name not in STREAM_FLAGS}


KINDS = pytest.mark.parametrize(
    ("kind", "model"),
    [
        ("openai", "gpt-4o"), ("openai", "gpt-5.2"), ("anthropic", "claude-haiku-4-5"),
        ("anthropic", "claude-opus-4-8"), ("gemini", "gemini-2.5-flash"), ("local", "llama"), ("responses", "gpt-5.2"),
    ],
)  # fmt: skip


@KINDS
@FEW
@given(question=short_questions())
@example(question=Question("", [Turn(role="user", parts=[Text(text="hi")])], {"max_tokens": 1, "temperature": 2.0}))
def test_generate_sends_the_same_call_for_a_prompt_for_messages_and_for_a_stream(
    kind: str, model: str, question: Question
) -> None:
    calls = [sent(client_request_of(body), kind, model, stream=body.stream or False) for body in bodies(question)]

    assert all(call == calls[0] for call in calls)


@KINDS
@FEW
@given(question=short_questions())
def test_generate_sends_the_same_call_as_chat_completions(kind: str, model: str, question: Question) -> None:
    wanted = read("openai_chat", question)
    dialects = {"anthropic": anthropic_messages, "gemini": gemini, "responses": openai_responses}
    dialect = dialects.get(kind, openai_chat)
    direct = asked(dialect, model, wanted)
    generated = sent(client_request_of(bodies(question)[0]), kind, model, stream=False)

    if isinstance(direct[0], bytes):
        direct = msgspec.json.decode(direct[0])
    assert generated == direct


@pytest.mark.parametrize("kind", ["anthropic", "gemini", "responses"])
@FEW
@given(question=questions())
def test_apis_of_other_vendors_send_the_same_call(kind: str, question: Question) -> None:
    model = {"anthropic": "claude-haiku-4-5", "gemini": "gemini-2.5-flash", "responses": "gpt-5.2"}[kind]
    calls = {}
    for name, api in APIS.items():
        if can_ask(name, question) and name not in account(kind, model).codecs:
            calls[name] = sent(ClientRequest(name, api.write(question), reading(api)), kind, model, stream=True)

    # A refusal names the client's own field, and so differs in its name alone.
    reasons = [call if isinstance(call, dict) else call[1] for call in calls.values()]
    assert all(reason == reasons[0] for reason in reasons)


def reading(api: Api) -> Callable[[Document], tuple[Conversation, tuple[str, ...]]]:
    """Return the function that reads requests of this API, as `ClientRequest` takes it."""

    def read_document(document: Document) -> tuple[Conversation, tuple[str, ...]]:
        found = api.protocol.read_request(document)
        return found.conversation, found.dropped

    return read_document
