"""Tools of the Responses API that other protocols lack reach every vendor as functions, and their calls come back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from openai.types.responses import Response, ResponseStreamEvent
from pydantic import ConfigDict, TypeAdapter

from llm_gateway.domain.conversation import Choice, Chunk, Completion, Part, Text, ToolCall, ToolChoice
from llm_gateway.domain.reply_assembler import chunks_of
from llm_gateway.protocols import anthropic_messages, gemini, openai_chat, openai_responses
from llm_gateway.protocols.contract import ParsedRequest, ReplyContext, Unreadable, Unsupported
from llm_gateway.sse import Splitter

EVENTS: TypeAdapter[Any] = TypeAdapter(ResponseStreamEvent, config=ConfigDict(defer_build=True))
USER = {"role": "user", "content": "x"}
SCHEMA = {"type": "object", "properties": {}}
GRAMMAR = {"type": "grammar", "syntax": "lark", "definition": "start: /.+/"}
PATCH = {"type": "custom", "name": "apply_patch", "description": "Edit files.", "format": GRAMMAR}
SHELL = {"type": "function", "name": "shell", "parameters": SCHEMA, "strict": False}
DOCS = {
    "type": "namespace", "name": "mcp__docs", "description": "The manual.",
    "tools": [{"type": "function", "name": "search", "parameters": SCHEMA}, {"type": "custom", "name": "query"}],
}  # fmt: skip
TOOLS = [SHELL, PATCH, DOCS, {"type": "web_search"}, {"type": "local_shell"}]


def read(tools: Any = TOOLS, items: Any = (), **fields: Any) -> ParsedRequest:
    return openai_responses.read_request({"input": [USER, *items], "tools": tools, **fields})


def written(parts: list[Part], tools: Any = TOOLS) -> tuple[Any, list[Any]]:
    """Write a reply with these parts; return its output whole, and the events of its stream."""
    context = ReplyContext(request_id="1", model="m", created_s=7, document={"input": "x", "tools": tools})
    completion = Completion(choices=[Choice(parts=parts, finish_reason="tool_calls")])
    body = openai_responses.write_reply(completion, context)
    Response.model_validate_json(body)
    writer = openai_responses.StreamWriter(context)
    chunks: list[Chunk] = chunks_of(completion)
    data = b"".join([writer.write(chunk) for chunk in chunks]) + writer.end()
    events = [json.loads(event.data) for event in Splitter(10**6).take(data)]
    for event in events:
        EVENTS.validate_python(event)
    output = json.loads(body)["output"]
    assert events[-1]["response"]["output"] == output
    return output, events


def test_namespaces_and_custom_tools_become_functions_and_hosted_tools_are_named() -> None:
    found = read()

    tools = {tool.name: tool for tool in found.conversation.tools}
    assert list(tools) == ["shell", "apply_patch", "mcp__docs__search", "mcp__docs__query"]
    assert tools["apply_patch"].parameters == {
        "type": "object",
        "properties": {"input": {"type": "string"}},
        "required": ["input"],
    }
    assert tools["apply_patch"].description == (
        "Edit files.\n\nThe input must follow this grammar (lark):\nstart: /.+/"
    )
    assert tools["mcp__docs__search"].parameters == SCHEMA
    assert found.dropped == ("tools.local_shell", "tools.web_search")
    for dialect, model in ((openai_chat, "gpt-4o"), (anthropic_messages, "claude-haiku-4-5"), (gemini, "gemini-3-pro")):
        assert "mcp__docs__search" in json.dumps(dialect.write_request(found.conversation, model, stream=True).document)


def test_hosted_tools_alone_are_refused() -> None:
    with pytest.raises(Unsupported) as refused:
        read([{"type": "web_search"}])
    assert refused.value.field == "tools[0].type"


def test_calls_are_those_of_the_clients_own_tools_whole_and_streamed() -> None:
    output, events = written(
        [
            Text(text="So"),
            ToolCall(id="c1", name="shell", arguments='{"a":1}'),
            ToolCall(id="c2", name="mcp__docs__search", arguments="{}"),
            ToolCall(id="c3", name="apply_patch", arguments='{"input":"*** ü\\n"}'),
            ToolCall(id="c4", name="mcp__docs__query", arguments='{"input":"q"}'),
        ]
    )

    calls = [{name: value for name, value in item.items() if name not in ("id", "status")} for item in output[1:]]
    assert calls == [
        {"type": "function_call", "call_id": "c1", "name": "shell", "arguments": '{"a":1}'},
        {"type": "function_call", "call_id": "c2", "name": "search", "arguments": "{}", "namespace": "mcp__docs"},
        {"type": "custom_tool_call", "call_id": "c3", "name": "apply_patch", "input": "*** ü\n"},
        {"type": "custom_tool_call", "call_id": "c4", "name": "query", "namespace": "mcp__docs", "input": "q"},
    ]
    inputs = [event for event in events if event["type"].startswith("response.custom_tool_call_input")]
    assert [event.get("delta", event.get("input")) for event in inputs] == ["*** ü\n", "*** ü\n", "q", "q"]
    named = [event["name"] for event in events if event["type"] == "response.function_call_arguments.done"]
    assert named == ["shell", "search"]


@pytest.mark.parametrize(
    ("arguments", "given"), [("", ""), ("{", "{"), ("5", "5"), ("{}", "{}"), ('{"input":5}', '{"input":5}')]
)
def test_arguments_that_are_no_input_are_passed_on_as_they_are(arguments: str, given: str) -> None:
    [item], _ = written([ToolCall(id="c", name="apply_patch", arguments=arguments)])
    assert item["input"] == given


def test_a_call_of_an_unknown_tool_stays_a_function_call() -> None:
    [item], _ = written([ToolCall(id="c", name="other", arguments="{}")])
    assert (item["type"], item["name"]) == ("function_call", "other")


def test_calls_and_results_in_the_history_get_the_translated_names() -> None:
    """The items are those that the gateway itself returned."""
    sent = [
        ToolCall(id="c2", name="mcp__docs__search", arguments="{}"),
        ToolCall(id="c3", name="apply_patch", arguments='{"input":"*** ü"}'),
    ]
    output, _ = written(list(sent))
    results = [
        {"type": "function_call_output", "call_id": "c2", "output": "found"},
        {"type": "custom_tool_call_output", "call_id": "c3", "output": "done"},
    ]

    turns = read(items=[*output, *results]).conversation.turns

    assert turns[1].parts == sent
    assert [part.call_id for part in turns[2].parts] == ["c2", "c3"]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("choice", "expected", "names"),
    [
        ({"type": "custom", "name": "apply_patch"}, ToolChoice(mode="required", name="apply_patch"), None),
        (
            {"type": "function", "name": "search", "namespace": "mcp__docs"},
            ToolChoice(mode="required", name="mcp__docs__search"), None,
        ),
        (
            {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "custom", "name": "apply_patch"},
                                                                {"type": "web_search"}]},
            ToolChoice(mode="auto"), ["apply_patch"],
        ),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "shell"}]},
            ToolChoice(mode="required"), ["shell"],
        ),
    ],
)  # fmt: skip
def test_the_choice_of_a_tool_is_translated(choice: Any, expected: ToolChoice, names: list[str] | None) -> None:
    conversation = read(tool_choice=choice).conversation

    assert conversation.tool_choice == expected
    assert names is None or [tool.name for tool in conversation.tools] == names


@pytest.mark.parametrize(
    "choice",
    [{"type": "web_search"}, {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "web_search"}]},
     {"type": "allowed_tools", "mode": "odd", "tools": [{"type": "function", "name": "shell"}]}],
)  # fmt: skip
def test_the_choice_of_a_hosted_tool_is_refused(choice: Any) -> None:
    with pytest.raises(Unsupported) as refused:
        read(tool_choice=choice)
    assert refused.value.field == "tool_choice"


def namespace(name: str, *names: str) -> dict[str, Any]:
    return {
        "type": "namespace",
        "name": name,
        "description": "d",
        "tools": [{"type": "function", "name": each} for each in names],
    }


@pytest.mark.parametrize(
    "tools",
    [
        [namespace("n" * 40, "search_" + "x" * 30, "search_" + "x" * 29 + "y")],
        [namespace("a", "b__c"), namespace("a__b", "c")],
        [{**SHELL, "name": "a__b"}, namespace("a", "b")],
        [namespace("n" * 62, "b")],
    ],
    ids=["long", "equal", "a function's", "longest"],
)
def test_names_that_are_too_long_or_taken_are_hashed_and_restored(tools: list[Any]) -> None:
    names = [tool.name for tool in read(tools).conversation.tools]

    assert len(set(names)) == len(names)
    assert all(len(name) <= 64 for name in names)
    output, _ = written([ToolCall(id="c", name=name, arguments="{}") for name in names], tools)
    called = [(item.get("namespace"), item["name"]) for item in output]
    known = [
        (tool["name"] if tool["type"] == "namespace" else None, each["name"])
        for tool in tools
        for each in tool.get("tools", [tool])
    ]
    assert called == known


@pytest.mark.parametrize(
    ("tools", "field"),
    [
        ([{"type": "namespace", "tools": []}], "tools[0].name"),
        ([{"type": "namespace", "name": "a", "tools": 5}], "tools[0].tools"),
        ([{"type": "namespace", "name": "a", "tools": [5]}], "tools[0].tools[0]"),
        ([{"type": "namespace", "name": "a", "tools": [{"type": "mcp"}]}], "tools[0].tools[0].name"),
        ([{"type": "custom"}], "tools[0].name"),
        ([{"type": "function", "name": []}], "tools[0].name"),
        ([5], "tools[0]"),
    ],
    ids=str,
)
def test_invalid_tools_are_refused_with_their_place(tools: Any, field: str) -> None:
    with pytest.raises(Unreadable) as refused:
        read(tools)
    assert refused.value.field == field


def test_fields_of_codex_that_others_lack_are_dropped_and_named() -> None:
    """Stock Codex sends them in every request."""
    found = read(
        [SHELL], items=[{"type": "web_search_call", "id": "ws_1", "status": "completed"}],
        client_metadata={"session_id": "s"}, truncation="auto", prompt_cache_key="k",
    )  # fmt: skip
    assert found.dropped == ("client_metadata", "truncation", "input.web_search_call")
    assert found.conversation.cache_key == "k"
    assert len(found.conversation.turns) == 1


def test_a_reference_to_a_stored_item_is_refused_and_store_is_named() -> None:
    document = {"input": [USER, {"type": "item_reference", "id": "rs_1"}]}
    for check in (openai_responses.refuse_state, openai_responses.read_request):
        with pytest.raises(Unsupported, match="store: false") as refused:
            check(document)
        assert refused.value.field == "input[1].type"


@pytest.mark.parametrize(
    ("model", "include", "sent"),
    [
        ("gpt-5.4", None, ["reasoning.encrypted_content"]),
        ("gpt-5.4", [], ["reasoning.encrypted_content"]),
        ("o3", ["file_search_call.results"], ["file_search_call.results", "reasoning.encrypted_content"]),
        ("gpt-5.4", ["reasoning.encrypted_content"], ["reasoning.encrypted_content"]),
        ("gpt-4o", None, None),
        ("gpt-5-chat-latest", None, None),
        ("grok-4", None, None),
    ],
)
def test_a_model_that_reasons_is_asked_for_reasoning_that_can_be_sent_back(model: str, include: Any, sent: Any) -> None:
    passthrough = openai_responses.DESCRIPTOR.passthrough_request
    given = {} if include is None else {"include": include}

    document = passthrough({"model": model, "input": "x", **given}, stream=False)

    assert document.get("include") == sent
    assert document["store"] is False


def test_reasoning_that_the_vendor_could_not_find_is_left_out_of_the_input() -> None:
    """A client that appends the output to the next input sends back an item by its id; nothing is stored under it."""
    sealed = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA"}
    stored = {"type": "reasoning", "id": "rs_2", "summary": []}
    document = {"model": "gpt-5.4", "input": [USER, stored, sealed, {"type": "reasoning", "content": [{}]}]}

    sent = openai_responses.DESCRIPTOR.passthrough_request(document, stream=False)["input"]

    assert sent == [USER, sealed, {"type": "reasoning", "content": [{}]}]
