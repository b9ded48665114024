"""The table of vendors' words and limits: vendor × model × field → rule, each row with its source.

A field without a row is passed through unchanged: either the vendor takes it as it is, or nothing certain is known.
Add a row only with the address of the vendor's document, or of a report that quotes the vendor's error. Sources that
are types of an SDK are named by package and type.
"""

from __future__ import annotations

from llm_gateway.domain.reasoning_models import (
    CHAT,
    EFFORTS_OF_GPT_OSS,
    EFFORTS_OF_XAI,
    GPT_5,
    LATER_GPT,
    O_SERIES,
    REASONING,
)
from llm_gateway.providers.vendor_rules.effort_rows import CHAT_EFFORT, OPENAI, effort_rows
from llm_gateway.providers.vendor_rules.part_rules import (
    CallField,
    CallId,
    ImageTypes,
    MessageField,
    Properties,
    ReasoningOfCalls,
    Role,
    Strict,
    ToolName,
)
from llm_gateway.providers.vendor_rules.responses_table import CACHE_KEY, REASONING_GUIDE, RESPONSES_ROWS
from llm_gateway.providers.vendor_rules.rule import (
    AsEffort,
    AtMost,
    BiasRange,
    Dropped,
    Hashed,
    Labels,
    Range,
    Refused,
    Renamed,
    Row,
    ThinkingSwitch,
    Words,
)
from llm_gateway.providers.vendor_rules.strict_schemas import claude_can_enforce, openai_can_enforce

MISTRAL_SCHEMA = "https://docs.rs/crate/mistral-rouille/latest"
"""Documentation generated from Mistral's OpenAPI document."""
GROK_WITHOUT_EFFORT = ("grok-3", "grok-3-latest", "grok-4", "grok-4-*", "grok-4.20*", "grok-4.1*")

CLAUDE_UP_TO_4_6 = (
    "claude-instant*", "claude-[123]*", "claude-v[123]*", "claude-4-*", "claude-*-4", "claude-*-4-[0-6]",
    "claude-*-4-[0-6]-*", "claude-*-4.[0-6]", "claude-*-4-20*", "claude-*-4@*",
)  # fmt: skip
"""Models of Claude that accept sampling parameters."""

CLAUDE_LIMITS = "https://github.com/labring/fastgpt-plugin/pull/242"
PARAMETERS = "https://community.openai.com/t/developer-role-not-accepted-for-o1-o1-mini-o3-mini/1110750/7"
CREATE_PARAMS = "openai 3.54: types.chat.CompletionCreateParams"
FUNCTION = "openai 3.54: types.shared_params.FunctionDefinition"
GROQ = "https://console.groq.com/docs/openai"
GROQ_REASONING = "https://console.groq.com/docs/reasoning"
GROQ_MESSAGES = "https://github.com/tashfeenahmed/freellmapi/issues/1070"
MISTRAL_EXTRA = "https://github.com/editor-code-assistant/eca/issues/231"
DEEPSEEK = "https://api-docs.deepseek.com/guides/thinking_mode"
XAI = "https://docs.x.ai/docs/guides/reasoning"
CEREBRAS = "https://hexdocs.pm/req_llm/cerebras.html"
CEREBRAS_EXTRA = "https://github.com/proxysoul/Empryo/pull/209"
GENERATION_CONFIG = (
    "https://raw.githubusercontent.com/api-evangelist/google-gemini/refs/heads/main/json-schema/"
    "google-gemini-generationconfig-schema.json"
)
CLAUDE_MESSAGES = "https://platform.claude.com/docs/en/api/messages"

