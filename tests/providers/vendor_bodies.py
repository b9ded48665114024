"""Bodies of requests in the four chat protocols, for tests of vendors' words and limits."""

from __future__ import annotations

import json
from typing import Any

from llm_gateway.protocols.registry import PROTOCOLS

Body = dict[str, Any]
CLOSED: Body = {"type": "object", "properties": {"a": {"type": "string"}}, "required": ["a"],
                "additionalProperties": False}  # fmt: skip


def chat(**fields: Any) -> Body:
    return {"messages": [{"role": "user", "content": "Hi"}], **fields}


def claude(**fields: Any) -> Body:
    return {"max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]} | fields


def google(**config: Any) -> Body:
    return {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}], "generationConfig": config}


def tool(name: str, protocol: str, schema: Body | None = None, **fields: Any) -> Body:
    """Return a body with a tool, a call of it in the history, and its result."""
    schema = CLOSED if schema is None else schema
    if protocol == "anthropic_messages":
        call = {"type": "tool_use", "id": "toolu_1", "name": name, "input": {}}
        result = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "x"}
        said = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": [call]},
                {"role": "user", "content": [result]}]  # fmt: skip
        tools = [{"name": name, "input_schema": schema, **fields}]
        return {"max_tokens": 9, "messages": said, "tools": tools, "tool_choice": {"type": "tool", "name": name}}
    if protocol == "gemini_content":
        parts_ = [{"functionCall": {"name": name, "args": {}}}, {"functionResponse": {"name": name, "response": {}}}]
        said = [{"role": "user", "parts": [{"text": "Hi"}]}, {"role": "model", "parts": parts_[:1]},
                {"role": "user", "parts": parts_[1:]}]  # fmt: skip
        allowed = {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": [name]}}
        return {"contents": said, "tools": [{"functionDeclarations": [{"name": name}]}], "toolConfig": allowed}
    if protocol == "openai_responses":
        call = {"type": "function_call", "call_id": "call12345", "name": name, "arguments": "{}"}
        result = {"type": "function_call_output", "call_id": "call12345", "output": "x"}
        function = {"type": "function", "name": name, "parameters": schema, "strict": False, **fields}
        choice = {"type": "function", "name": name}
        return {"input": [{"role": "user", "content": "Hi"}, call, result], "tools": [function], "tool_choice": choice}
    call = {"id": "call12345", "type": "function", "function": {"name": name, "arguments": "{}"}}
    said = [{"role": "user", "content": "Hi"},
            {"role": "assistant", "content": None, "tool_calls": [call], "reasoning_content": "Hm"},
            {"role": "tool", "tool_call_id": "call12345", "content": "x"}]  # fmt: skip
    function = {"name": name, "parameters": schema, **fields}
    named = {"type": "function", "function": {"name": name}}
    return {"messages": said, "tools": [{"type": "function", "function": function}], "tool_choice": named}


def with_id(call_id: str, protocol: str) -> Body:
    text = json.dumps(tool("t", protocol)).replace("call12345", call_id).replace("toolu_1", call_id)
    found: Body = json.loads(text)
    return found


def reader(protocol: str) -> Any:
    def read(document: Body) -> Any:
        found = PROTOCOLS[protocol].read_request(document)
        return found.conversation, found.dropped

    return read
