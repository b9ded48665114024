"""OpenAI's Responses API of the mock vendor: what it refuses, and what it answers. Pure.

Requests are checked by the types of OpenAI's SDK (`sdk_types.py`) and by the rules below, each with its source. A model
with tools calls the first function, and answers with text once its input contains a result.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from time import time
from typing import Any

import msgspec

from tests.upstream import answers
from tests.upstream.sdk_types import Problem, problem_with

REASONING = re.compile(r"gpt-5(?!-chat)|gpt-6|o[134]")
"""Models that reason: https://developers.openai.com/api/docs/guides/reasoning."""
RESPONSES_ONLY = re.compile(r"(o\d|gpt-5(\.\d)?)-(pro|codex)|o3-deep-research|computer-use-preview")
"""Some of the models that chat completions refuse."""
REFUSES_TOOLS_WITH_EFFORT, REFUSES_TOOLS = re.compile(r"gpt-5\.[45]"), re.compile(r"gpt-5\.[6-9]|gpt-6")
"""https://github.com/pipecat-ai/pipecat/issues/4043, https://github.com/BerriAI/litellm/pull/34569."""
SEALED = re.compile(r"gAAAAAmock\d+")
"""The `encrypted_content` that this mock issues, and accepts."""
ARGUMENTS = '{"city": "Paris"}'
"""Arguments of the tool calls."""
SUMMARY = "I look it up."
MOST_ID_CHARACTERS, LEAST_TOKENS = 64, 16


def chat_problem(model: str, tools: Any, effort: str | None) -> tuple[int, Problem] | None:
    """Return why chat completions refuse this model or its tools: status and error."""
    if RESPONSES_ONLY.match(model):
        message = "This model is only supported in v1/responses and not in v1/chat/completions."
        return 404, Problem(message, "model", None)
    if not tools or effort == "none":
        return None
    if REFUSES_TOOLS.match(model) or (effort is not None and REFUSES_TOOLS_WITH_EFFORT.match(model)):
        message = f"Function tools with reasoning_effort are not supported for {model} in /v1/chat/completions."
        return 400, Problem(f"{message} Please use /v1/responses instead.", "reasoning_effort", None)
    return None


def problem_in(document: Any) -> Problem | None:
    """Return why the API refuses a request, None if it takes it."""
    from openai.types.responses.response_create_params import ResponseCreateParamsBase  # slow to import

    if not isinstance(document, dict):
        return Problem("Invalid request body.", None, None)
    known = {name: value for name, value in document.items() if name != "stream"}
    problem = problem_with(known, ResponseCreateParamsBase)
    if problem is not None:
        return problem
    if "model" not in document or not document.get("input"):
        field = "model" if "model" not in document else "input"
        return Problem(f"Missing required parameter: '{field}'.", field, "missing_required_parameter")
    return _problem_with_settings(document) or _problem_with_input(document) or _problem_with_tools(document)


def _problem_with_settings(document: dict[str, Any]) -> Problem | None:
    model, reasons = document["model"], REASONING.match(document["model"]) is not None
    if document.get("store") is not False:
        return Problem("The gateway must not let responses be stored.", "store", None)  # a rule of the gateway's own
    limit = document.get("max_output_tokens")
    if limit is not None and limit < LEAST_TOKENS:  # https://github.com/vectorize-io/hindsight/issues/58
        message = f"integer below minimum value. Expected a value >= {LEAST_TOKENS}, but got {limit} instead."
        return Problem(f"Invalid 'max_output_tokens': {message}", "max_output_tokens", "integer_below_min_value")
    for name in ("temperature", "top_p") if reasons else ("reasoning",):
        if document.get(name) is not None:
            message = f"Unsupported parameter: '{name}' is not supported with this model."
            return Problem(message, name, "unsupported_parameter")
    if not reasons and "reasoning.encrypted_content" in (document.get("include") or ()):
        # https://github.com/NousResearch/hermes-agent/pull/24234
        return Problem("Encrypted content is not supported with this model.", "include", None)
    effort = (document.get("reasoning") or {}).get("effort")
    if model.startswith("gpt-5-pro") and effort not in (
        None,
        "high",
    ):  # https://github.com/anomalyco/models.dev/pull/331
        message = f"Unsupported value: '{effort}' is not supported with the '{model}' model."
        return Problem(message, "reasoning.effort", "unsupported_value")
    return None


