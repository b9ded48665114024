"""The table of OpenAI's words and limits in its Responses API: field × model → rule, each row with its source."""

from __future__ import annotations

from llm_gateway.domain.reasoning_models import CHAT, GPT_5, LATER_GPT, O_SERIES
from llm_gateway.providers.vendor_rules.effort_rows import CHAT_EFFORT, OPENAI, effort_rows
from llm_gateway.providers.vendor_rules.part_rules import CallId, Properties, Strict, ToolName
from llm_gateway.providers.vendor_rules.rule import (
    AtLeast,
    Dropped,
    Hashed,
    Inside,
    Labels,
    Range,
    Row,
)
from llm_gateway.providers.vendor_rules.strict_schemas import openai_can_enforce

RESPONSES = "openai_responses"
CREATE_PARAMS = "openai 3.54: types.responses.ResponseCreateParams"
REASONING_GUIDE = "https://developers.openai.com/api/docs/guides/reasoning"
CACHE_KEY = "https://github.com/theopenco/llmgateway/pull/3110"
SAMPLING = "https://github.com/OpenHands/software-agent-sdk/issues/1837"
RESPONSES_ROWS = (
    *effort_rows("reasoning", RESPONSES, lambda words: Inside("effort", words)),
    Row(vendors=OPENAI, protocol=RESPONSES, models=("gpt-3.5*", "gpt-4*"), field="reasoning", name="reasoning",
        rule=Dropped(), source="https://github.com/RageAgainstThePixel/OpenAI-DotNet/issues/500"),
    Row(vendors=OPENAI, protocol=RESPONSES, models=("gpt-5-chat*",), field="reasoning", name="reasoning",
        rule=Dropped(), source=CHAT_EFFORT),
    *(Row(vendors=OPENAI, protocol=RESPONSES, models=(*O_SERIES, *GPT_5), but_not=CHAT, field=field,
          rule=Dropped(defaults=(1,)), source=SAMPLING)
      for field in ("temperature", "top_p")),
    *(Row(vendors=OPENAI, protocol=RESPONSES, models=LATER_GPT, but_not=CHAT, field=field,
          rule=Dropped(defaults=(1,), with_effort=True), source=SAMPLING)
      for field in ("temperature", "top_p")),
    Row(vendors=("openai",), protocol=RESPONSES, field="temperature", rule=Range(0, 2), source=CREATE_PARAMS),
    Row(vendors=("openai",), protocol=RESPONSES, field="top_logprobs", rule=Range(0, 20), source=CREATE_PARAMS),
    Row(vendors=("openai",), protocol=RESPONSES, field="max_output_tokens", rule=AtLeast(16),
        source="https://github.com/vectorize-io/hindsight/issues/58"),
    Row(vendors=("openai",), protocol=RESPONSES, field="metadata", rule=Labels(16, 64, 512), source=CREATE_PARAMS),
    Row(vendors=("openai",), protocol=RESPONSES, field="user", rule=Hashed(64),
        source="https://github.com/maximhq/bifrost/pull/1000"),
    Row(vendors=("openai",), protocol=RESPONSES, field="safety_identifier", rule=Hashed(128), source=CREATE_PARAMS),
    Row(vendors=("openai",), protocol=RESPONSES, field="prompt_cache_key", rule=Hashed(64), source=CACHE_KEY),
    Row(vendors=("openai",), protocol=RESPONSES, field="tools[]", rule=ToolName("a-zA-Z0-9_-", 64),
        source="https://github.com/anomalyco/opencode/issues/43714"),
    Row(vendors=("openai",), protocol=RESPONSES, field="input[].call_id", rule=CallId(r".{1,64}", 32),
        source="https://github.com/AnswerDotAI/fastllm/issues/45"),
    Row(vendors=("openai",), protocol=RESPONSES, field="tools[].parameters", rule=Properties(),
        source="https://github.com/langchain-ai/langchain-mcp-adapters/issues/137"),
    Row(vendors=("openai",), protocol=RESPONSES, field="tools[].strict", name="strict",
        rule=Strict(openai_can_enforce, is_default=True), source="https://github.com/Soju06/codex-lb/pull/658"),
)  # fmt: skip
