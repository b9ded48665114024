"""Carry reasoning that its vendor signed or encrypted through the opaque strings that clients return unchanged.

Responses clients keep one such string per reasoning item (`encrypted_content`), Anthropic's and Gemini's keep a
`signature`: https://platform.openai.com/docs/guides/reasoning#encrypted-reasoning-items. Two kinds of content go into
the string of another vendor's protocol:

- Anthropic's reasoning. It accepts tool results only after the reasoning that preceded the call, with its signature
  and the exact text that was signed:
  https://platform.claude.com/docs/en/build-with-claude/extended-thinking#preserving-thinking-blocks. The string holds
  both: `gw1.` and the base64url of a JSON object, `{"text", "signature"}` or `{"redacted"}`.
- The `encrypted_content` of a provider of the Responses API. It is recognised by its prefix: OpenAI's own, or
  `gwr1.`, which `mark_content` adds to that of other vendors. The content that OpenRouter passes on in
  `reasoning_details` has a format, which must come back with it: `gwr1.azure-openai-responses-v1:` precedes it.
"""

from __future__ import annotations

import base64
import re

import msgspec

from llm_gateway.domain.conversation import Part, Thinking
from llm_gateway.protocols.contract import PARSE_ERRORS

GATEWAY_PREFIX = "gw1."
"""Prefix of the strings that `encode_reasoning` makes."""
OPENAI_PREFIX = "gAAAA"
"""Prefix of OpenAI's strings: version 0x80 and a 64-bit time, https://github.com/fernet/spec/blob/master/Spec.md."""
RESPONSES_PREFIX = "gwr1."
"""Prefix that `mark_content` adds."""
MARKED = (OPENAI_PREFIX, GATEWAY_PREFIX, RESPONSES_PREFIX)
"""Prefixes of `encrypted_content` from the Responses API in `Thinking.redacted`. `gw1.` is that of another gateway."""
FORMAT = re.compile(rf"{re.escape(RESPONSES_PREFIX)}([a-z0-9-]+-responses-v1):")
"""The prefix that `mark_content` adds with a format."""


class _Envelope(msgspec.Struct, gc=False, omit_defaults=True):
    text: str = ""
    signature: str | None = None
    redacted: str | None = None


_decoder = msgspec.json.Decoder(_Envelope)


def mark_content(content: str, form: str | None = None) -> str:
    """Return a provider's `encrypted_content` as `Thinking.redacted`: with a prefix by which it is recognised.

    `form` is its format in `reasoning_details`, None for content of the Responses API itself.
    """
    if form is not None:
        return f"{RESPONSES_PREFIX}{form}:{content}"
    return content if content.startswith(MARKED) else RESPONSES_PREFIX + content


def unmark_content(redacted: str) -> str:
    """Return the `encrypted_content` as its provider made it."""
    found = FORMAT.match(redacted)
    return redacted.removeprefix(RESPONSES_PREFIX) if found is None else redacted[found.end() :]


def format_of(redacted: str | None) -> str | None:
    """Return the format with which `mark_content` marked the content, None if it has none."""
    found = FORMAT.match(redacted or "")
    return None if found is None else found[1]


def is_marked(content: str | None) -> bool:
    """Return whether a string that a client returned is `encrypted_content` of the Responses API."""
    return content is not None and content.startswith(MARKED)


def is_from_responses(part: Part) -> bool:
    """Return whether the part is reasoning that only a provider of the Responses API can read."""
    return isinstance(part, Thinking) and is_marked(part.redacted)


def encode_reasoning(thought: Thinking) -> str | None:
    """Return the string for reasoning; None if it has neither a signature nor an encrypted form.

    Marked content is returned unchanged, since its maker must recognise it.
    """
    redacted = thought.redacted
    if is_marked(redacted):
        return redacted
    if redacted:
        envelope = _Envelope(redacted=redacted)
    elif thought.signature:
        envelope = _Envelope(text=thought.text, signature=thought.signature)
    else:
        return None
    return GATEWAY_PREFIX + base64.urlsafe_b64encode(msgspec.json.encode(envelope)).decode()


def decode_reasoning(content: str) -> Thinking | None:
    """Return the reasoning in a string; None if it is damaged or not by `encode_reasoning`."""
    if not content.startswith(GATEWAY_PREFIX):
        return None
    try:
        envelope = _decoder.decode(base64.urlsafe_b64decode(content.removeprefix(GATEWAY_PREFIX)))
    except (ValueError, *PARSE_ERRORS):
        return None
    if envelope.redacted:
        return Thinking(redacted=envelope.redacted)
    return Thinking(text=envelope.text, signature=envelope.signature) if envelope.signature else None
