"""OpenAI chat completions, the dialect most vendors speak.

Source: https://platform.openai.com/docs/api-reference/chat. Where others differ the rule names them.
"""

from __future__ import annotations

import re

import msgspec

from llm_gateway.domain.catalog import Provider, Target
from llm_gateway.domain.messages import Reply, Request
from llm_gateway.domain.plan import Call, Exchange
from llm_gateway.domain.usage import Usage
from llm_gateway.protocols.base import Malformed, parse
from llm_gateway.protocols.counts import MAX_COUNT, credible, cut, guessed, within
from llm_gateway.providers.decoding import error_of, error_text

JSON_INSTRUCTION = "Answer with a single JSON object."
"""OpenAI refuses `json_object` when no message says JSON."""

REASONS = re.compile(r"o\d(?=[-:@]|$)|gpt-[5-9](?!\d)")
"""Models that know only `max_completion_tokens` and the default temperature, their names without a vendor's before it:
o1, o3-mini, gpt-5, (openai/) gpt-5-mini, gpt-6-sol; not gpt-oss-20b, nor gpt-35-turbo, as Azure calls gpt-3.5.

Sources: https://developers.openai.com/api/docs/guides/reasoning, and "Unsupported value: 'temperature'" of the API.
From GPT-5.1 on a temperature is accepted with reasoning effort `none` alone, whose default differs from model to model.
"""
CHATS = "gpt-5-chat"
"""The one among them that does not reason, and takes a temperature."""

FINISH_REASONS = {
    "length": "length",
    "model_length": "length",  # Mistral: the context is full
    "content_filter": "content_filter",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}
"""Every other word is a way to say stop (Together's `eos`)."""
BROKEN_OFF = frozenset({"error", "insufficient_system_resource"})
"""OpenRouter and Mistral, DeepSeek: the vendor failed in mid-answer."""

NOT_THE_CALLERS = 409
KEY_REFUSED = 403


class _Message(msgspec.Struct, gc=False):
    role: str
    content: str


class _ResponseFormat(msgspec.Struct, gc=False):
    type: str


_JSON_OBJECT = _ResponseFormat("json_object")


class _Body(msgspec.Struct, gc=False, omit_defaults=True):
    model: str
    messages: list[_Message]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    response_format: _ResponseFormat | None = None


class _Part(msgspec.Struct, gc=False):
    text: str | None = None


class _ReplyMessage(msgspec.Struct, gc=False):
    content: str | list[_Part] | None = None
    refusal: str | None = None


class _Choice(msgspec.Struct, gc=False):
    message: _ReplyMessage
    finish_reason: str | None = None


class _PromptDetails(msgspec.Struct, gc=False):
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    audio_tokens: int | None = None


class _CompletionDetails(msgspec.Struct, gc=False):
    reasoning_tokens: int | None = None
    audio_tokens: int | None = None


class _Usage(msgspec.Struct, gc=False):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
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


def encode(request: Request, model: str, *, has_json_mode: bool = True) -> Call:
    """The call that asks `model` for an answer."""
    system, prompt = request.system, request.prompt
    if request.json_mode and "json" not in f"{system}\n{prompt}".lower():
        system = f"{system}\n{JSON_INSTRUCTION}" if system else JSON_INSTRUCTION
    messages = [_Message("system", system), _Message("user", prompt)] if system else [_Message("user", prompt)]
    body = _Body(model, messages)
    name = model.rpartition("/")[2]
    if REASONS.match(name) is None:
        body.max_tokens, body.temperature = request.max_tokens, request.temperature
    else:
        body.max_completion_tokens = request.max_tokens
        if name.startswith(CHATS):
            body.temperature = request.temperature
    if request.json_mode and has_json_mode:
        body.response_format = _JSON_OBJECT
    return Call("/chat/completions", _encoder.encode(body))


def decode(body: bytes) -> Reply:
    """The reply in a 2xx body.

    Raises:
        Malformed: the body is no complete answer.
    """
    completion = parse(_decoder, body, "chat completion")
    if not completion.choices:
        raise Malformed("The answer has no choices")
    choice = completion.choices[0]
    said = choice.finish_reason or "stop"
    if said in BROKEN_OFF:
        raise Malformed(f"The answer was broken off ({said})")
    finish_reason = FINISH_REASONS.get(said, "stop")
    usage, estimated = _usage(completion.usage, content := _content(choice.message, finish_reason))
    return Reply(
        content=content,
        usage=usage,
        finish_reason=finish_reason,
        upstream_model=cut(completion.model),
        upstream_request_id=cut(completion.id),
        usage_estimated=estimated,
    )


def _content(message: _ReplyMessage, finish_reason: str) -> str:
    """The text. Mistral's reasoning models send parts, of which those without text are thoughts."""
    content = message.content
    if isinstance(content, list):
        texts = [part.text for part in content if part.text is not None]
        content = "".join(texts) if texts else None
    if content is None:
        content = message.refusal
    if content is None and finish_reason in ("length", "content_filter"):
        content = ""  # a reasoning model that was cut off before it said anything, or all of it was filtered
    if content is None:
        raise Malformed("The answer has no content")
    return content


def _usage(reported: _Usage | None, content: str) -> tuple[Usage, bool]:
    """The canonical counts, and whether the provider left them out (then only the output can be guessed here)."""
    asked = reported.prompt_tokens if reported is not None else None
    answered = reported.completion_tokens if reported is not None else None
    if reported is None or asked is None or answered is None:
        return guessed(content), True
    if not (0 < asked <= MAX_COUNT and bool(content) <= answered <= MAX_COUNT):
        return guessed(content), True
    into = reported.prompt_tokens_details or _NO_PROMPT_DETAILS
    out = reported.completion_tokens_details or _NO_COMPLETION_DETAILS
    if not (
        into.cached_tokens or into.cache_write_tokens or into.audio_tokens or out.reasoning_tokens or out.audio_tokens
    ):
        return Usage(input_tokens=asked, output_tokens=answered), False
    # xAI counts reasoning beside completion_tokens, which only its total tells:
    # https://docs.cloud.google.com/vertex-ai/generative-ai/docs/partner-models/grok/capabilities/reasoning
    thought = out.reasoning_tokens
    if thought and credible(answered, thought) and reported.total_tokens == asked + answered + thought:
        answered += thought
    return Usage(
        input_tokens=asked,
        output_tokens=answered,
        cache_read_tokens=within(asked, into.cached_tokens),
        cache_write_tokens=within(asked, into.cache_write_tokens),
        audio_input_tokens=within(asked, into.audio_tokens),
        reasoning_tokens=within(answered, out.reasoning_tokens),
        audio_output_tokens=within(answered, out.audio_tokens),
    ), False


def decode_error(body: bytes) -> str:
    """The provider's own message in an error body, or its beginning as text."""
    return error_text(body)


def interpret(refused: Exchange) -> Exchange:
    """Some 400s are not the caller's fault.

    Groq (https://console.groq.com/docs/structured-outputs#json-object-mode) says `json_validate_failed` when its model
    wrote no JSON; xAI refuses a key with a 400 that only its message tells from others.
    """
    if refused.status != 400:
        return refused
    error = error_of(refused.body)
    if error.get("code") == "json_validate_failed":
        return msgspec.structs.replace(refused, status=NOT_THE_CALLERS)
    if str(error.get("message")).startswith("Incorrect API key provided"):
        return msgspec.structs.replace(refused, status=KEY_REFUSED)
    return refused
