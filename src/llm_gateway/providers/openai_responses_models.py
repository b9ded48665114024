"""Decide which requests OpenAI takes by the Responses API only, and not by chat completions.

Model names may have a vendor prefix: `openai/gpt-5-pro`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Literal, TypeAlias

from llm_gateway.domain.reasoning_models import MOST_REMEMBERED
from llm_gateway.domain.request import ClientRequest
from llm_gateway.protocols.openai_chat.model_capabilities import effort_for

Need: TypeAlias = Literal["never", "always", "tools", "tools with effort"]
"""The requests for which a model needs the Responses API.

`tools`: with tools, unless the reasoning effort is `none`. `tools with effort`: with tools and an effort other than
`none`."""

RESPONSES_ONLY = re.compile(
    r"o\d(?:-mini)?-(?:pro|deep-research)(?=[-:@]|$)"
    r"|gpt-\d(?:\.\d+)?(?:-[a-z]+)*?-(?:pro|codex|cyber|law|rosalind)(?=[-:@]|$)"
    r"|codex-mini|computer-use-preview|gpt-daybreak-|gpt-rosalind-"
)
"""Models that chat completions refuse: "This model is only supported in v1/responses".

Sources, of 2026-11-27: the models that `ResponsesModel` adds to `ChatModel` in `types/shared/` of OpenAI's SDK 3.54;
for all codex models https://neon.com/docs/ai-gateway/openai-responses.
"""
VERSION = re.compile(r"gpt-([5-9])(?:\.(\d+))?(?!\d)")
TOOLS_WITH_EFFORT, TOOLS = (5, 4), (5, 6)
"""First versions whose function tools chat completions refuse, with an effort or even without one.

"Function tools with reasoning_effort are not supported for gpt-5.4 in /v1/chat/completions":
https://github.com/pipecat-ai/pipecat/issues/4043 (2026-03-16). From GPT-5.6 on "use /v1/responses or set
reasoning_effort to 'none'", even if the request sets no effort: https://github.com/BerriAI/litellm/pull/34569
(2026-07-24).
"""


def responses_need(model: str) -> Need:
    """Return the requests for which the model needs the Responses API."""
    name = model.rpartition("/")[2]
    if RESPONSES_ONLY.match(name):
        return "always"
    found = VERSION.match(name)
    if found is None:
        return "never"
    version = (int(found[1]), int(found[2] or 0))
    if version >= TOOLS:
        return "tools"
    return "tools with effort" if version >= TOOLS_WITH_EFFORT else "never"


@lru_cache(maxsize=MOST_REMEMBERED)
def requests_for_responses(model: str) -> Callable[[ClientRequest], bool] | None:
    """Return a test of the requests that chat completions would refuse for this model; None if they refuse none.

    The same test for the same model, so that equal candidates are equal.
    """
    need = responses_need(model)
    return None if need == "never" else partial(_needs_responses, need, model)


def _needs_responses(need: Need, model: str, client_request: ClientRequest) -> bool:
    """Return whether chat completions would refuse this request, and the Responses API takes it.

    A request in chat completions is judged by its document, so that one that passes through need not be parsed, except
    if it asks for reasoning in another vendor's words: `vendor_rules` turns these into an effort.

    Raises:
        Unreadable, Unsupported: as `ClientRequest.conversation`.
    """
    if need == "always":
        return True
    document = client_request.document
    if client_request.protocol == "openai_chat" and not (document.get("reasoning") or document.get("thinking")):
        has_tools, effort = bool(document.get("tools") or document.get("functions")), document.get("reasoning_effort")
    else:
        conversation = client_request.conversation
        reasoning = conversation.reasoning
        has_tools = bool(conversation.tools)
        effort = None if reasoning is None else effort_for(reasoning, model)[0]
    return has_tools and effort != "none" and (need == "tools" or effort is not None)
