"""OpenAI chat completions, the dialect most vendors speak.

Source: https://platform.openai.com/docs/api-reference/chat. Where others differ the rule names them.
"""

from __future__ import annotations

import re

import msgspec

from llm_gateway.domain.catalog import Provider, Target
from llm_gateway.domain.messages import Reply, Request
from llm_gateway.domain.plan import Call, Exchange
from llm_gateway.domain.refusals import Refusal, by_status
from llm_gateway.protocols import openai_embeddings, openai_responses
from llm_gateway.protocols.base import Malformed
from llm_gateway.protocols.counts import cut, guessed
from llm_gateway.protocols.lenient import Aside, ReplyDecoder
from llm_gateway.protocols.openai_chat import StreamReader, read_reply, write_request
from llm_gateway.protocols.openai_chat.models import reasons, takes_temperature
from llm_gateway.protocols.openai_chat.reply import FinishField, finish_reason
from llm_gateway.protocols.openai_chat.usage import ReportedUsage, read_usage
from llm_gateway.protocols.openai_chat.writing import JSON_INSTRUCTION
from llm_gateway.providers.base import Wire
from llm_gateway.providers.decoding import error_of, error_text

CONTENT_FILTERED = ("content_filter", "content_policy_violation")
"""Azure OpenAI: https://learn.microsoft.com/azure/ai-foundry/openai/concepts/content-filter; OpenRouter, see below."""
_TOO_DEAR = re.compile(r"can only afford [1-9]|^Prompt tokens limit exceeded")
"""OpenRouter's 402 for the price of one request: https://github.com/Gitlawb/openclaude/issues/1125, and
https://github.com/anomalyco/opencode/issues/12219. "can only afford 0" is an account without credit."""


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
    finish_reason: FinishField = None


class _Completion(msgspec.Struct, gc=False):
    choices: list[_Choice]
    id: Aside[str] = None
    model: Aside[str] = None
    usage: Aside[ReportedUsage] = None


_encoder = msgspec.json.Encoder()
_decoder = ReplyDecoder(_Completion, "chat completion")


wires = {
    "openai_chat": Wire(lambda _model, _stream: "/chat/completions", read_reply, StreamReader, write_request),
    "openai_responses": Wire(
        lambda _model, _stream: "/responses", openai_responses.read_reply, openai_responses.StreamReader
    ),
    "openai_embeddings": Wire(lambda _model, _stream: "/embeddings", openai_embeddings.read_reply),
}


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
    if reasons(model):
        body.max_completion_tokens = request.max_tokens
    else:
        body.max_tokens = request.max_tokens
    if takes_temperature(model):
        body.temperature = request.temperature
    if request.json_mode and has_json_mode:
        body.response_format = _JSON_OBJECT
    return Call("/chat/completions", _encoder.encode(body))


def decode(body: bytes) -> Reply:
    """The reply in a 2xx body.

    Raises:
        Malformed: the body is no complete answer.
    """
    completion = _decoder.decode(body)
    if not completion.choices:
        raise Malformed("The answer has no choices")
    choice = completion.choices[0]
    reason = finish_reason(choice.finish_reason)
    content = _content(choice)
    counted = read_usage(completion.usage, has_content=bool(content))
    return Reply(
        content=content,
        usage=guessed(len(content)) if counted is None else counted.usage,
        finish_reason=reason,
        upstream_model=cut(completion.model),
        upstream_request_id=cut(completion.id),
        usage_estimated=counted is None or counted.is_estimated,
        may_be_kept=bool(content),
    )


def _content(choice: _Choice) -> str:
    """The text; none where the answer ended without any. The parts of Mistral's that have no text are thoughts."""
    content = choice.message.content
    if isinstance(content, list):
        texts = [part.text for part in content if part.text is not None]
        content = "".join(texts) if texts else None
    if content is None:
        content = choice.message.refusal
    if content is None and not choice.finish_reason:
        raise Malformed("The answer has no content")
    return content or ""


def decode_error(body: bytes) -> str:
    """The provider's own message in an error body, or its beginning as text."""
    return error_text(body)


def interpret(refused: Exchange) -> Refusal:
    """What a refusal is about, where its status does not say it or says something else.

    Several vendors speak this dialect; each rule names whose it is.
    """
    status = refused.status
    if status not in (400, 402, 403):
        return by_status(refused)
    error = error_of(refused.body)
    code, message = error.get("code"), str(error.get("message"))
    if code in CONTENT_FILTERED or (status == 403 and _is_flagged(error.get("metadata"))):
        return Refusal("request", is_final=True)
    if status == 400 and code == "json_validate_failed":
        # Groq's model wrote no JSON: https://console.groq.com/docs/structured-outputs#json-object-mode
        return Refusal("moment")
    if status == 400 and message.startswith("Incorrect API key provided"):
        return Refusal("account")  # xAI, told from other 400s by its message only
    if status == 403 and (code == "model_not_found" or "does not have access to model" in message):
        # OpenAI's projects: https://github.com/Aider-AI/aider/issues/1903
        return Refusal("model")
    if status == 402 and _TOO_DEAR.search(message):
        return Refusal("request")
    return by_status(refused)


def _is_flagged(metadata: object) -> bool:
    """OpenRouter's moderation: https://openrouter.ai/docs/api/reference/errors-and-debugging, "Moderation Errors"."""
    return isinstance(metadata, dict) and ("reasons" in metadata or "flagged_input" in metadata)
