"""Measure the input of a request, and find tools that the provider runs: what a bound of its cost has to know.

The kinds of parts are those of all protocols: a kind that one of them lacks is in none of its documents.
"""

from __future__ import annotations

import re
from typing import Literal, TypeAlias

import msgspec

from llm_gateway.domain.conversation import Audio, Conversation, File, Image, Part, Text, ToolResult
from llm_gateway.domain.request import ClientRequest
from llm_gateway.domain.token_estimate import InputSize
from llm_gateway.json_outline import HeldTexts
from llm_gateway.protocols.contract import JsonObject
from llm_gateway.protocols.registry import PROTOCOLS

Content: TypeAlias = Literal["picture", "file"] | None
"""What a part holds whose tokens do not follow from its text; videos and audio are files. None for other objects."""

_KINDS: dict[str, Content] = {
    **dict.fromkeys(("image", "image_url", "input_image", "computer_screenshot", "image_generation_call"), "picture"),
    **dict.fromkeys(("file", "input_file", "document", "container_upload"), "file"),
    **dict.fromkeys(("video", "video_url", "input_video", "audio", "audio_url", "input_audio"), "file"),
}
"""The values of `type` in parts of OpenAI's and Anthropic's APIs, and of servers that imitate them."""
_DATA = frozenset({"inlineData", "inline_data", "fileData", "file_data"})
"""Fields of Gemini's parts with data, whose kind is in their `mimeType`."""
_MARK = re.compile(f'"(?:{"|".join((*_KINDS, *_DATA))})"'.encode())
"""What the JSON of each document with a picture or a file has. Inside of a text, quotes are escaped."""
_READ_DOCUMENTS = frozenset({"text", "content"})
"""Sources of Anthropic's documents that are texts in the request."""
_READ_AS_TEXT = frozenset({
    *("tools", "functions", "input", "args", "arguments", "response", "parameters", "input_schema", "schema"),
    *("json_schema", "responseSchema", "response_schema", "responseJsonSchema", "parametersJsonSchema"),
})  # fmt: skip
"""Fields with any JSON, such as arguments of tools: a model reads as text what looks like a picture there."""
_INPUTS = frozenset({"input"})
"""Those of them that hold parts as fields of the whole document (OpenAI's responses)."""
_STORED_INPUT = ("cachedContent", "cached_content")
"""Fields that name input which the provider has stored: https://ai.google.dev/gemini-api/docs/caching."""
_TURN_BYTES = 8
"""More than the tokens that frame a message."""
_FUNCTIONS = frozenset({"function", "custom", "namespace"})
_OWN_TOOLS = _FUNCTIONS | {
    *("local_shell", "shell", "apply_patch", "tool_search", "computer", "computer_use_preview"),
}
"""Types of OpenAI's tools that the client runs, or that are not billed."""
_OWN_TOOLS_OF_ANTHROPIC = ("bash_", "text_editor_", "computer_", "memory_", "tool_search_tool_")
"""Starts of the types of Anthropic's tools that the client runs, or that are not billed."""
_OWN_TOOLS_OF_GEMINI = frozenset({"functionDeclarations", "function_declarations", "computerUse", "computer_use"})
_TOOL_PROMPT_BYTES = 1_000
"""More than the tokens of the instructions that a provider adds for tools, and for each tool that it defines itself:
https://platform.claude.com/docs/en/agents-and-tools/tool-use/overview#pricing."""
_SEARCHES = ("web_search_options", "search_parameters", "plugins", "mcp_servers")
"""Fields of a request, beside its tools, that let the provider search or call tools by itself."""


def input_size(client_request: ClientRequest) -> InputSize:
    """Return the size of a request's input, which is measured once.

    A document that was decoded in another process was measured there (`ClientRequest.size`).
    """
    found = client_request.size
    if found is None:
        document, held = client_request.document, client_request.held
        if client_request.is_canonical:
            found = _size_of_conversation(client_request.conversation, held)
        else:
            found = document_size(document, PROTOCOLS[client_request.protocol].input_fields, held)
        client_request.size = found
    return found


def _size(length: int, pictures: int, has_files: bool, has_audio: bool, tool: str | None) -> InputSize:
    return InputSize(length, pictures, has_files, has_audio, tool, not (pictures or has_audio or tool))


def hosted_tool(document: JsonObject) -> str | None:
    """Return the name of a tool in a request that the provider runs, and may bill apart; None if there is none."""
    tools = document.get("tools")
    for tool in tools if isinstance(tools, list) else ():
        if not isinstance(tool, dict):
            continue
        kind = tool.get("type")
        if isinstance(kind, str):
            is_hosted = isinstance(where := tool.get("environment"), dict) and where.get("type") != "local"
            if is_hosted or (kind not in _OWN_TOOLS and not kind.startswith(_OWN_TOOLS_OF_ANTHROPIC)):
                return kind
        elif "name" not in tool:
            for name in tool:
                if name not in _OWN_TOOLS_OF_GEMINI:
                    return str(name)
    return next((name for name in _SEARCHES if document.get(name)), None)


