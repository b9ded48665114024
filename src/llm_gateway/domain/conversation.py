"""Canonical chat requests, replies and stream chunks, independent of any vendor's protocol.

Each protocol has one reader into this form and one writer from it, instead of one translator per pair of protocols.
A concept that only some vendors know is an optional field; a writer that cannot express a field drops it by name or
raises `Unsupported` (`protocols/contract.py`).
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

import msgspec

from llm_gateway.domain.usage import Usage

Role: TypeAlias = Literal["system", "developer", "user", "assistant", "tool"]
FinishReason: TypeAlias = Literal["stop", "length", "tool_calls", "content_filter"]
CacheTtl: TypeAlias = Literal["5m", "1h"]
Schema: TypeAlias = dict[str, Any]
"""A JSON schema."""


class Text(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True, tag_field="type", tag="text"):
    """A text part.

    `cache` marks a prompt-cache breakpoint: how long the provider may cache everything up to and including this part.
    `signature` is Gemini's `thoughtSignature`, which the client has to return with the text.
    """

    text: str
    signature: str | None = None
    cache: CacheTtl | None = None


class Image(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True, tag_field="type", tag="image"):
    """An image: exactly one of `data` (base64, with `media_type`), `url`, or `file_id` (uploaded to the provider)."""

    media_type: str | None = None
    data: str | None = None
    url: str | None = None
    file_id: str | None = None
    detail: str | None = None
    cache: CacheTtl | None = None


class File(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True, tag_field="type", tag="file"):
    """A document: exactly one of `data` (base64, with `media_type`), `url`, or `file_id`, as for `Image`."""

    name: str | None = None
    media_type: str | None = None
    data: str | None = None
    url: str | None = None
    file_id: str | None = None
    cache: CacheTtl | None = None


class Audio(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True, tag_field="type", tag="audio"):
    """Audio input: base64 data and its format (`wav`, `mp3`)."""

    data: str
    format: str


class ToolCall(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True, tag_field="type", tag="tool_call"):
    """A tool call by the model. `arguments` is the JSON text that the model wrote; it can be invalid JSON.

    `signature` is Gemini's `thoughtSignature`, which the client has to return with the call.
    """

    id: str
    name: str
    arguments: str
    signature: str | None = None
    cache: CacheTtl | None = None


class ToolResult(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True, tag_field="type", tag="tool_result"):
    """The result of the tool call `call_id`. `name` is the tool's name, None if the client's protocol omits it."""

    call_id: str
    content: list[Text | Image | File]
    name: str | None = None
    is_error: bool = False
    cache: CacheTtl | None = None


class Thinking(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True, tag_field="type", tag="thinking"):
    """A thinking (reasoning) part of a reply.

    `signature` lets the provider verify the text when the client returns it. `redacted` is encrypted thinking
    (Anthropic's `redacted_thinking`, or the encrypted content of a Responses API reasoning item, which
    `protocols/encrypted_reasoning.py` marks).
    """

    text: str = ""
    signature: str | None = None
    redacted: str | None = None


class Refusal(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True, tag_field="type", tag="refusal"):
    """A refusal: the text in which the model declines to answer (OpenAI's `refusal`)."""

    text: str


class VendorPart(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True, tag_field="type", tag="foreign"):
    """A part of a reply that the canonical form cannot express (a custom tool's call, audio output).

    It reaches the client only if the reply passes through untranslated. `kind` is the vendor's type name.
    """

    kind: str


Part: TypeAlias = Text | Image | File | Audio | ToolCall | ToolResult | Thinking | Refusal | VendorPart


class Turn(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """A message. A `tool` turn holds only the ToolResults of one round of calls; `name` is the participant's name."""

    role: Role
    parts: list[Part]
    name: str | None = None


class Tool(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """A function that the model may call. `parameters` is its JSON schema, None if it takes no parameters."""

    name: str
    description: str | None = None
    parameters: Schema | None = None
    strict: bool | None = None
    cache: CacheTtl | None = None


class ToolChoice(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """The tool choice: `mode`, the one tool to call (`name`), and `parallel`, None for the provider's default."""

    mode: Literal["auto", "none", "required"] = "auto"
    name: str | None = None
    parallel: bool | None = None


class ResponseFormat(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """The response format: a JSON object, or JSON that conforms to `schema`."""

    name: str | None = None
    schema: Schema | None = None
    description: str | None = None
    strict: bool | None = None


REASONING_EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
"""Levels of reasoning effort, in ascending order."""


class Reasoning(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """The requested reasoning: `effort` (one of REASONING_EFFORTS) or a budget in tokens.

    `show` is whether to return the thoughts, None for the provider's default. `summary` is the Responses API's level
    of detail (`auto`, `concise`, `detailed`).
    """

    effort: str | None = None
    budget_tokens: int | None = None
    show: bool | None = None
    summary: str | None = None


class Conversation(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """A chat request: the turns so far and the settings for the next one. None selects the provider's default.

    Temperatures use OpenAI's scale, 0 to 2. `logit_bias` maps token ids, as strings, to biases. `cache_key` groups
    requests that share a prompt cache (OpenAI's `prompt_cache_key`).
    """

    turns: list[Turn]
    tools: list[Tool] = []
    tool_choice: ToolChoice | None = None
    format: ResponseFormat | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: list[str] = []
    n: int = 1
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, float] | None = None
    logprobs: bool = False
    top_logprobs: int | None = None
    reasoning: Reasoning | None = None
    verbosity: str | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None
    service_tier: str | None = None
    cache_key: str | None = None


class Choice(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """One of the `n` answers of a reply: Text, Refusal, Thinking, ToolCall and VendorPart parts in the order received.

    `stop_sequence` is the sequence that ended the answer, if the provider reports it. `logprobs` has OpenAI's shape.
    """

    parts: list[Part]
    finish_reason: FinishReason = "stop"
    stop_sequence: str | None = None
    logprobs: dict[str, Any] | None = None


class Completion(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """A complete reply. `model` is the name that the provider reported, `created_s` Unix time in seconds.

    `usage_estimated` is True in two cases. The provider reported no usage: then `usage` has an estimate of the output
    only, and the caller adds the input. Or the totals are plausible, but the count of some kind of token is not.
    `service_tier` and `units` are as in `BillingUpdate`.
    """

    choices: list[Choice]
    usage: Usage = Usage()
    usage_estimated: bool = False
    id: str | None = None
    model: str | None = None
    created_s: int | None = None
    service_tier: str | None = None
    units: dict[str, int] | None = None


# Stream chunks, in the order of the stream. `choice` is the index of the answer (of `n`) that a chunk belongs to.


class ReplyStart(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """The start of a reply: ids and model, no content. At most one per stream, before all other chunks."""

    id: str | None = None
    model: str | None = None
    created_s: int | None = None


class TextDelta(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """More text. `logprobs` has OpenAI's shape. A `signature` ends the part; text that follows starts a new one."""

    text: str
    signature: str | None = None
    choice: int = 0
    logprobs: dict[str, Any] | None = None


class RefusalDelta(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """More text of a refusal."""

    text: str
    choice: int = 0


class ThinkingDelta(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """More thinking. A `signature` or `redacted` ends the part; thinking that follows starts a new one."""

    text: str = ""
    signature: str | None = None
    redacted: str | None = None
    choice: int = 0


class ToolStart(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """The start of a tool call. `call` is its index among the calls of this choice, from 0."""

    call: int
    id: str
    name: str
    signature: str | None = None
    choice: int = 0


class ToolDelta(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """More of the JSON text of a tool call's arguments."""

    call: int
    arguments: str
    choice: int = 0


class VendorPartDelta(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """A piece of a `VendorPart`, or the whole part."""

    kind: str
    choice: int = 0


class ChoiceEnd(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """The end of a choice, with its finish reason."""

    reason: FinishReason = "stop"
    stop_sequence: str | None = None
    choice: int = 0


class UsageUpdate(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """The usage of the whole reply so far. A later `UsageUpdate` replaces an earlier one.

    `is_estimated` is True if the totals are plausible but the count of some kind of token is not.
    """

    usage: Usage
    is_estimated: bool = False


class BillingUpdate(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """Facts that change the price of a reply: its tier, and its units. A later update replaces an earlier one.

    `service_tier` is the tier that served the reply, as in `AttemptRecord`; None is the standard tier. `units` counts
    what is billed apart from tokens ({"web_search": 2}). Replies at the standard tier and without units have none.
    """

    service_tier: str | None = None
    units: dict[str, int] | None = None


Chunk: TypeAlias = (
    ReplyStart
    | TextDelta
    | RefusalDelta
    | ThinkingDelta
    | ToolStart
    | ToolDelta
    | VendorPartDelta
    | ChoiceEnd
    | UsageUpdate
    | BillingUpdate
)

CONTENT = (TextDelta, RefusalDelta, ThinkingDelta, ToolStart, ToolDelta, VendorPartDelta)
"""Chunks that carry content. After the first one is sent to the client, no other provider can be tried."""
