"""OpenAI chat completions, the dialect most vendors speak.

Source: https://platform.openai.com/docs/api-reference/chat
"""

from __future__ import annotations

from typing import Any

import msgspec

from llm_gateway.domain.catalog import Provider, Target
from llm_gateway.domain.messages import Reply, Request
from llm_gateway.domain.plan import Call
from llm_gateway.domain.usage import Usage
from llm_gateway.providers.base import MalformedReply

ERROR_TEXT_CHARACTERS = 2000
"""More than is shown, so that secrets are found whole before the rest is cut."""
MAX_COUNT = 10**9
"""Tokens; no call has more, so a larger count is none."""
NAME_CHARACTERS = 256
"""What is kept of a model's name, an id or a finish reason: a record must not grow with what a provider makes up."""

JSON_INSTRUCTION = "Answer with a single JSON object."
"""OpenAI refuses `json_object` when no message says JSON."""


class _Message(msgspec.Struct, gc=False):
    role: str
    content: str


class _ResponseFormat(msgspec.Struct, gc=False):
    type: str


_JSON_OBJECT = _ResponseFormat("json_object")


class _Body(msgspec.Struct, gc=False, omit_defaults=True):
    model: str
    messages: list[_Message]
    max_tokens: int
    temperature: float
    response_format: _ResponseFormat | None = None


class _ReplyMessage(msgspec.Struct, gc=False):
    content: str | None = None
    refusal: str | None = None


class _Choice(msgspec.Struct, gc=False):
    message: _ReplyMessage
    finish_reason: str | None = None


class _PromptDetails(msgspec.Struct, gc=False):
    cached_tokens: int | None = None
    audio_tokens: int | None = None


class _CompletionDetails(msgspec.Struct, gc=False):
    reasoning_tokens: int | None = None
    audio_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _PromptDetails | None = None
    completion_tokens_details: _CompletionDetails | None = None


class _Completion(msgspec.Struct, gc=False):
    choices: list[_Choice]
    id: str | None = None
    model: str | None = None
    usage: _Usage | None = None


_NO_PROMPT_DETAILS, _NO_COMPLETION_DETAILS = _PromptDetails(), _CompletionDetails()
_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Completion)


def target(provider: Provider, api_key: str, base_url: str) -> Target:
    """Where this provider's calls go and the headers they carry."""
    root = base_url.rstrip("/")
    headers = {"authorization": f"Bearer {api_key}", "content-type": "application/json", "accept": "application/json"}
    return Target(root=root, models_url=f"{root}/models", headers=headers)


def encode(request: Request, model: str) -> Call:
    """The call that asks `model` for an answer."""
    system, prompt = request.system, request.prompt
    if request.json_mode and "json" not in f"{system}\n{prompt}".lower():
        system = f"{system}\n{JSON_INSTRUCTION}" if system else JSON_INSTRUCTION
    messages = [_Message("system", system), _Message("user", prompt)] if system else [_Message("user", prompt)]
    response_format = _JSON_OBJECT if request.json_mode else None
    body = _Body(model, messages, request.max_tokens, request.temperature, response_format)
    return Call("/chat/completions", _encoder.encode(body))


def decode(body: bytes) -> Reply:
    """The reply in a 2xx body.

    Raises:
        MalformedReply: the body is no complete answer.
    """
    try:
        completion = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedReply(f"The answer is no chat completion: {error}") from None
    if not completion.choices:
        raise MalformedReply("The answer has no choices")
    choice = completion.choices[0]
    content = choice.message.content if choice.message.content is not None else choice.message.refusal
    if content is None and choice.finish_reason == "length":
        content = ""  # a reasoning model that was cut off before it said anything
    if content is None:
        raise MalformedReply("The answer has no content")
    usage, estimated = _usage(completion.usage, content)
    return Reply(
        content=content,
        usage=usage,
        finish_reason=(choice.finish_reason or "stop")[:NAME_CHARACTERS],
        upstream_model=_cut(completion.model),
        upstream_request_id=_cut(completion.id),
        usage_estimated=estimated,
    )


def _usage(reported: _Usage | None, content: str) -> tuple[Usage, bool]:
    """The canonical counts, and whether the provider left them out (then only the output can be guessed here)."""
    asked = reported.prompt_tokens if reported is not None else None
    answered = reported.completion_tokens if reported is not None else None
    if reported is None or asked is None or answered is None or not _credible(asked) or not _credible(answered):
        return Usage(output_tokens=len(content) // 4 + 1), True
    into = reported.prompt_tokens_details or _NO_PROMPT_DETAILS
    out = reported.completion_tokens_details or _NO_COMPLETION_DETAILS
    if not (into.cached_tokens or into.audio_tokens or out.reasoning_tokens or out.audio_tokens):
        return Usage(input_tokens=asked, output_tokens=answered), False
    return Usage(
        input_tokens=asked,
        output_tokens=answered,
        cache_read_tokens=_within(asked, into.cached_tokens),
        audio_input_tokens=_within(asked, into.audio_tokens),
        reasoning_tokens=_within(answered, out.reasoning_tokens),
        audio_output_tokens=_within(answered, out.audio_tokens),
    ), False


def _cut(name: str | None) -> str | None:
    return name if name is None else name[:NAME_CHARACTERS]


def _credible(count: int) -> bool:
    return 0 <= count <= MAX_COUNT


def _within(total: int, part: int | None) -> int:
    return min(max(part or 0, 0), total)


def decode_error(body: bytes) -> str:
    """The provider's own message in an error body, or its beginning as text."""
    try:
        document: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        document = None
    if isinstance(document, dict):
        error = document.get("error", document)
        message = error.get("message") if isinstance(error, dict) else error
        if isinstance(message, str) and message:
            return message[:ERROR_TEXT_CHARACTERS]
    return body[:ERROR_TEXT_CHARACTERS].decode("utf-8", "replace").strip()
