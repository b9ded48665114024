"""Anthropic's Messages API.

Sources: https://platform.claude.com/docs/en/api/messages, …/api/errors, …/build-with-claude/handling-stop-reasons and
the pages "What's new in Claude …" of single models.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated, ClassVar

import msgspec

from llm_gateway.domain.catalog import Provider, Target
from llm_gateway.domain.messages import Reply, Request
from llm_gateway.domain.plan import Call, Exchange
from llm_gateway.domain.refusals import Refusal, by_status
from llm_gateway.protocols.anthropic_messages import StreamReader, read_reply, write_request
from llm_gateway.protocols.anthropic_messages.models import MAX_TEMPERATURE, takes_all
from llm_gateway.protocols.anthropic_messages.reply import BLOCKS, FINISH_REASONS
from llm_gateway.protocols.anthropic_messages.usage import ReportedUsage, read_usage
from llm_gateway.protocols.anthropic_messages.writing import JSON_INSTRUCTION, JSON_TOOL
from llm_gateway.protocols.base import Malformed
from llm_gateway.protocols.counts import cut, guessed
from llm_gateway.protocols.lenient import Aside, ReplyDecoder, odd_is
from llm_gateway.providers.base import Wire
from llm_gateway.providers.decoding import error_text

API_VERSION = "2023-06-01"
"""The next one, 2026-10-21, takes no temperature for any model: https://platform.claude.com/docs/en/api/versioning."""
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
    reads: ClassVar = BLOCKS

    type: str
    text: str | None = None
    name: str | None = None
    input: msgspec.Raw = msgspec.Raw(b"")


class _Reply(msgspec.Struct, gc=False):
    content: list[_Block] | None
    id: Aside[str] = None
    model: Aside[str] = None
    stop_reason: Annotated[str | None, odd_is("end_turn")] = None
    usage: Aside[ReportedUsage] = None


_encoder = msgspec.json.Encoder()
_decoder = ReplyDecoder(_Reply, "message")


wires = {
    "anthropic_messages": Wire(
        lambda _model, _stream: "/v1/messages",
        read_reply,
        StreamReader,
        write_request,
        partial(StreamReader, wants_json=True),
    ),
}


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
    is_forced = takes_all(model)
    body = _Body(model, request.max_tokens, [_Message("user", request.prompt)], request.system)
    if is_forced:
        body.temperature = min(request.temperature, MAX_TEMPERATURE)
    if request.json_mode:
        body.system = f"{request.system}\n{JSON_INSTRUCTION}" if request.system else JSON_INSTRUCTION
        body.tools, body.tool_choice = _JSON_TOOLS, _FORCED if is_forced else _UNFORCED
    return Call("/v1/messages", _encoder.encode(body))


def decode(body: bytes) -> Reply:
    """The reply in a 2xx body: its text, or the JSON that was the input of our tool.

    Raises:
        Malformed: the body is no complete answer.
    """
    message = _decoder.decode(body)
    finish_reason: str = FINISH_REASONS.get(message.stop_reason or "", "stop")
    blocks = message.content or []
    content = _json(blocks)
    if content is None:
        content = _text(blocks, message.stop_reason)
    elif finish_reason == "tool_calls":
        finish_reason = "stop"  # the tool was ours
    counted = read_usage(message.usage, has_content=bool(content))
    return Reply(
        content=content,
        usage=guessed(len(content)) if counted is None else counted.usage,
        finish_reason=finish_reason,
        upstream_model=cut(message.model),
        upstream_request_id=cut(message.id),
        usage_estimated=counted is None or counted.is_estimated,
        may_be_kept=bool(content),
    )


def _json(blocks: list[_Block]) -> str | None:
    for block in blocks:
        if block.type == "tool_use" and block.name == JSON_TOOL and (given := bytes(block.input)):
            return given.decode("utf-8", "replace")
    return None


def _text(blocks: list[_Block], stop_reason: str | None) -> str:
    """The text; none where the answer ended without any: handling-stop-reasons."""
    texts = [block.text for block in blocks if block.type == "text" and block.text is not None]
    if not texts and not stop_reason:
        raise Malformed("The answer has no content")
    return "".join(texts)


def decode_error(body: bytes) -> str:
    """The provider's own message in an error body, or its beginning as text."""
    return error_text(body)


def interpret(refused: Exchange) -> Refusal:
    """What a refusal is about.

    An account without credit is refused with 400 `invalid_request_error`, though 402 `billing_error` exists.
    """
    if refused.status == 400 and error_text(refused.body).startswith(OUT_OF_MONEY):
        return Refusal("account")
    return by_status(refused)
