"""The fields of the objects in a Responses API request that the reader knows; others are dropped and reported.

https://platform.openai.com/docs/api-reference/responses/create. Besides what is read, these are fields in which clients
repeat an earlier answer, such as the ids of its items.
"""

from __future__ import annotations

from llm_gateway.protocols.known_fields import ByType, Fields, Inside

PARTS: ByType = {
    "input_text": Fields({"type", "text"}),
    "output_text": Fields({"type", "text", "annotations", "logprobs"}),
    "text": Fields({"type", "text"}),
    "refusal": Fields({"type", "refusal"}),
    "input_image": Fields({"type", "image_url", "file_id", "detail"}),
    "input_file": Fields({"type", "filename", "file_data", "file_id", "file_url"}),
}
MESSAGE = Fields({"type", "role", "content", "id", "status"}, {"content": PARTS})
OUTPUT = Fields({"type", "call_id", "output", "id", "status"}, {"output": PARTS})
ITEMS: ByType = {
    None: MESSAGE,
    "message": MESSAGE,
    "function_call": Fields({"type", "call_id", "name", "namespace", "arguments", "id", "status"}),
    "custom_tool_call": Fields({"type", "call_id", "name", "namespace", "input", "id", "status"}),
    "function_call_output": OUTPUT,
    "custom_tool_call_output": OUTPUT,
    "reasoning": Fields(
        {"type", "summary", "content", "encrypted_content", "id", "status"}, {"summary": Fields({"type", "text"})}
    ),
}
TOOLS: ByType = {
    "function": Fields({"type", "name", "description", "parameters", "strict"}),
    "custom": Fields({"type", "name", "description", "format"}, {"format": Fields({"type", "syntax", "definition"})}),
}
NAMED = Fields({"type", "name", "namespace"})
INSIDE: Inside = {
    "input": ITEMS,
    "tools": {**TOOLS, "namespace": Fields({"type", "name", "description", "tools"}, {"tools": TOOLS})},
    "tool_choice": Fields({"type", "name", "namespace", "mode", "tools"}, {"tools": NAMED}),
    "text": Fields({"format", "verbosity"}, {"format": Fields({"type", "name", "schema", "description", "strict"})}),
    "reasoning": Fields({"effort", "summary", "generate_summary"}),
}
