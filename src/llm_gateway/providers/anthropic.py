"""Anthropic's Messages API.

Sources: https://platform.claude.com/docs/en/api/messages, …/api/errors, …/build-with-claude/handling-stop-reasons and
the pages "What's new in Claude …" of single models.
"""

from __future__ import annotations

import re

import msgspec

from llm_gateway.domain.catalog import Provider, Target
from llm_gateway.domain.messages import Reply, Request
from llm_gateway.domain.plan import Call, Exchange
from llm_gateway.domain.usage import Usage
from llm_gateway.protocols.base import PARSE_ERRORS, Malformed, parse
from llm_gateway.protocols.counts import credible, cut, guessed, within
from llm_gateway.providers.decoding import error_text

API_VERSION = "2023-06-01"
"""The next one, 2026-10-21, takes no temperature for any model: https://platform.claude.com/docs/en/api/versioning."""
MAX_TEMPERATURE = 1.0

TAKES_ALL = re.compile(
    r".*claude-(?:instant|v?[123](?!\d)|4-(?:opus|sonnet)"
    r"|(?:opus|sonnet|haiku)-4(?:[-.][0-6](?!\d)|(?![-.]\d{1,2}(?!\d))))"
)
"""Claude up to 4.6. Later ones refuse any temperature, many of them a forced tool too (Fable and Mythos 5.1, Opus 5.5,
Sonnet 5.5): https://platform.claude.com/docs/en/models/opus-5-5/whats-new-opus-5-5#forced-tool-use-is-not-supported,
https://platform.claude.com/docs/en/models/haiku-5-5/migration-guide. Others that speak this dialect take all, too.
"""

JSON_TOOL = "json_answer"
JSON_INSTRUCTION = f"Answer only by calling the tool {JSON_TOOL}. Its input is your whole answer, one JSON object."

FINISH_REASONS = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "refusal": "content_filter",
    "tool_use": "tool_calls",
}
"""The others (end_turn, stop_sequence, pause_turn) stop."""

OUT_OF_MONEY = "Your credit balance is too low"


class _Message(msgspec.Struct, gc=False):
    role: str
    content: str


class _Schema(msgspec.Struct, gc=False):
    type: str


class _Tool(msgspec.Struct, gc=False):
    name: str
    description: str
    input_schema: _Schema


class _ToolChoice(msgspec.Struct, gc=False, omit_defaults=True):
    type: str
    name: str | None = None


class _Body(msgspec.Struct, gc=False, omit_defaults=True):
    model: str
    max_tokens: int
    messages: list[_Message]
    system: str = ""
    temperature: float | None = None
    tools: list[_Tool] | None = None
    tool_choice: _ToolChoice | None = None


_JSON_TOOLS = [_Tool(JSON_TOOL, "Takes the whole answer, as one JSON object.", _Schema("object"))]
_FORCED, _UNFORCED = _ToolChoice("tool", JSON_TOOL), _ToolChoice("auto")


class _Block(msgspec.Struct, gc=False):
    type: str
    text: str | None = None
    name: str | None = None
    input: msgspec.Raw = msgspec.Raw(b"")


class _CacheCreation(msgspec.Struct, gc=False):
    ephemeral_5m_input_tokens: int | None = None
    ephemeral_1h_input_tokens: int | None = None


class _OutputDetails(msgspec.Struct, gc=False):
    thinking_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    input_tokens: int | None = None
    output_tokens: int | None = None
    cache_read_input_tokens: int | None = None
    cache_creation_input_tokens: int | None = None
    cache_creation: _CacheCreation | None = None
    output_tokens_details: _OutputDetails | None = None


class _Reply(msgspec.Struct, gc=False):
    content: list[_Block]
    id: str | None = None
    model: str | None = None
    stop_reason: str | None = None
    usage: _Usage | None = None


_NOTHING_CREATED, _NO_DETAILS = _CacheCreation(), _OutputDetails()
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Reply)


def target(provider: Provider, api_key: str, base_url: str) -> Target:
    """Where this provider's calls go and the headers they carry. `base_url` has no version, as in Anthropic's SDK."""
    root = base_url.rstrip("/")
    headers = {
        "x-api-key": api_key,
        "anthropic-version": API_VERSION,
        "content-type": "application/json",
        "accept": "application/json",
    }
    return Target(root=root, models_url=f"{root}/v1/models", headers=headers)


