"""Behaviours of the mock vendor, named by words: `ok`, `status-500`, `slow-200+reset`, `flaky-3+stall`. Pure.

A test controls the mock through the gateway with such a word as the model's name or as the provider's API key.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import msgspec

SHAPES = frozenset(
    {
        "ok",  # a completion; its content is JSON when the request asks for a JSON object
        "json",  # content that is JSON, requested or not
        "not-json-content",  # content that is not JSON, requested or not
        "echo",  # the content is the prompt
        "length",  # cut by max_tokens: finish_reason is length, the content ends in the middle
        "null-content",
        "no-usage",
        "bad-usage",  # negative counts
        "bad-json",  # a body that is not JSON
        "bad-shape",  # a body that is JSON of another structure
        "empty",  # a body of no bytes
        "huge",  # content of 10 MB
    }
)
"""Answers with status 200."""

FAULTS = frozenset(
    {
        "stall",  # the call is read and gets no response
        "stall-body",  # headers are sent, then nothing
        "drip",  # headers are sent, then the body, a byte every 50 ms
        "half",  # half of the body is sent, then the connection ends
        "reset",  # the connection is reset once the call was read
        "close",  # the connection ends once the call was read
        "garbage",  # the response is not HTTP
        "leak",  # a 401 that quotes the key
    }
)
"""Responses that break off or never come."""

REFUSALS: dict[str, tuple[int, dict[str, Any]]] = {
    # https://openrouter.ai/docs/api/reference/errors-and-debugging: "Moderation Errors"
    "moderation": (
        403,
        {
            "code": 403,
            "message": "The input was flagged.",
            "metadata": {"reasons": ["violence"], "flagged_input": "…", "provider_name": "x", "model_slug": "x"},
        },
    ),
    # https://learn.microsoft.com/azure/ai-foundry/openai/concepts/content-filter
    "content-filter": (400, {"message": "The prompt was filtered.", "param": "prompt", "code": "content_filter"}),
    # https://platform.openai.com/docs/guides/error-codes, and for 403 https://github.com/Aider-AI/aider/issues/1903
    "no-model": (404, {"message": "The model does not exist.", "code": "model_not_found"}),
    "no-access": (403, {"message": "Project p does not have access to model m", "code": "model_not_found"}),
    # https://github.com/openai/codex/issues/20866
    "context-length": (
        400,
        {
            "message": "Your input exceeds the context window of this model. Please adjust your input and try again.",
            "type": "invalid_request_error",
            "param": "input",
            "code": "context_length_exceeded",
        },
    ),
    # https://help.openai.com/en/articles/6614457-troubleshooting-api-usage-and-spend-limits
    "no-quota": (
        429,
        {
            "message": "You exceeded your current quota, please check your plan and billing details.",
            "type": "insufficient_quota",
            "param": None,
            "code": "credit_balance_exhausted",
        },
    ),
    # https://github.com/Gitlawb/openclaude/issues/1125
    "too-dear": (
        402,
        {
            "code": 402,
            "message": "This request requires more credits, or fewer max_tokens. You requested up to 32000 tokens, "
            "but can only afford 27342.",
        },
    ),
}
"""Refusals in the wording of real vendors: the status and the error."""

_STATUS = re.compile(r"status-([1-5]\d\d)(?:-after-([\w.]+))?")
_SLOW = re.compile(r"slow-(\d+)")
_FLAKY = re.compile(r"flaky-([1-9]\d*)")
_RANDOM = re.compile(r"random-([1-9]\d?)")


class Behaviour(msgspec.Struct, frozen=True):
    """The behaviour of a call.

    `every` = 3: it applies to every third call of the model; `percent` = 15: to 15 % of them. The others are ok.
    """

    kind: str = "ok"
    status: int = 200
    retry_after: str | None = None
    delay_s: float = 0.0
    every: int = 0
    percent: int = 0


OK = Behaviour()


@lru_cache(maxsize=4096)
def parse(word: str) -> Behaviour | None:
    """Return the behaviour that `word` names; None if it names none, as a usual model name does.

    Parts are joined with `+`: `slow-MS` adds a delay; `flaky-N` applies the rest to every Nth call and `random-P` to
    P % of the calls (a 500 if there is no rest). One part names the response: one of SHAPES, FAULTS or REFUSALS, or
    `status-NNN`, or with a Retry-After header `status-429-after-3`.
    """
    what: Behaviour | None = None
    delay_s, every, percent = 0.0, 0, 0
    for part in word.split("+"):
        if slow := _SLOW.fullmatch(part):
            delay_s = int(slow[1]) / 1000
        elif flaky := _FLAKY.fullmatch(part):
            every = int(flaky[1])
        elif chance := _RANDOM.fullmatch(part):
            percent = int(chance[1])
        elif what is not None:
            return None
        elif part in SHAPES or part in FAULTS or part in REFUSALS:
            what = Behaviour(kind=part)
        elif status := _STATUS.fullmatch(part):
            what = Behaviour(kind="status", status=int(status[1]), retry_after=status[2])
        else:
            return None
    if what is None:
        what = Behaviour(kind="status", status=500) if every or percent else OK
    return msgspec.structs.replace(what, delay_s=delay_s, every=every, percent=percent)
