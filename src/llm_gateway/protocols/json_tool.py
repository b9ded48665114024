"""Request JSON answers as the input of a tool, for protocols without another way, or without one beside tools."""

from __future__ import annotations

JSON_TOOL = "json_answer"
"""Name of the tool."""
JSON_DESCRIPTION = "Takes the whole answer, as one JSON object."
JSON_INSTRUCTION = f"Answer only by calling the tool {JSON_TOOL}. Its input is your whole answer, one JSON object."