def _problem_with_input(document: dict[str, Any]) -> Problem | None:
    items = document["input"] if isinstance(document["input"], list) else []
    calls = {item["call_id"] for item in items if item.get("type") == "function_call"}
    results = {item.get("call_id") for item in items if item.get("type") == "function_call_output"}
    for number, item in enumerate(items):
        kind, place = item.get("type", "message"), f"input[{number}]"
        call_id = str(item.get("call_id"))
        if len(call_id) > MOST_ID_CHARACTERS:  # https://github.com/AnswerDotAI/fastllm/issues/45
            message = f"Invalid '{place}.call_id': string too long. Expected a string with maximum length 64"
            return Problem(message, f"{place}.call_id", "string_above_max_length")
        if kind == "function_call" and call_id not in results:
            return Problem(f"No tool output found for function call {call_id}.", "input", None)
        if kind == "function_call_output" and call_id not in calls:
            return Problem(f"No tool call found for function call output with call_id {call_id}.", "input", None)
        problem = _problem_with_reasoning(items, number) if kind == "reasoning" else _problem_with_message(item, place)
        if problem is not None:
            return problem
    wanted = ((document.get("text") or {}).get("format") or {}).get("type")
    if wanted == "json_object" and "json" not in str(document["input"]).lower():
        # https://github.com/miracodeai/mira/pull/267
        message = "Response input messages must contain the word 'json' in some form to use 'text.format' of type"
        return Problem(f"{message} 'json_object'.", "input", None)
    return None


def _problem_with_reasoning(items: Sequence[dict[str, Any]], number: int) -> Problem | None:
    """Check a reasoning item: https://github.com/microsoft/agent-framework-go/pull/784 and others."""
    item = items[number]
    if item.get("content"):
        message = f"Invalid 'input[{number}].content': array too long. Expected an array with maximum length 0"
        return Problem(message, f"input[{number}].content", "array_above_max_length")
    if not SEALED.fullmatch(str(item.get("encrypted_content"))):
        return Problem("The encrypted content could not be verified.", None, "invalid_encrypted_content")
    after = items[number + 1] if number + 1 < len(items) else {}
    if after.get("type") not in ("reasoning", "function_call") and after.get("role") != "assistant":
        message = "was provided without its required following item."
        return Problem(f"Item '{item.get('id')}' of type 'reasoning' {message}", "input", None)
    return None


def _problem_with_message(item: dict[str, Any], place: str) -> Problem | None:
    """Check that a message has parts of its role only."""
    if not isinstance(item.get("content"), list):
        return None
    is_answer = item.get("role") == "assistant"
    allowed = ("output_text", "refusal") if is_answer else ("input_text", "input_image", "input_file")
    for number, part in enumerate(item["content"]):
        if part["type"] not in allowed:
            listed = " and ".join([f"'{each}'" for each in allowed])
            message = f"Invalid value: '{part['type']}'. Supported values are: {listed}."
            return Problem(message, f"{place}.content[{number}]", "invalid_value")
    return None


def _problem_with_tools(document: dict[str, Any]) -> Problem | None:
    for number, tool in enumerate(document.get("tools") or ()):
        schema = tool.get("parameters") or {}
        if tool["type"] == "function" and schema.get("type") == "object" and "properties" not in schema:
            message = f"Invalid schema for function '{tool['name']}': object schema missing properties."
            return Problem(message, f"tools[{number}].parameters", "invalid_function_parameters")
    return None


def prompt_of(document: dict[str, Any]) -> str:
    """Return the text of the last user message."""
    given = document.get("input")
    if isinstance(given, str):
        return given
    for item in reversed(given if isinstance(given, list) else []):
        if isinstance(item, dict) and item.get("role") == "user":
            content = item.get("content")
            if isinstance(content, str):
                return content
            return "".join(part.get("text", "") for part in content or () if isinstance(part, dict))
    return ""