def document_size(document: JsonObject, fields: tuple[str, ...], held: HeldTexts | None) -> InputSize:
    """Return the size of a request in a vendor's protocol: of all of its document, which is sent as it is.

    Pictures and files are looked for in `fields` only.
    """
    text = msgspec.json.encode(document)
    if _MARK.search(text):
        length, pictures, has_files = _contents({name: document[name] for name in fields if name in document}, held)
        length += _json_bytes({name: value for name, value in document.items() if name not in fields}, held)
    else:  # a third of the time that it takes to look at each value
        length, pictures, has_files = len(text) + (0 if held is None else held.bytes_in(text)), 0, False
    tools = document.get("tools")
    if isinstance(tools, list) and tools:
        length += _TOOL_PROMPT_BYTES * (1 + sum(map(_is_predefined, tools)))
    has_files = has_files or any(map(document.get, _STORED_INPUT))
    asked = (document.get("modalities"), *(_modalities(document.get(name)) for name in fields))
    return _size(length, pictures, has_files, has_files or any(map(_names_audio, asked)), hosted_tool(document))


def _is_predefined(tool: object) -> bool:
    return isinstance(tool, dict) and isinstance(kind := tool.get("type"), str) and kind not in _FUNCTIONS


def _contents(inputs: JsonObject, held: HeldTexts | None) -> tuple[int, int, bool]:
    """Return the bytes of all texts beside pictures and files, the number of pictures, and whether there are files."""
    waiting = [(name, value, 0) for name, value in inputs.items()]
    length = pictures = 0
    has_files = False
    while waiting:
        name, value, depth = waiting.pop()
        length += _text_bytes(name, None)
        if name in _READ_AS_TEXT and (depth or name not in _INPUTS):
            length += _json_bytes(value, held)
        elif isinstance(value, dict):
            content = _content_of(value)
            pictures += content == "picture"
            has_files |= content == "file"
            if content is None:
                waiting += [(inner, part, depth + 1) for inner, part in value.items()]
        elif isinstance(value, list):
            waiting += [("", part, depth + 1) for part in value]
        elif isinstance(value, str):
            length += _text_bytes(value, held)
        else:
            length += len(repr(value))
    return length, pictures, has_files


def _size_of_conversation(conversation: Conversation, held: HeldTexts | None) -> InputSize:
    """Return the size of a conversation: a picture's and a file's own fields count for nothing."""
    turns = conversation.turns
    length = sum(_TURN_BYTES + _text_bytes(turn.name or "", held) for turn in turns)
    pictures, has_files = 0, False
    waiting: list[Part] = [part for turn in turns for part in turn.parts]
    while waiting:
        part = waiting.pop()
        if isinstance(part, Image):
            pictures += 1
        elif isinstance(part, File | Audio):
            has_files = True
        elif isinstance(part, ToolResult):
            waiting += part.content
        elif isinstance(part, Text):
            length += _text_bytes(part.text, held)
        else:
            length += _json_bytes(part, held)
    if conversation.tools or conversation.format is not None:
        length += _json_bytes((conversation.tools, conversation.format), held)
    return _size(length, pictures, has_files, has_files, None)


def _json_bytes(value: object, held: HeldTexts | None) -> int:
    text = msgspec.json.encode(value)
    return len(text) + (0 if held is None else held.bytes_in(text))


def _text_bytes(text: str, held: HeldTexts | None) -> int:
    if held is not None:
        return _json_bytes(text, held)
    return len(text) if text.isascii() else len(text.encode())


def _content_of(part: JsonObject) -> Content:
    kind = part.get("type")
    if isinstance(kind, str):
        source = part.get("source") if kind == "document" else None
        return None if isinstance(source, dict) and str(source.get("type")) in _READ_DOCUMENTS else _KINDS.get(kind)
    if _DATA.isdisjoint(part):
        return "file" if isinstance(part.get("audio"), dict) and "role" in part else None
    data = next((data for name in _DATA if isinstance(data := part.get(name), dict)), {})
    return "picture" if str(data.get("mimeType") or data.get("mime_type")).startswith("image/") else "file"


def _modalities(settings: object) -> object:
    """Return what kinds of answers Gemini's settings ask for."""
    if not isinstance(settings, dict):
        return None
    return settings.get("responseModalities") or settings.get("response_modalities")


def _names_audio(modalities: object) -> bool:
    return isinstance(modalities, list) and any(str(each).lower() == "audio" for each in modalities)