def encode(request: Request, model: str, *, has_json_mode: bool = True) -> Call:
    """The call that asks `model` for an answer.

    There is no JSON mode without a schema, and the answer cannot be begun for newer models (prefill). So the JSON is
    the input of a tool, whose schema is open: forced where a model allows it, else by words, which is the substitute
    that Anthropic names.
    """
    takes_all = "claude" not in model or TAKES_ALL.match(model) is not None
    body = _Body(model, request.max_tokens, [_Message("user", request.prompt)], request.system)
    if takes_all:
        body.temperature = min(request.temperature, MAX_TEMPERATURE)
    if request.json_mode:
        body.system = f"{request.system}\n{JSON_INSTRUCTION}" if request.system else JSON_INSTRUCTION
        body.tools, body.tool_choice = _JSON_TOOLS, _FORCED if takes_all else _UNFORCED
    return Call("/v1/messages", _encoder.encode(body))


def decode(body: bytes) -> Reply:
    """The reply in a 2xx body: its text, or the JSON that was the input of our tool.

    Raises:
        Malformed: the body is no complete answer.
    """
    message = parse(_decoder, body, "message")
    finish_reason = FINISH_REASONS.get(message.stop_reason or "", "stop")
    content = _json(message.content)
    if content is None:
        content = _text(message.content, finish_reason)
    elif finish_reason == "tool_calls":
        finish_reason = "stop"  # the tool was ours
    usage, estimated = _usage(message.usage, content)
    return Reply(
        content=content,
        usage=usage,
        finish_reason=finish_reason,
        upstream_model=cut(message.model),
        upstream_request_id=cut(message.id),
        usage_estimated=estimated,
    )


def _json(blocks: list[_Block]) -> str | None:
    for block in blocks:
        if block.type == "tool_use" and block.name == JSON_TOOL and (given := bytes(block.input)):
            try:
                return given.decode()
            except PARSE_ERRORS as error:
                raise Malformed(f"The answer's JSON is no text: {error}") from None
    return None


def _text(blocks: list[_Block], finish_reason: str) -> str:
    texts = [block.text for block in blocks if block.type == "text" and block.text is not None]
    if not texts and finish_reason not in ("length", "content_filter"):
        raise Malformed("The answer has no content")
    return "".join(texts)


def _usage(reported: _Usage | None, content: str) -> tuple[Usage, bool]:
    """The canonical counts, and whether the provider left them out.

    `input_tokens` counts neither what was read from the cache nor what was written to it: the total is the sum of all
    three. `output_tokens` counts thinking, too.
    """
    if reported is None or reported.input_tokens is None or reported.output_tokens is None:
        return guessed(content), True
    created = reported.cache_creation or _NOTHING_CREATED
    long = created.ephemeral_1h_input_tokens or 0
    read, written = reported.cache_read_input_tokens or 0, reported.cache_creation_input_tokens
    if written is None:
        written = (created.ephemeral_5m_input_tokens or 0) + long
    asked, answered = reported.input_tokens, reported.output_tokens
    if not (
        asked + read + written and (answered or not content) and credible(asked, read, written) and credible(answered)
    ):
        return guessed(content), True
    thought = (reported.output_tokens_details or _NO_DETAILS).thinking_tokens
    return Usage(
        input_tokens=asked + read + written,
        output_tokens=answered,
        cache_read_tokens=read,
        cache_write_tokens=written,
        cache_write_1h_tokens=within(written, long),
        reasoning_tokens=within(answered, thought),
    ), False


def decode_error(body: bytes) -> str:
    """The provider's own message in an error body, or its beginning as text."""
    return error_text(body)


def interpret(refused: Exchange) -> Exchange:
    """An account without credit is refused with 400 `invalid_request_error`, though 402 `billing_error` exists."""
    if refused.status == 400 and error_text(refused.body).startswith(OUT_OF_MONEY):
        return msgspec.structs.replace(refused, status=402)
    return refused