def response(kind: str, n: int, call_id: str, document: dict[str, Any]) -> dict[str, Any]:
    """Return the answer to the n-th call as a response object. `kind` is one of `behaviour.SHAPES`."""
    model = document["model"]
    reasons = REASONING.match(model) is not None
    output = [_reasoning(n, document)] if reasons else []
    tools = [tool for tool in document.get("tools") or () if tool["type"] == "function"]
    has_result = "function_call_output" in str(document["input"])
    if tools and not has_result and document.get("tool_choice") != "none":
        call = {"call_id": f"call_{n}", "name": tools[0]["name"], "arguments": ARGUMENTS, "status": "completed"}
        output.append({"type": "function_call", "id": f"fc_{n}", **call})
    else:
        text = answers.content(kind, call_id, prompt_of(document)) or ""
        part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
        about = {"type": "message", "id": f"msg_{n}", "role": "assistant", "status": "completed"}
        output.append({**about, "content": [part]})
    into, out = answers.prompt_tokens(n), answers.completion_tokens(n)
    usage = {
        "input_tokens": into,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": out,
        "output_tokens_details": {"reasoning_tokens": 3 if reasons else 0},
        "total_tokens": into + out,
    }
    return {
        **_head(call_id, document),
        "status": "incomplete" if kind == "length" else "completed",
        "incomplete_details": {"reason": "max_output_tokens"} if kind == "length" else None,
        "output": output,
        "usage": None if kind == "no-usage" else usage,
    }


def _head(call_id: str, document: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": call_id,
        "object": "response",
        "created_at": int(time()),
        "model": document["model"],
        "error": None,
        "instructions": document.get("instructions"),
        "metadata": {},
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": document.get("tool_choice", "auto"),
        "tools": document.get("tools") or [],
        "top_p": 1.0,
        "store": False,
    }


def _reasoning(n: int, document: dict[str, Any]) -> dict[str, Any]:
    wants_summary = (document.get("reasoning") or {}).get("summary") is not None
    item = {
        "type": "reasoning",
        "id": f"rs_{n}",
        "summary": [{"type": "summary_text", "text": SUMMARY}] if wants_summary else [],
    }
    if "reasoning.encrypted_content" in (document.get("include") or ()):
        item["encrypted_content"] = f"gAAAAAmock{n}"
    return item


def events(whole: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the events of a streamed response: https://platform.openai.com/docs/api-reference/responses-streaming."""
    begun = {**whole, "status": "in_progress", "incomplete_details": None, "output": [], "usage": None}
    written: list[dict[str, Any]] = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
    ]
    for index, item in enumerate(whole["output"]):
        place = {"item_id": item["id"], "output_index": index}
        written.append({"type": "response.output_item.added", "output_index": index, "item": _begun(item)})
        if item["type"] == "function_call":
            written += _deltas("function_call_arguments", item["arguments"], "arguments", place, name=item["name"])
        for number, part in enumerate(item.get("summary", ())):
            within = {**place, "summary_index": number}
            empty = {"type": "summary_text", "text": ""}
            written.append({"type": "response.reasoning_summary_part.added", **within, "part": empty})
            written += _deltas("reasoning_summary_text", part["text"], "text", within)
            written.append({"type": "response.reasoning_summary_part.done", **within, "part": part})
        for number, part in enumerate(item.get("content", ())):
            within = {**place, "content_index": number}
            written.append({"type": "response.content_part.added", **within, "part": {**part, "text": ""}})
            written += _deltas("output_text", part["text"], "text", within, logprobs=[])
            written.append({"type": "response.content_part.done", **within, "part": part})
        written.append({"type": "response.output_item.done", "output_index": index, "item": item})
    written.append({"type": f"response.{whole['status']}", "response": whole})
    return [{**event, "sequence_number": number} for number, event in enumerate(written)]


def _begun(item: dict[str, Any]) -> dict[str, Any]:
    """Return an item as it is when it begins."""
    empty: dict[str, dict[str, Any]] = {
        "message": {"content": []},
        "function_call": {"arguments": ""},
        "reasoning": {"summary": []},
    }
    return {**item, **empty[item["type"]], **({"status": "in_progress"} if "status" in item else {})}


def _deltas(kind: str, text: str, field: str, place: dict[str, Any], **more: Any) -> list[dict[str, Any]]:
    middle = len(text) // 2
    logprobs = {"logprobs": more["logprobs"]} if "logprobs" in more else {}
    pieces = [
        {"type": f"response.{kind}.delta", **place, "delta": piece, **logprobs}
        for piece in (text[:middle], text[middle:])
    ]
    return [*pieces, {"type": f"response.{kind}.done", **place, field: text, **more}]


def encoded_events(whole: dict[str, Any]) -> bytes:
    """Return the body of a streamed response."""
    return b"".join(
        b"event: %b\ndata: %b\n\n" % (event["type"].encode(), msgspec.json.encode(event)) for event in events(whole)
    )
