"""POST /api/v1/generate: decode, the straight line, encode."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Annotated, Any

import msgspec

from llm_gateway.api.auth import Entry
from llm_gateway.api.sentences import invalid
from llm_gateway.api.surface import InFlight, Surface
from llm_gateway.domain.messages import Request, Tags
from llm_gateway.domain.usage import NANOS_PER_USD
from llm_gateway.errors import BadRequest, Invalid
from llm_gateway.gateway import Gateway

MAX_TAGS, MAX_TAG_CHARACTERS = 10, 64
# The pattern is checked apart from decoding, which is faster; here it is for the API's description.
Label = Annotated[str, msgspec.Meta(min_length=1, max_length=256, extra_json_schema={"pattern": r"^[^\x00]*$"})]
_TAG = rf"[A-Za-z0-9_.-]{{1,{MAX_TAG_CHARACTERS}}}=[ -+.-<>-~-]{{0,{MAX_TAG_CHARACTERS}}}"
TAGS_PATTERN = rf"^{_TAG}(,{_TAG}){{0,{MAX_TAGS - 1}}}$"
"""x-tags as described: what is taken beside it are blanks around a part, and values in UTF-8."""
_TAG_KEY = re.compile(rf"[A-Za-z0-9_.-]{{1,{MAX_TAG_CHARACTERS}}}")
_TAG_VALUE = re.compile(rf"[^,=\x00-\x1f\x7f]{{0,{MAX_TAG_CHARACTERS}}}")


class GenerateBody(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The request fields of the reference, with their ranges."""

    user_id: Label
    service: Label
    prompt: Annotated[str, msgspec.Meta(min_length=1)]
    task_type: Label = "general"
    system: str = ""
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=8000)] = 1000
    temperature: Annotated[float, msgspec.Meta(ge=0.0, le=2.0)] = 0.7
    json_mode: bool = False


class GenerateAnswer(msgspec.Struct, gc=False):
    """The response fields of the reference, then two more: why it ended, and how sure the cost is."""

    content: str
    provider: str
    model: str
    input_tokens: int
    output_tokens: int
    cost_usd: float
    cached: bool
    latency_ms: int
    finish_reason: str
    cost_status: str


class Generate(Surface):
    """The endpoint. `timeout_s` is the longest deadline a request may have."""

    def __init__(self, gateway: Gateway, in_flight: InFlight, *, timeout_s: float, log: Callable[..., None]) -> None:
        super().__init__(in_flight, log)
        self._gateway = gateway
        self._timeout_s = timeout_s
        self._decode = msgspec.json.Decoder(GenerateBody).decode
        self._encode = msgspec.json.Encoder().encode

    async def answer(self, entry: Entry, body: bytes) -> bytes:
        """The answer as JSON; errors as `Gateway.generate`'s, and 400 and 422 for what cannot be read."""
        started = time.monotonic()
        request = self._request(entry, self._decoded(body), started)
        answer = await self._gateway.generate(request)
        reply = answer.reply
        return self._encode(
            GenerateAnswer(
                content=reply.content,
                provider=answer.provider,
                model=answer.model,
                input_tokens=reply.usage.input_tokens,
                output_tokens=reply.usage.output_tokens,
                cost_usd=answer.cost_nanos / NANOS_PER_USD,
                cached=answer.cached,
                latency_ms=int((time.monotonic() - started) * 1000),
                finish_reason=reply.finish_reason,
                cost_status=answer.cost_status,
            )
        )

    def _decoded(self, body: bytes) -> GenerateBody:
        try:
            decoded = self._decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            decoded = _decoded_otherwise(body)
        for name, label in (
            ("user_id", decoded.user_id),
            ("service", decoded.service),
            ("task_type", decoded.task_type),
        ):
            if "\0" in label:
                raise Invalid(f"{name} must not contain a NUL character.", loc=("body", name))
        return decoded

    def _request(self, entry: Entry, body: GenerateBody, started: float) -> Request:
        headers = entry.headers
        timeout = headers.get(b"x-request-timeout-ms")
        tags = headers.get(b"x-tags")
        cache_control = headers.get(b"cache-control", b"").lower()
        keep = b"no-store" not in cache_control
        return Request(
            id=entry.request_id,
            at_ms=time.time_ns() // 1_000_000,
            started=started,
            deadline=started + (self._timeout_s if timeout is None else min(self._timeout_s, _seconds(timeout))),
            key_name=entry.caller.name,
            surface="generate",
            user_id=body.user_id,
            service=body.service,
            prompt=body.prompt,
            task_type=body.task_type,
            system=body.system,
            max_tokens=body.max_tokens,
            temperature=body.temperature,
            json_mode=body.json_mode,
            client_request_id=entry.client_request_id,
            tags={} if tags is None else _tags(tags),
            use_cache=b"no-cache" not in cache_control and keep,
            keep_in_cache=keep,
        )


def _seconds(value: bytes) -> float:
    if not value.isdigit() or not value.strip(b"0"):
        raise BadRequest("x-request-timeout-ms takes whole milliseconds, 1 or more.")
    return float(value) / 1000  # not int(), which refuses what has more than 4300 digits


def _tags(value: bytes) -> Tags:
    try:
        entries = value.decode().split(",")
    except UnicodeDecodeError:
        raise BadRequest("x-tags is not UTF-8: encode it so.") from None
    tags: Tags = {}
    for entry in entries:
        key, is_pair, tag = (part.strip(" \t") for part in entry.partition("="))
        if not is_pair or not _TAG_KEY.fullmatch(key) or not _TAG_VALUE.fullmatch(tag):
            raise BadRequest(f"x-tags takes key=value,… of up to {MAX_TAG_CHARACTERS} characters each.")
        tags[key] = tag
    if len(entries) > MAX_TAGS:
        raise BadRequest(f"x-tags takes up to {MAX_TAGS} tags.")
    return tags


def _decoded_otherwise(body: bytes) -> GenerateBody:
    """The body once more: perhaps its max_tokens is spelled 1000.0, as some languages write every number.

    Raises:
        Invalid: that was not it, or not all.
    """
    try:
        fields: Any = msgspec.json.decode(body)
        if isinstance(fields, dict) and isinstance(count := fields.get("max_tokens"), float) and count.is_integer():
            fields["max_tokens"] = int(count)
        return msgspec.convert(fields, GenerateBody)
    except msgspec.ValidationError as error:
        raise invalid(error) from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Invalid(f"The body is no JSON object: {error}.", kind="json_invalid") from None