_OPENAI = (
    *(Row(vendors=("openai",), field=field, rule=AsEffort(), name="reasoning", source=CREATE_PARAMS)
      for field in ("reasoning", "thinking")),
    *(Row(vendors=("openai",), field=field, rule=Dropped(), source=CREATE_PARAMS)
      for field in ("top_k", "min_p", "repetition_penalty")),
    Row(vendors=("openai",), models=("gpt-3.5*", "gpt-4*"), field="reasoning_effort", rule=Dropped(),
        source=PARAMETERS),
    Row(vendors=OPENAI, models=("gpt-5-chat*",), field="reasoning_effort", rule=Dropped(), source=CHAT_EFFORT),
    Row(vendors=OPENAI, models=REASONING, field="max_tokens", rule=Renamed("max_completion_tokens"),
        source=REASONING_GUIDE),
    Row(vendors=OPENAI, models=(*O_SERIES, *GPT_5), but_not=CHAT, field="temperature", rule=Dropped(unless=(1,)),
        source=REASONING_GUIDE),
    Row(vendors=OPENAI, models=(*O_SERIES, *GPT_5), but_not=CHAT, field="top_p", rule=Dropped(unless=(1,)),
        source=REASONING_GUIDE),
    Row(vendors=OPENAI, models=(*O_SERIES, *GPT_5), but_not=CHAT, field="presence_penalty",
        rule=Dropped(unless=(0,)), source=REASONING_GUIDE),
    Row(vendors=OPENAI, models=(*O_SERIES, *GPT_5), but_not=CHAT, field="frequency_penalty",
        rule=Dropped(unless=(0,)), source=REASONING_GUIDE),
    # From GPT-5.1 on these are refused only where the request makes the model reason.
    Row(vendors=OPENAI, models=LATER_GPT, but_not=CHAT, field="temperature",
        rule=Dropped(unless=(1,), with_effort=True), source="https://github.com/vercel/ai/issues/10932"),
    Row(vendors=OPENAI, models=LATER_GPT, but_not=CHAT, field="top_p",
        rule=Dropped(unless=(1,), with_effort=True), source="https://github.com/vercel/ai/issues/10932"),
    Row(vendors=OPENAI, models=("o3", "o3-*", "o4-mini", "o4-mini-*"), field="stop",
        rule=Refused("this model accepts no stop sequences", harmless=([],)), source=CREATE_PARAMS),
    Row(vendors=OPENAI, models=O_SERIES, field="logprobs",
        rule=Refused("this model returns no logprobs", harmless=(False,)),
        source=PARAMETERS),
    *effort_rows("reasoning_effort", "openai_chat", lambda words: words),
    Row(vendors=("openai",), field="stop", rule=AtMost(4), source=CREATE_PARAMS),
    Row(vendors=("openai",), field="temperature", rule=Range(0, 2), source=CREATE_PARAMS),
    Row(vendors=("openai",), field="presence_penalty", rule=Range(-2, 2), source=CREATE_PARAMS),
    Row(vendors=("openai",), field="frequency_penalty", rule=Range(-2, 2), source=CREATE_PARAMS),
    Row(vendors=("openai",), field="top_logprobs", rule=Range(0, 20), source=CREATE_PARAMS),
    Row(vendors=("openai",), field="logit_bias", rule=BiasRange(-100, 100), source=CREATE_PARAMS),
    Row(vendors=("openai",), field="metadata", rule=Labels(16, 64, 512), source=CREATE_PARAMS),
    Row(vendors=("openai",), field="user", rule=Hashed(64), source="https://github.com/maximhq/bifrost/pull/1000"),
    Row(vendors=("openai",), field="safety_identifier", rule=Hashed(128), source=CREATE_PARAMS),
    Row(vendors=("openai",), field="prompt_cache_key", rule=Hashed(64), source=CACHE_KEY),
    Row(vendors=("openai",), field="tools[]", rule=ToolName("a-zA-Z0-9_-", 64), source=FUNCTION),
    Row(vendors=("openai",), field="messages[].tool_calls", rule=CallId(r".{1,40}", 32),
        source="https://github.com/vercel/ai/issues/8132"),
    Row(vendors=("openai",), field="messages[].tool_calls[].extra_content",
        rule=CallField(frozenset({"extra_content"})), source="https://github.com/songquanpeng/one-api/issues/1319"),
    Row(vendors=("openai",), field="tools[].parameters", rule=Properties(),
        source="https://github.com/langchain-ai/langchain-mcp-adapters/issues/137"),
    Row(vendors=("openai",), field="tools[].strict", rule=Strict(openai_can_enforce), name="strict",
        source="https://dev.to/dev_in_the_fog/why-llm-structured-output-strict-mode-rejects-valid-json-schema-additionalproperties-required-o54"),
)  # fmt: skip

_GROQ = (
    *(Row(vendors=("groq",), field=field, rule=Refused("Groq does not offer it", harmless=harmless), source=GROQ)
      for field, harmless in (("logprobs", (False,)), ("top_logprobs", ()), ("logit_bias", ({},)), ("n", (1,)))),
    Row(vendors=("groq",), field="messages[].name", rule=MessageField(frozenset({"name"})), name="name", source=GROQ),
    Row(vendors=("groq",), field="messages[].reasoning_content", name="thinking", source=GROQ_MESSAGES,
        rule=MessageField(frozenset({"reasoning_content", "reasoning_details"}))),
    Row(vendors=("groq",), but_not=("gpt-oss*", "qwen*"), field="messages[].reasoning", name="thinking",
        rule=MessageField(frozenset({"reasoning"})), source="https://github.com/vercel/ai/issues/8056"),
    Row(vendors=("groq",), field="messages[].tool_calls[].extra_content", rule=CallField(frozenset({"extra_content"})),
        source=GROQ_MESSAGES),
    Row(vendors=("groq",), models=EFFORTS_OF_GPT_OSS.models, field="reasoning_effort",
        rule=Words(EFFORTS_OF_GPT_OSS.efforts), source=GROQ_REASONING),
    Row(vendors=("groq",), field="tools[].parameters", rule=Properties(),
        source="https://github.com/pocketpaw/pocketpaw/issues/739"),
)  # fmt: skip

