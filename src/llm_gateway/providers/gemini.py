"""Google's Gemini API, generateContent.

Sources: https://ai.google.dev/api/generate-content, https://ai.google.dev/gemini-api/docs/troubleshooting, and
https://cloud.google.com/apis/design/errors for `ErrorInfo` and `RetryInfo`.
"""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import quote

import msgspec

from llm_gateway.domain.catalog import Provider, Target
from llm_gateway.domain.messages import Reply, Request
from llm_gateway.domain.plan import Call, Exchange
from llm_gateway.domain.refusals import Refusal, by_status
from llm_gateway.protocols.base import Malformed
from llm_gateway.protocols.counts import cut, guessed
from llm_gateway.protocols.gemini import StreamReader, read_reply, write_request
from llm_gateway.protocols.gemini.reply import FinishField, finish_reason
from llm_gateway.protocols.gemini.usage import ReportedUsage, read_usage
from llm_gateway.protocols.gemini.writing import MAX_TEMPERATURE
from llm_gateway.protocols.lenient import Aside, ReplyDecoder, odd_is
from llm_gateway.providers.base import Wire
from llm_gateway.providers.decoding import error_of, error_text


class _Part(msgspec.Struct, gc=False, omit_defaults=True):
    text: str | None = None
    thought: Annotated[bool | None, odd_is(True)] = None


class _Content(msgspec.Struct, gc=False, omit_defaults=True):
    parts: list[_Part] | None = None
    role: Aside[str] = None


class _Generation(msgspec.Struct, gc=False, omit_defaults=True, rename="camel"):
    max_output_tokens: int
    temperature: float
    response_mime_type: str | None = None


class _Body(msgspec.Struct, gc=False, omit_defaults=True, rename="camel"):
    contents: list[_Content]
    generation_config: _Generation
    system_instruction: _Content | None = None


class _Candidate(msgspec.Struct, gc=False, rename="camel"):
    content: _Content | None = None
    finish_reason: FinishField = None


class _Feedback(msgspec.Struct, gc=False, rename="camel"):
    block_reason: Annotated[str | None, odd_is("OTHER")] = None


class _Reply(msgspec.Struct, gc=False, rename="camel"):
    candidates: list[_Candidate] | None = None
    prompt_feedback: Aside[_Feedback] = None
    usage_metadata: Aside[ReportedUsage] = None
    model_version: Aside[str] = None
    response_id: Aside[str] = None


_encoder = msgspec.json.Encoder()
_decoder = ReplyDecoder(_Reply, "generated content")


def target(provider: Provider, api_key: str, base_url: str) -> Target:
    """Where this provider's calls go and the headers they carry. `base_url` has no version, as in Google's SDK."""
    root = base_url.rstrip("/")
    headers = {"x-goog-api-key": api_key, "content-type": "application/json", "accept": "application/json"}
    return Target(root=root, models_url=f"{root}/v1beta/models", headers=headers)


def path_of(model: str) -> str:
    """A model's path; its name may say already that it is one of `models/` or `tunedModels/`."""
    kind, slash, name = model.partition("/")
    if slash and kind in ("models", "tunedModels"):
        return f"/v1beta/{kind}/{quote(name, safe='')}"
    return f"/v1beta/models/{quote(model, safe='')}"


def _call_path(model: str, stream: bool) -> str:
    return f"{path_of(model)}:{'streamGenerateContent?alt=sse' if stream else 'generateContent'}"


wires = {"gemini": Wire(_call_path, read_reply, StreamReader, write_request)}


def encode(request: Request, model: str, *, has_json_mode: bool = True) -> Call:
    """The call that asks `model` for an answer. Its thoughts count against `max_tokens`."""
    body = _Body(
        [_Content([_Part(request.prompt)], "user")],
        _Generation(request.max_tokens, min(request.temperature, MAX_TEMPERATURE)),
    )
    if request.system:
        body.system_instruction = _Content([_Part(request.system)])
    if request.json_mode:
        body.generation_config.response_mime_type = "application/json"
    return Call(_call_path(model, False), _encoder.encode(body))


def decode(body: bytes) -> Reply:
    """The reply in a 2xx body. A prompt or an answer that was blocked is one: empty, or cut where it was stopped.

    Raises:
        Malformed: the body is no complete answer.
    """
    answer = _decoder.decode(body)
    if answer.candidates:
        content, reason = _content(answer.candidates[0])
    elif answer.prompt_feedback is not None and answer.prompt_feedback.block_reason:
        content, reason = "", "content_filter"
    else:
        raise Malformed("The answer has no candidates")
    counted = read_usage(answer.usage_metadata, has_content=bool(content))
    return Reply(
        content=content,
        usage=guessed(len(content)) if counted is None else counted.usage,
        finish_reason=reason,
        upstream_model=cut(answer.model_version),
        upstream_request_id=cut(answer.response_id),
        usage_estimated=counted is None or counted.is_estimated,
        may_be_kept=bool(content),
    )


def _content(candidate: _Candidate) -> tuple[str, str]:
    """The text without thoughts, and the canonical finish reason."""
    reason = finish_reason(candidate.finish_reason or "STOP")
    parts = (candidate.content.parts if candidate.content is not None else None) or []
    texts = [part.text for part in parts if part.text is not None and not part.thought]
    if not texts and not candidate.finish_reason:
        raise Malformed("The answer has no content")
    return "".join(texts), reason


def decode_error(body: bytes) -> str:
    """The provider's own message in an error body, or its beginning as text."""
    return error_text(body)


def interpret(refused: Exchange) -> Refusal:
    """What a refusal is about. A bad key is a 400 (`API_KEY_INVALID`); a 429 says in its body how long to wait."""
    refusal = by_status(refused)
    if refused.status not in (400, 429):
        return refusal
    given = error_of(refused.body).get("details")
    details = [detail for detail in given if isinstance(detail, dict)] if isinstance(given, list) else []
    if refused.status == 400:
        invalid = any(detail.get("reason") in ("API_KEY_INVALID", "API_KEY_EXPIRED") for detail in details)
        return Refusal("account") if invalid else refusal
    waits = [wait for detail in details if (wait := _seconds(detail.get("retryDelay"))) is not None]
    if refused.retry_after_s is not None or not waits:
        return refusal
    return Refusal("moment", retry_after_s=max(waits))


def _seconds(duration: Any) -> float | None:
    """Seconds of a `google.protobuf.Duration` in JSON: "37.8s"."""
    if not isinstance(duration, str) or not duration.endswith("s") or not duration[:-1].replace(".", "", 1).isdecimal():
        return None
    return float(duration[:-1])
