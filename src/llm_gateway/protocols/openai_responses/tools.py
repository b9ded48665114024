"""Tools of the Responses API that other protocols lack: translate them into functions, and their calls back.

    namespace    its functions get the names `<namespace>__<name>`
    custom       a function with one string, `input`: https://developers.openai.com/api/docs/guides/function-calling
    others       OpenAI runs or defines them (`web_search`, `local_shell`): left out by name if there are functions

A name is at most 64 characters long, which is the limit of most vendors: a longer one ends in a hash, and so does one
that another tool has already. The names follow from the request's own `tools`, so that its reply can restore them.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from typing import Any, NamedTuple

import msgspec

from llm_gateway.domain.conversation import ToolCall
from llm_gateway.protocols.contract import PARSE_ERRORS, JsonObject

MOST_NAME_CHARACTERS = 64
"""Length of a function's name: https://platform.openai.com/docs/api-reference/chat/create#chat_create-tools."""
HASH_CHARACTERS = 8
INPUT = "input"
"""Name of the only parameter of a custom tool's function."""
CUSTOM_SCHEMA: JsonObject = {"type": "object", "properties": {INPUT: {"type": "string"}}, "required": [INPUT]}


class Origin(NamedTuple):
    """The tool behind a function's name: `definition` as the client wrote it, its namespace or None, `is_custom`."""

    definition: JsonObject
    namespace: str | None
    is_custom: bool

    @property
    def name(self) -> str:
        """The name by which the client knows the tool."""
        return str(self.definition["name"])


def origins_of(tools: Any) -> Mapping[str, Origin]:
    """Return the functions and custom tools of a request's `tools`, also in namespaces, by their translated names.

    Tools of other types, and what has no valid name, are left out.
    """
    origins: dict[str, Origin] = {}
    for tool in tools if isinstance(tools, list) else ():
        if not isinstance(tool, dict):
            continue
        namespace = str(tool.get("name")) if tool.get("type") == "namespace" else None
        members = [tool] if namespace is None else tool.get("tools")
        for member in members if isinstance(members, list) else ():
            if (
                isinstance(member, dict)
                and member.get("type") in ("function", "custom")
                and _is_name(member.get("name"))
            ):
                origin = Origin(member, namespace, member["type"] == "custom")
                origins[_free_name(origin, origins)] = origin
    return origins


def restorable_origins(tools: Any) -> Mapping[str, Origin]:
    """Return the origins of those tools whose calls must be restored in a reply."""
    if not isinstance(tools, list):
        return {}
    return {name: each for name, each in origins_of(tools).items() if each.is_custom or name != each.name}


def _is_name(name: Any) -> bool:
    return isinstance(name, str) and name != ""


def _free_name(origin: Origin, taken: Mapping[str, Origin]) -> str:
    whole = origin.name if origin.namespace is None else f"{origin.namespace}__{origin.name}"
    if len(whole) <= MOST_NAME_CHARACTERS and whole not in taken:
        return whole
    # Namespace and name are hashed apart: `a__b` in `c` and `b` in `c__a` differ.
    digest = sha256(f"{origin.namespace}\0{origin.name}".encode()).hexdigest()[:HASH_CHARACTERS]
    return f"{whole[: MOST_NAME_CHARACTERS - HASH_CHARACTERS - 1]}_{digest}"


def custom_description(definition: JsonObject) -> str | None:
    """Return the description of a custom tool, with the grammar that its input must follow."""
    description = definition.get("description")
    wanted = definition.get("format")
    if not isinstance(wanted, dict) or wanted.get("type") != "grammar":
        return description if isinstance(description, str) else None
    grammar = f"The input must follow this grammar ({wanted.get('syntax')}):\n{wanted.get('definition')}"
    return f"{description}\n\n{grammar}" if description else grammar


def write_custom_input(given: str) -> str:
    """Return the arguments of the function for a custom tool's input."""
    return msgspec.json.encode({INPUT: given}).decode()


def read_custom_input(arguments: str) -> str:
    """Return the input of a custom tool from the arguments that the model wrote; these themselves if they differ."""
    try:
        given = msgspec.json.decode(arguments)
    except PARSE_ERRORS:
        return arguments
    text = given.get(INPUT) if isinstance(given, dict) else None
    return text if isinstance(text, str) else arguments


def restored_call(item: JsonObject, call: ToolCall, origin: Origin | None) -> JsonObject:
    """Return the output item of a call (`type`, `id`, `status`, …) as that of the client's own tool."""
    if origin is None:
        return item
    namespace = {} if origin.namespace is None else {"namespace": origin.namespace}
    if not origin.is_custom:
        return {**item, "name": origin.name, **namespace}
    given = read_custom_input(call.arguments) if call.arguments else ""
    named = {"call_id": call.id, "name": origin.name, **namespace}
    return {"type": "custom_tool_call", "id": item["id"], **named, "input": given}
