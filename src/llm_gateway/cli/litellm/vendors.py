"""Map LiteLLM's vendor prefixes, such as `azure/` in `azure/gpt-4o`, to the gateway's providers."""

from __future__ import annotations

import re
from typing import NamedTuple


class Vendor(NamedTuple):
    """A vendor: the provider's name and kind, and the variable that LiteLLM reads the key from by default.

    `suffix` is added to an `api_base`, `needs_base` says that there is no default address, and `is_open` that its
    server usually asks for no key.
    """

    name: str
    variable: str | None = None
    kind: str | None = None
    suffix: str = ""
    needs_base: bool = False
    is_open: bool = False


VENDORS = {
    "openai": Vendor("openai", "OPENAI_API_KEY"),
    "azure": Vendor("azure", "AZURE_API_KEY", "openai", suffix="/openai/v1", needs_base=True),
    "azure_ai": Vendor("azure-ai", "AZURE_AI_API_KEY", "openai", needs_base=True),
    "anthropic": Vendor("anthropic", "ANTHROPIC_API_KEY"),
    "gemini": Vendor("gemini", "GEMINI_API_KEY"),
    "groq": Vendor("groq", "GROQ_API_KEY"),
    "mistral": Vendor("mistral", "MISTRAL_API_KEY"),
    "deepseek": Vendor("deepseek", "DEEPSEEK_API_KEY"),
    "together_ai": Vendor("together", "TOGETHERAI_API_KEY"),
    "fireworks_ai": Vendor("fireworks", "FIREWORKS_AI_API_KEY"),
    "openrouter": Vendor("openrouter", "OPENROUTER_API_KEY"),
    "xai": Vendor("xai", "XAI_API_KEY"),
    "cerebras": Vendor("cerebras", "CEREBRAS_API_KEY"),
    "perplexity": Vendor("perplexity", "PERPLEXITYAI_API_KEY"),
    "cohere": Vendor("cohere", "COHERE_API_KEY"),
    "cohere_chat": Vendor("cohere", "COHERE_API_KEY"),
    "ollama": Vendor("ollama", suffix="/v1", is_open=True),
    "ollama_chat": Vendor("ollama", suffix="/v1", is_open=True),
    "hosted_vllm": Vendor("vllm", "HOSTED_VLLM_API_KEY", is_open=True),
    "lm_studio": Vendor("lmstudio", "LM_STUDIO_API_KEY", is_open=True),
    "xinference": Vendor("xinference", None, "openai", needs_base=True, is_open=True),
    "custom_openai": Vendor("server", "OPENAI_API_KEY", "openai", needs_base=True),
    "openai_like": Vendor("server", "OPENAI_LIKE_API_KEY", "openai", needs_base=True),
    "litellm_proxy": Vendor("litellm", "LITELLM_PROXY_API_KEY", "openai", needs_base=True),
}
NOT_CARRIED = {
    "bedrock": "the gateway has no dialect for Amazon Bedrock: use Bedrock's OpenAI-compatible address as a base_url",
    "vertex_ai": "the gateway has no dialect for Vertex AI: use the provider gemini with an API key of AI Studio",
    "vertex_ai_beta": "the gateway has no dialect for Vertex AI: use the provider gemini with an API key of AI Studio",
    "huggingface": "use the provider's OpenAI-compatible address, https://router.huggingface.co/v1, as a base_url",
}
ANY_OTHER = (
    "the gateway has no dialect for it: if it has an OpenAI-compatible address, add a provider with that base_url"
)
_GUESSES = ((re.compile(r"claude-"), "anthropic"), (re.compile(r"gemini-"), "gemini"))


def split(model: str) -> tuple[str, str]:
    """Return the vendor and the model's name at the vendor of a `litellm_params.model`."""
    vendor, slash, name = model.partition("/")
    if slash and (vendor in VENDORS or vendor in NOT_CARRIED or vendor.replace("_", "").isalnum()):
        return vendor, name.removeprefix("responses/") if vendor in ("openai", "azure") else name
    return next((found for pattern, found in _GUESSES if pattern.match(model)), "openai"), model
