"""The fields of the objects in a Messages API request that the reader knows; others are dropped and reported.

https://platform.claude.com/docs/en/api/messages.
"""

from __future__ import annotations

from llm_gateway.protocols.known_fields import ByType, Fields, Inside

TEXT = Fields({"type", "text", "cache_control"})
SOURCE = Fields({"type", "media_type", "data", "url", "file_id"})
RESULT_BLOCKS: ByType = {
    "text": TEXT,
    "image": Fields({"type", "source", "cache_control"}, {"source": SOURCE}),
    "document": Fields(
        {"type", "source", "title", "citations", "cache_control"}, {"source": SOURCE, "citations": Fields({"enabled"})}
    ),
    "search_result": Fields(
        {"type", "source", "title", "content", "cache_control"}, {"content": Fields({"type", "text"})}
    ),
}
"""Content blocks of the result of a tool, which are those of messages, too."""
BLOCKS: ByType = {
    **RESULT_BLOCKS,
    "tool_use": Fields({"type", "id", "name", "input", "cache_control"}),
    "tool_result": Fields({"type", "tool_use_id", "content", "is_error", "cache_control"}, {"content": RESULT_BLOCKS}),
    "thinking": Fields({"type", "thinking", "signature"}),
    "redacted_thinking": Fields({"type", "data"}),
}
INSIDE: Inside = {
    "system": TEXT,
    "messages": Fields({"role", "content"}, {"content": BLOCKS}),
    "tools": Fields({"type", "name", "description", "input_schema", "strict", "cache_control"}),
    "tool_choice": Fields({"type", "name", "disable_parallel_tool_use"}),
    "thinking": Fields({"type", "budget_tokens", "display"}),
    "metadata": Fields({"user_id"}),
    "output_config": Fields({"effort", "format"}, {"format": Fields({"type", "schema"})}),
}
