"""Conversations in canonical form: what every protocol is read into and written from.

Three surfaces and three dialects meet here, so there are translators for each, not one for each pair. What all
protocols share has one place each; what only some know is a field that others leave out, and a writer that cannot
express a field says so (`protocols/contract.py`).
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
    """Text.

    `cache` is how long the provider may keep everything up to here (a prompt-cache breakpoint); `signature` is what
    Gemini wants back with the text (`thoughtSignature`).
    """

    text: str
    signature: str | None = None
    cache: CacheTtl | None = None


class Image(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True, tag_field="type", tag="image"):
    """A picture: `data` (base64) with its `media_type`, or a `url`, or a `file_id` at the provider; one of them."""

    media_type: str | None = None
    data: str | None = None
    url: str | None = None
    file_id: str | None = None
    detail: str | None = None
    cache: CacheTtl | None = None


class File(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True, tag_field="type", tag="file"):
    """A document, given as an `Image` is."""

    name: str | None = None
    media_type: str | None = None
    data: str | None = None
    url: str | None = None
    file_id: str | None = None
    cache: CacheTtl | None = None


class Audio(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True, tag_field="type", tag="audio"):
    """Sound: base64 and its format (`wav`, `mp3`)."""

    data: str
    format: str


class ToolCall(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True, tag_field="type", tag="tool_call"):
    """The model calls a tool. `arguments` is JSON text as the model wrote it, perhaps invalid.

    `signature`: what Gemini wants back with the call (`thoughtSignature`).
    """

    id: str
    name: str
    arguments: str
    signature: str | None = None
    cache: CacheTtl | None = None


class ToolResult(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True, tag_field="type", tag="tool_result"):
    """What the call `call_id` brought. `name` is the tool's, where it is known."""

    call_id: str
    content: list[Text | Image | File]
    name: str | None = None
    is_error: bool = False
    cache: CacheTtl | None = None


class Thinking(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True, tag_field="type", tag="thinking"):
    """What the model thought, as far as it is shown.

    `signature` lets its provider check it when it comes back. `redacted` is the sealed form of what is not shown
    (Anthropic's `redacted_thinking`, the encrypted content of a Responses reasoning item); `text` is empty then.
    """

    text: str = ""
    signature: str | None = None
    redacted: str | None = None


class Refusal(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True, tag_field="type", tag="refusal"):
    """The model declines, in words."""

    text: str


class Foreign(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True, tag_field="type", tag="foreign"):
    """Something of an answer that only its own protocol knows (a custom tool's call, sound).

    It passes through, or not at all. `kind` is the vendor's word for it.
    """

    kind: str


Part: TypeAlias = Text | Image | File | Audio | ToolCall | ToolResult | Thinking | Refusal | Foreign


class Turn(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """One message. A `tool` turn holds ToolResults only, those of one round together; `name` is the speaker's."""

    role: Role
    parts: list[Part]
    name: str | None = None


class Tool(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """A function the model may call; `parameters` None: it takes none."""

    name: str
    description: str | None = None
    parameters: Schema | None = None
    strict: bool | None = None
    cache: CacheTtl | None = None


class ToolChoice(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """Whether tools may, must or must not be called; `name`: which one must. `parallel` None: as the provider likes."""

    mode: Literal["auto", "none", "required"] = "auto"
    name: str | None = None
    parallel: bool | None = None


class Format(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """What the answer must be: a JSON object, or JSON that fits `schema`."""

    name: str | None = None
    schema: Schema | None = None
    description: str | None = None
    strict: bool | None = None


REASONING_WORDS = ("none", "minimal", "low", "medium", "high", "xhigh", "max")
"""From not at all to as much as can be."""


class Reasoning(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """How much the model shall think: in one of REASONING_WORDS or in tokens.

    `show` None: as the provider likes; `summary` is the Responses API's (`auto`, `concise`, `detailed`).
    """

    effort: str | None = None
    budget_tokens: int | None = None
    show: bool | None = None
    summary: str | None = None


class Conversation(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """A request for the next turn of a conversation. None: not said, the provider's own default holds.

    Temperatures are OpenAI's scale, 0 to 2. `logit_bias` is keyed by token id as text.
    """

    turns: list[Turn]
    tools: list[Tool] = []
    tool_choice: ToolChoice | None = None
    format: Format | None = None
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


class Choice(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """One answer: Text, Refusal, Thinking, ToolCall and Foreign parts in the order they came.

    `stop_sequence` is the one that ended it, where the provider says so. `logprobs` is OpenAI's document of them.
    """

    parts: list[Part]
    finish_reason: FinishReason = "stop"
    stop_sequence: str | None = None
    logprobs: dict[str, Any] | None = None


class Completion(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """A whole reply. `model` is the name the provider reported, `created_s` seconds since 1970.

    `usage_estimated`: the provider counted nothing; then only the output is guessed, the input is the caller's to add.
    Or it counted kinds of tokens in a way that cannot be believed, beside totals that can.
    """

    choices: list[Choice]
    usage: Usage = Usage()
    usage_estimated: bool = False
    id: str | None = None
    model: str | None = None
    created_s: int | None = None


# A reply in pieces, in the order they come. `choice` says which of n answers a piece belongs to.


class Begin(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """The reply begins; nothing of its content is known. At most one, first."""

    id: str | None = None
    model: str | None = None
    created_s: int | None = None


class TextDelta(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """More text; `logprobs` is OpenAI's document for it. A `signature` ends the text: what follows is another part."""

    text: str
    signature: str | None = None
    choice: int = 0
    logprobs: dict[str, Any] | None = None


class RefusalDelta(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """More of a refusal."""

    text: str
    choice: int = 0


class ThinkingDelta(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """More of a thought. A `signature` or `redacted` ends it: what follows is another one."""

    text: str = ""
    signature: str | None = None
    redacted: str | None = None
    choice: int = 0


class ToolBegin(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """A tool call begins; `call` numbers the calls of a choice from 0."""

    call: int
    id: str
    name: str
    signature: str | None = None
    choice: int = 0


class ToolDelta(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """More of a call's arguments."""

    call: int
    arguments: str
    choice: int = 0


class ForeignDelta(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """Some of a `Foreign` part, or all of it."""

    kind: str
    choice: int = 0


class Finish(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """A choice is complete."""

    reason: FinishReason = "stop"
    stop_sequence: str | None = None
    choice: int = 0


class Counted(msgspec.Struct, kw_only=True, gc=False, omit_defaults=True):
    """What the whole reply took, as far as it is known now: a later one replaces it.

    `is_estimated`: the totals can be believed, but not all counts of single kinds of tokens.
    """

    usage: Usage
    is_estimated: bool = False


Chunk: TypeAlias = (
    Begin | TextDelta | RefusalDelta | ThinkingDelta | ToolBegin | ToolDelta | ForeignDelta | Finish | Counted
)

CONTENT = (TextDelta, RefusalDelta, ThinkingDelta, ToolBegin, ToolDelta, ForeignDelta)
"""The chunks that hold some of the answer. The first of them handed to the client is the commit point."""