_MISTRAL = (
    Row(vendors=("mistral",), field="max_completion_tokens", rule=Renamed("max_tokens"), source=MISTRAL_EXTRA),
    Row(vendors=("mistral",), field="seed", rule=Renamed("random_seed"), source=MISTRAL_SCHEMA),
    Row(vendors=("mistral",), field="messages[].role", rule=Role("developer", "system"),
        source=MISTRAL_SCHEMA),
    Row(vendors=("mistral",), field="messages[].reasoning_content", name="thinking",
        source="https://github.com/BerriAI/litellm/issues/30835",
        rule=MessageField(frozenset({"reasoning_content", "reasoning_details", "reasoning"}))),
    Row(vendors=("mistral",), field="messages[].tool_calls[].extra_content",
        rule=CallField(frozenset({"extra_content"})),
        source="https://github.com/charmbracelet/crush/issues/1590"),
    Row(vendors=("mistral",), field="messages[].tool_calls", rule=CallId(r"[a-zA-Z0-9]{9}", 9),
        source="https://github.com/anomalyco/opencode/issues/1680"),
)  # fmt: skip

_DEEPSEEK = (
    Row(vendors=("deepseek",), field="max_completion_tokens", rule=Renamed("max_tokens"),
        source="https://api-docs.deepseek.com/api/create-chat-completion"),
    Row(vendors=("deepseek",), field="messages[].role", rule=Role("developer", "system"),
        source="https://github.com/earendil-works/pi/issues/1048"),
    Row(vendors=("deepseek",), field="messages[].tool_calls", rule=ReasoningOfCalls(), source=DEEPSEEK),
    Row(vendors=("deepseek",), field="reasoning_effort", rule=ThinkingSwitch(), source=DEEPSEEK),
    Row(vendors=("deepseek",), field="presence_penalty", rule=Range(-2, 2),
        source="https://api-docs.deepseek.com/api/create-chat-completion"),
    Row(vendors=("deepseek",), field="frequency_penalty", rule=Range(-2, 2),
        source="https://api-docs.deepseek.com/api/create-chat-completion"),
    Row(vendors=("deepseek",), field="tools[]", rule=ToolName("a-zA-Z0-9_-", 64),
        source="https://github.com/mrexodia/ida-pro-mcp/issues/129"),
    Row(vendors=("",), models=("kimi-k2.[5-9]*", "kimi-k2-thinking*"), field="messages[].tool_calls",
        rule=ReasoningOfCalls(), source="https://github.com/QuantumNous/new-api/issues/3121"),
)  # fmt: skip

_OTHERS = (
    *(Row(vendors=("xai",), models=("grok-3-mini*", "grok-4*", "grok-code*"), but_not=("*non-reasoning*",),
          field=field, rule=rule, source=XAI)
      for field, rule in (("presence_penalty", Dropped(unless=(0,))), ("frequency_penalty", Dropped(unless=(0,))),
                          ("stop", Refused("this model accepts no stop sequences", harmless=([],))))),
    *(Row(vendors=("xai",), models=models, field="reasoning_effort", rule=Words(efforts), source=source)
      for models, efforts, source in EFFORTS_OF_XAI),
    Row(vendors=("xai",), models=GROK_WITHOUT_EFFORT, but_not=("*multi-agent*",), field="reasoning_effort",
        rule=Dropped(), name="reasoning",
        source=XAI),
    *(Row(vendors=("cerebras",), field=field, rule=rule, source=CEREBRAS)
      for field, rule in (("frequency_penalty", Dropped()), ("presence_penalty", Dropped()),
                          ("parallel_tool_calls", Dropped()), ("service_tier", Dropped()),
                          ("logit_bias", Refused("Cerebras does not offer it", harmless=({},))))),
    Row(vendors=("fireworks",), field="messages[].tool_calls[].extra_content",
        rule=CallField(frozenset({"extra_content"})), source="https://github.com/NousResearch/hermes-agent/pull/38543"),
    Row(vendors=("cerebras",), field="messages[].reasoning_content", name="thinking", source=CEREBRAS_EXTRA,
        rule=MessageField(frozenset({"reasoning_content", "reasoning_details"}))),
    Row(vendors=("cerebras",), field="messages[].tool_calls[].extra_content",
        rule=CallField(frozenset({"extra_content"})), source=CEREBRAS_EXTRA),
    *(Row(vendors=("cerebras",), field=field, rule=AsEffort(), name="reasoning", source=CEREBRAS_EXTRA)
      for field in ("reasoning", "thinking")),
    Row(vendors=("openrouter",), field="user", rule=Hashed(128),
        source="https://github.com/ujisati/claude-code-provider-proxy/pull/11"),
    Row(vendors=("cerebras", "together", "fireworks", "openrouter", "vllm", "ollama", "lmstudio", ""),
        models=EFFORTS_OF_GPT_OSS.models, field="reasoning_effort", rule=Words(EFFORTS_OF_GPT_OSS.efforts),
        source=EFFORTS_OF_GPT_OSS.source),
)  # fmt: skip

