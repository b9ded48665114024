"""Errors about the context window, in the words of each vendor (sources: providers/context_errors.py)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.providers.context_errors import ContextLimit, context_limit

OPENAI = "This model's maximum context length is 4097 tokens. However, your messages resulted in 7575 tokens."
DEEPSEEK = (
    "This model's maximum context length is 131072 tokens. However, you requested 131134 tokens "
    "(122942 in the messages, 8192 in the completion). Please reduce the length of the messages or completion."
)
VLLM = (
    "This model's maximum context length is 131072 tokens. However, you requested 128000 output tokens and your "
    "prompt contains at least 3073 input tokens, for a total of at least 131073 tokens."
)
OPENROUTER = "This endpoint's maximum context length is 1048576 tokens. However, you requested about 1293741 tokens"
LM_STUDIO = (
    "Trying to keep the first 10136 tokens when context the overflows. However, the model is loaded with context "
    "length of only 7866 tokens, which is not enough."
)
SERVED: dict[str, tuple[dict[str, Any], int | None, int | None]] = {
    "OpenAI": ({"message": OPENAI, "code": "context_length_exceeded"}, 7575, 4097),
    "OpenAI, Responses": ({"message": "Your input exceeds the context window of this model."}, None, None),
    "Anthropic": ({"message": "prompt is too long: 208656 tokens > 200000 maximum"}, 208656, 200000),
    "Anthropic, with max_tokens": (
        {"message": "input length and `max_tokens` exceed context limit: 198981 + 21333 > 200000"},
        None,
        None,
    ),
    "Gemini": (
        {"message": "The input token count (3475108) exceeds the maximum number of tokens allowed (1048576)."},
        3475108,
        1048576,
    ),
    "llama.cpp": (
        {
            "message": "the request exceeds …",
            "type": "exceed_context_size_error",
            "n_prompt_tokens": 1407,
            "n_ctx": 256,
        },
        1407,
        256,
    ),
    "vLLM": ({"message": VLLM, "type": "BadRequestError", "code": 400}, None, 131072),
    "vLLM, older": (
        {"message": "The prompt (total length 25938) is too long to fit into the model (context length 4096)."},
        25938,
        4096,
    ),
    "DeepSeek": ({"message": DEEPSEEK, "code": "invalid_request_error"}, 131134, 131072),
    "OpenRouter": ({"message": OPENROUTER, "code": 400}, 1293741, 1048576),
    "Mistral": (
        {"message": "Prompt contains 300000 tokens, too large for model with 131072 maximum context length"},
        None,
        None,
    ),
    "Groq": (
        {"message": "Please reduce the length of the messages or completion.", "code": "context_length_exceeded"},
        None,
        None,
    ),
    "xAI": (
        {"message": "This model's maximum prompt length is 131072 but the request contains 136973 tokens."},
        136973,
        131072,
    ),
    "LM Studio": ({"message": LM_STUDIO}, None, 7866),
    "Moonshot": (
        {"message": "Invalid request: Your request exceeded model token limit: 262144 (requested: 275363)"},
        275363,
        262144,
    ),
}


@pytest.mark.parametrize("vendor", SERVED)
def test_a_vendors_words_for_a_full_context_window_are_recognised(vendor: str) -> None:
    error, tokens, limit = SERVED[vendor]

    assert context_limit(error) == ContextLimit(tokens, limit)


@pytest.mark.parametrize(
    "message",
    [
        "max_tokens is too large: 100000. This model supports at most 16384 completion tokens.",
        "Request too large for model `m` on tokens per minute (TPM): Limit 6000, please reduce your message size",
        "Rate limit reached: the maximum context length is 5 tokens",
        "messages: at least one message is required",
        "Invalid 'input[9].content': array too long.",
        "",
    ],
)
def test_other_limits_are_no_context_window(message: str) -> None:
    assert context_limit({"message": message}) is None


@given(st.dictionaries(st.sampled_from(["message", "code", "type", "n_ctx"]), st.recursive(st.text(), st.lists)))
def test_any_error_object_is_read(error: dict[str, Any]) -> None:
    context_limit({**error, "n_prompt_tokens": "9" * 5000})
