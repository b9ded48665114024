"""Read the tools of a client's chat completions request, in their current and in their legacy form (`functions`)."""

from __future__ import annotations

from llm_gateway.domain.conversation import Tool, ToolChoice
from llm_gateway.protocols.accessors import boolean, cache_ttl, list_field, object_field, objects, required_text, text
from llm_gateway.protocols.contract import JsonObject, Unreadable, Unsupported

MODES = ("auto", "none", "required")


def read_tools(document: JsonObject) -> tuple[list[Tool], ToolChoice | None]:
    """Return the tools that the model may call, and the choice among them.

    Raises:
        Unreadable: a tool or the choice is malformed.
        Unsupported: only OpenAI knows a tool's type, or the kind of the choice.
    """
    tools = [_tool(tool, place) for tool, place in objects(list_field(document, "tools"), "tools")]
    for function, place in objects(list_field(document, "functions"), "functions"):
        tools.append(_function(function, place))
    choice, parallel = document.get("tool_choice"), boolean(document, "parallel_tool_calls")
    if isinstance(choice, dict) and choice.get("type") == "allowed_tools":
        return _allowed(choice, tools, parallel)
    return tools, _tool_choice(choice, parallel) or _function_choice(document.get("function_call"))


def is_legacy(document: JsonObject) -> bool:
    """Return whether the client declares `functions`, and so expects a `function_call` in the answer."""
    return bool(document.get("functions")) and not document.get("tools")


def _tool(tool: JsonObject, place: str) -> Tool:
    function = object_field(tool, "function", place)
    if tool.get("type") != "function" or function is None:
        raise Unsupported(f"{place}.type", "other protocols support only tools of type 'function'")
    written = _function(function, f"{place}.function")
    written.cache = cache_ttl(tool, place)
    return written


def _function(function: JsonObject, place: str) -> Tool:
    return Tool(
        name=required_text(function, "name", place),
        description=text(function, "description", place),
        parameters=object_field(function, "parameters", place),
        strict=boolean(function, "strict", place),
    )


def _tool_choice(choice: object, parallel: bool | None) -> ToolChoice | None:
    if choice is None:
        return None if parallel is None else ToolChoice(parallel=parallel)
    if choice in MODES:
        return ToolChoice(mode=choice, parallel=parallel)  # type: ignore[arg-type]
    function = object_field(choice, "function", "tool_choice") if isinstance(choice, dict) else None
    if function is None:
        raise Unsupported("tool_choice", "it must be auto, none, required, or name a function")
    return ToolChoice(mode="required", name=required_text(function, "name", "tool_choice.function"), parallel=parallel)


def _function_choice(choice: object) -> ToolChoice | None:
    """Read the legacy `function_call`: auto, none, or the object that names a function."""
    if choice is None:
        return None
    if choice in ("auto", "none"):
        return ToolChoice(mode=choice)
    if not isinstance(choice, dict):
        raise Unsupported("function_call", "it must be auto, none, or name a function")
    return ToolChoice(mode="required", name=required_text(choice, "name", "function_call"))


def _allowed(choice: JsonObject, tools: list[Tool], parallel: bool | None) -> tuple[list[Tool], ToolChoice]:
    """Leave out the tools that are not allowed, since other protocols have no list of allowed tools."""
    place = "tool_choice.allowed_tools"
    allowed = object_field(choice, "allowed_tools", "tool_choice") or choice  # the Responses API has it flat
    mode = text(allowed, "mode", place) or "auto"
    if mode not in ("auto", "required"):
        raise Unsupported(f"{place}.mode", "it must be auto or required")
    names = set()
    for tool, where in objects(list_field(allowed, "tools", place), f"{place}.tools"):
        names.add(required_text(object_field(tool, "function", where) or tool, "name", where))
    if unknown := names.difference(tool.name for tool in tools):
        raise Unreadable(f"{place}.tools", f"{place}.tools must name declared tools; unknown: {min(unknown)[:64]}.")
    kept = [tool for tool in tools if tool.name in names]
    return kept, ToolChoice(mode="required" if mode == "required" else "auto", parallel=parallel)
