"""Judge requests as the vendors do: by the parameter types of their own SDKs, unknown fields included, and by rules.

Types tell which fields there are, at every level; `rules.py` has what types cannot tell, each with its source.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from google.genai import types
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic.alias_generators import to_camel

from tests.agents import rules
from tests.upstream.responses_api import problem_in
from tests.upstream.sdk_types import problem_with

Json = dict[str, Any]
BETA_FIELDS = {"context_management": "context-management-", "mcp_servers": "mcp-client-"}
"""Fields of Anthropic's requests that need a feature of this prefix in the header `anthropic-beta`.

https://platform.claude.com/docs/en/build-with-claude/context-editing, …/agents-and-tools/mcp-connector (2026-11-27)
"""
VERSIONS = ("2023-06-01", "2026-10-21")
"""Versions of Anthropic's API. The types of its SDK are those of the later one, which dropped `FormerFields`:
https://developersdigest.tech/blog/claude-api-version-2026-10-21-sdk-migration (2026-10-21)."""


class FormerFields(TypedDict, total=False):
    """Fields of the Messages API until version 2026-10-21."""

    temperature: float
    top_p: float
    top_k: int


class GenerationConfig(types.GenerationConfig):
    """`generationConfig` as the API has it: the SDK's class lacks a field of its own conversion."""

    image_config: types.ImageConfig | None = None


class GenerateContentRequest(BaseModel):
    """Body of generateContent: https://ai.google.dev/api/generate-content (2026-11-27).

    The SDK has no class for the whole body, only for its parts, which forbid unknown fields.
    """

    model_config = ConfigDict(extra="forbid", alias_generator=to_camel, populate_by_name=True)

    contents: list[types.Content]
    tools: list[types.Tool] | None = None
    tool_config: types.ToolConfig | None = None
    safety_settings: list[types.SafetySetting] | None = None
    system_instruction: types.Content | None = None
    generation_config: GenerationConfig | None = None
    cached_content: str | None = None
    service_tier: str | None = None
    store: bool | None = None
    labels: dict[str, str] | None = None


def complaint(kind: str, body: Json, headers: Mapping[str, str] | None = None, model: str = "") -> str | None:
    """Return why the vendor would refuse this request, None if it would take it.

    `kind` names the dialect; `model` is the model in the path of a Gemini request.
    """
    if kind == "gemini":
        return _gemini(body, model)
    if kind == "anthropic":
        return _anthropic(body, headers or {})
    if kind == "responses":
        problem = problem_in(body)
        return None if problem is None else problem.message
    return _chat(body)


def _chat(body: Json) -> str | None:
    from openai.types.chat.completion_create_params import CompletionCreateParamsBase  # slow to import

    known = {name: value for name, value in body.items() if name != "stream"}
    problem = problem_with(known, CompletionCreateParamsBase)
    return rules.chat(body) if problem is None else problem.message


def _anthropic(body: Json, headers: Mapping[str, str]) -> str | None:
    from anthropic.types.beta.message_create_params import MessageCreateParamsBase as BetaParams  # slow to import
    from anthropic.types.message_create_params import MessageCreateParamsBase as StableParams

    version, beta = headers.get("anthropic-version"), headers.get("anthropic-beta", "")
    if version not in VERSIONS:
        return f"anthropic-version: '{version}' is not a valid version"
    sampling = {name: value for name, value in body.items() if name in FormerFields.__annotations__}
    known = {name: value for name, value in body.items() if name not in sampling and name != "stream"}
    if sampling and version != VERSIONS[0]:
        return f"{min(sampling)}: Extra inputs are not permitted"
    for name in ("betas", "user_profile_id", "workspace_id"):  # the SDK sends these as headers
        if name in body:
            return f"{name}: Extra inputs are not permitted"
    for name, feature in BETA_FIELDS.items():
        if name in body and feature not in beta:
            return f"{name}: Extra inputs are not permitted"
    problem = problem_with(known, BetaParams if beta else StableParams) or problem_with(sampling, FormerFields)
    return rules.messages(body) if problem is None else problem.message


def _gemini(body: Json, model: str) -> str | None:
    try:
        GenerateContentRequest.model_validate(body)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(each) for each in first["loc"])
        return f"Invalid JSON payload received. {first['msg']} at '{place}'."
    except Warning as warning:  # the SDK warns of unknown values of enumerations; pytest makes warnings errors
        return f"Invalid value: {warning}."
    return rules.gemini(body, model)