_ANTHROPIC = (
    *(Row(vendors=("anthropic",), protocol="anthropic_messages", models=("claude-*",), but_not=CLAUDE_UP_TO_4_6,
          field=field, rule=Dropped(defaults=defaults),
          source="https://platform.claude.com/docs/en/models/haiku-5-5/migration-guide")
      for field, defaults in (("temperature", (1,)), ("top_p", (1,)), ("top_k", ()))),
    *(Row(vendors=("anthropic",), protocol="anthropic_messages", models=models, field="max_tokens",
          rule=Range(0, most), source=source)
      for models, most, source in (
          (("claude-opus-4-[01]", "claude-opus-4-1-*", "claude-opus-4-20*"), 32_000, CLAUDE_LIMITS),
          (("claude-*-4-5", "claude-*-4-5-*", "claude-sonnet-4-20*", "claude-sonnet-4-0"), 64_000, CLAUDE_LIMITS),
          (("claude-*-4-[6-8]", "claude-*-4-[6-8]-*"), 128_000,
           "https://github.com/Effect-TS/effect/releases/tag/@effect%2Fai-anthropic@4.0.0-beta.106"),
          (("claude-fable-5*", "claude-opus-5*", "claude-sonnet-5*"), 128_000, "https://platform.claude.com/docs/en/models"),
      )),
    Row(vendors=("anthropic",), protocol="anthropic_messages", field="messages[].content[].source", name="image",
        rule=ImageTypes(("image/jpeg", "image/png", "image/gif", "image/webp")),
        source="anthropic 2.12: types.Base64ImageSourceParam"),
    Row(vendors=("anthropic",), protocol="anthropic_messages", field="temperature", rule=Range(0, 1),
        source=CLAUDE_MESSAGES),
    Row(vendors=("anthropic",), protocol="anthropic_messages", field="tools[]",
        rule=ToolName("a-zA-Z0-9_-", 128), source="https://github.com/home-assistant/core/issues/147760"),
    Row(vendors=("anthropic",), protocol="anthropic_messages", field="messages[].content[].id",
        rule=CallId(r"[a-zA-Z0-9_-]+", 32),
        source="https://github.com/maximhq/bifrost/issues/5097"),
    Row(vendors=("anthropic",), protocol="anthropic_messages", field="tools[].strict", name="strict",
        rule=Strict(claude_can_enforce),
        source="https://platform.claude.com/docs/en/build-with-claude/structured-outputs#json-schema-limitations"),
)  # fmt: skip

_GEMINI = (
    Row(vendors=("gemini",), protocol="gemini_content", field="generationConfig.temperature", rule=Range(0, 2),
        source=GENERATION_CONFIG),
    Row(vendors=("gemini",), protocol="gemini_content", field="generationConfig.stopSequences", rule=AtMost(5),
        source=GENERATION_CONFIG),
    Row(vendors=("gemini",), protocol="gemini_content", field="generationConfig.presencePenalty", rule=Range(-2, 2),
        source="google-genai 3.4: types.GenerationConfig"),
    Row(vendors=("gemini",), protocol="gemini_content", field="generationConfig.frequencyPenalty", rule=Range(-2, 2),
        source="google-genai 3.4: types.GenerationConfig"),
    Row(vendors=("gemini",), protocol="gemini_content", field="tools[]",
        rule=ToolName("a-zA-Z0-9_.:-", 128, "a-zA-Z_"), source="google-genai 3.4: types.FunctionDeclaration"),
)  # fmt: skip

ROWS: tuple[Row, ...] = (*_OPENAI, *RESPONSES_ROWS, *_GROQ, *_MISTRAL, *_DEEPSEEK, *_OTHERS, *_ANTHROPIC, *_GEMINI)
