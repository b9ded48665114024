"""OpenAI's reasoning models, and the reasoning efforts of models: one definition for requests, rules and estimates.

Models are globs of names in lower case, without the vendor's prefix that OpenRouter's names have: `openai/gpt-5-mini`.
"""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import NamedTuple

from llm_gateway.domain.conversation import REASONING_EFFORTS

O_SERIES = ("o[0-9]", "o[0-9][-:@]*")
GPT_5 = ("gpt-5", "gpt-5[-:@]*")
LATER_GPT = ("gpt-5.*", "gpt-[6-9]", "gpt-[6-9][-.:@]*")
REASONING = (*O_SERIES, *GPT_5, *LATER_GPT, "codex-mini*")
"""OpenAI's reasoning models. They reject `max_tokens` and any but the default temperature; not gpt-oss-20b.

https://developers.openai.com/api/docs/guides/reasoning, and the API error "Unsupported value: 'temperature'". From
GPT-5.1 on a temperature is accepted with reasoning effort `none` only.
"""
UNREASONING = ("gpt-5-chat*",)
"""A model among `REASONING` that does not reason: it accepts a temperature, and no effort
(https://github.com/Laisky/one-api/issues/120, 2026-11-27)."""
CHAT = (*UNREASONING, "gpt-5.*-chat*")
"""Chat models called GPT-5: the first one does not reason, later ones have words of their own."""
MOST_REMEMBERED = 1024
"""Model names in each cache of an answer by model; each request looks some up."""


class ModelEfforts(NamedTuple):
    """The reasoning efforts that models know. `source` is the vendor's document, or a report that quotes its error."""

    models: tuple[str, ...]
    efforts: tuple[str, ...]
    source: str


_GUIDE = "https://developers.openai.com/api/docs/guides/reasoning"
_PRO_AND_CODEX = "https://github.com/anomalyco/models.dev/pull/2296"
_LATER = ("none", "low", "medium", "high", "xhigh")
LOW_TO_HIGH = ("low", "medium", "high")
EFFORTS_OF_OPENAI = (
    ModelEfforts(O_SERIES, LOW_TO_HIGH, _GUIDE),
    ModelEfforts(("gpt-5-pro*",), ("high",), "https://github.com/anomalyco/models.dev/pull/331"),
    ModelEfforts(("gpt-5.2-chat*",), ("medium",), "https://github.com/egoist/chatwise-releases/issues/1257"),
    ModelEfforts(CHAT, REASONING_EFFORTS, "unknown"),
    ModelEfforts(("gpt-5.[2-9]-pro*",), ("medium", "high", "xhigh"), _PRO_AND_CODEX),
    ModelEfforts(("gpt-5.1-codex-max*", "gpt-5.[2-9]-codex*"), (*LOW_TO_HIGH, "xhigh"), _PRO_AND_CODEX),
    ModelEfforts(("gpt-5-codex*", "gpt-5.1-codex*"), LOW_TO_HIGH, _PRO_AND_CODEX),
    ModelEfforts(GPT_5, ("minimal", *LOW_TO_HIGH), _GUIDE),
    ModelEfforts(("gpt-5.1", "gpt-5.1-*"), ("none", *LOW_TO_HIGH), _GUIDE),
    ModelEfforts(("gpt-5.[2-5]", "gpt-5.[2-5]-*"), _LATER, _GUIDE),
    ModelEfforts(
        ("gpt-5.[6-9]", "gpt-5.[6-9]-*"), (*_LATER, "max"), "https://github.com/pydantic/pydantic-ai/issues/7081"
    ),
)
"""Efforts of OpenAI's models; the first match decides. `unknown`: nothing certain is known, so all are passed on."""
EFFORTS_OF_XAI = (
    ModelEfforts(("grok-3-mini*",), ("low", "high"), "https://docs.x.ai/docs/guides/reasoning"),
    ModelEfforts(
        ("grok-4.3*",), ("none", *LOW_TO_HIGH), "https://docs.x.ai/developers/model-capabilities/text/reasoning"
    ),
    ModelEfforts(("grok-4.5*",), LOW_TO_HIGH, "https://github.com/anomalyco/opencode/issues/39448"),
)
EFFORTS_OF_GPT_OSS = ModelEfforts(("gpt-oss*",), LOW_TO_HIGH, "https://github.com/anomalyco/models.dev/pull/2262")
EFFORTS_OF_DEEPSEEK = ModelEfforts(
    ("deepseek-v[4-9]*", "deepseek-chat*", "deepseek-reasoner*"),
    REASONING_EFFORTS,
    "https://api-docs.deepseek.com/guides/thinking_mode",
)
EFFORTS_OF_OTHERS = (*EFFORTS_OF_XAI, EFFORTS_OF_GPT_OSS, EFFORTS_OF_DEEPSEEK)


def is_one_of(model: str, globs: Iterable[str]) -> bool:
    """Return whether the model's name, without its vendor's prefix, matches one of the globs."""
    short = model.rpartition("/")[2].lower()
    return any(fnmatchcase(short, glob) for glob in globs)


@lru_cache(maxsize=MOST_REMEMBERED)
def is_reasoning_model(model: str) -> bool:
    """Return whether it is a reasoning model of OpenAI, which requires `max_completion_tokens` for `max_tokens`."""
    return is_one_of(model, REASONING)


@lru_cache(maxsize=MOST_REMEMBERED)
def reasons(model: str) -> bool:
    """Return whether it is a model of OpenAI that reasons, and so rejects `temperature` and the like."""
    return is_reasoning_model(model) and not is_one_of(model, UNREASONING)


@lru_cache(maxsize=MOST_REMEMBERED)
def takes_effort(model: str) -> bool:
    """Return whether the model takes a reasoning effort."""
    return reasons(model) or any(is_one_of(model, each.models) for each in EFFORTS_OF_OTHERS)


@lru_cache(maxsize=MOST_REMEMBERED)
def efforts_of(model: str) -> tuple[str, ...]:
    """Return the reasoning efforts that the model knows; all if that is not known."""
    known = (*EFFORTS_OF_OPENAI, *EFFORTS_OF_OTHERS)
    return next((each.efforts for each in known if is_one_of(model, each.models)), REASONING_EFFORTS)
