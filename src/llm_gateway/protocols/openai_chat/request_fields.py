"""The fields of the objects in a chat completions request that the reader knows; others are dropped and reported.

https://platform.openai.com/docs/api-reference/chat/create. Besides what is read, these are fields in which clients
repeat an earlier answer.
"""

from __future__ import annotations

from llm_gateway.protocols.known_fields import ByType, Fields, Inside

FUNCTION = Fields({"name", "description", "parameters", "strict"})
NAMED = Fields({"type", "name", "function"}, {"function": Fields({"name"})})
CALL = Fields({"name", "arguments"})
PARTS: ByType = {
    "text": Fields({"type", "text", "cache_control"}),
    "refusal": Fields({"type", "refusal"}),
    "image_url": Fields({"type", "image_url", "cache_control"}, {"image_url": Fields({"url", "detail"})}),
    "input_audio": Fields({"type", "input_audio"}, {"input_audio": Fields({"data", "format"})}),
    "file": Fields({"type", "file", "cache_control"}, {"file": Fields({"filename", "file_id", "file_data"})}),
}
MESSAGE = Fields(
    {
        "role", "content", "name", "refusal", "tool_calls", "tool_call_id", "function_call", "audio", "annotations",
        "reasoning_content", "reasoning", "reasoning_details",
    },
    {
        "content": PARTS,
        "tool_calls": Fields({"type", "id", "index", "function", "extra_content"}, {"function": CALL}),
        "function_call": CALL,
    },
)  # fmt: skip
INSIDE: Inside = {
    "messages": MESSAGE,
    "tools": Fields({"type", "function", "cache_control"}, {"function": FUNCTION}),
    "functions": FUNCTION,
    "function_call": Fields({"name"}),
    "tool_choice": Fields(
        {"type", "function", "allowed_tools", "mode", "tools"},
        {
            "function": Fields({"name"}),
            "allowed_tools": Fields({"mode", "tools"}, {"tools": NAMED}),
            "tools": NAMED,
        },
    ),
    "response_format": Fields(
        {"type", "json_schema"}, {"json_schema": Fields({"name", "schema", "description", "strict"})}
    ),
    "reasoning": Fields({"effort", "max_tokens", "exclude", "enabled"}),
    "thinking": Fields({"type", "budget_tokens"}),
}
