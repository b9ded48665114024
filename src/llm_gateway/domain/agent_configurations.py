"""Configurations with which coding agents use the gateway, as the command line and the dashboard show them.

Each function takes the gateway's address without a path, the service key or a placeholder, and the model.
"""

from __future__ import annotations

import json
import shlex

KEY_VARIABLE = "GATEWAY_KEY"
"""Environment variable with the service key, for agents whose configuration is a file."""
PLACEHOLDER = "your-service-key"
"""Stands for the service key, so that no secret gets into a file or a terminal by accident."""
ANY_MODEL = "auto"
GEMINI_MODEL = "gemini-2.5-pro"
"""Gemini CLI has a meaning of its own for `auto`."""


def claude_config(url: str, key: str, model: str) -> str:
    """Return environment variables: https://code.claude.com/docs/en/llm-gateway."""
    return _exports(
        ANTHROPIC_BASE_URL=url,
        ANTHROPIC_AUTH_TOKEN=key,
        ANTHROPIC_MODEL=model,
        ANTHROPIC_DEFAULT_HAIKU_MODEL=model,
    )


def codex_config(url: str, key: str, model: str) -> str:
    """Return `config.toml`: https://developers.openai.com/codex/config-advanced."""
    return "\n".join(
        (
            f"# ~/.codex/config.toml; set the key with: {_exports(**{KEY_VARIABLE: key})}",
            f"model = {json.dumps(model)}",
            'model_provider = "gateway"',
            "",
            "[model_providers.gateway]",
            'name = "LLM Gateway"',
            f"base_url = {json.dumps(url + '/v1')}",
            f'env_key = "{KEY_VARIABLE}"',
            'wire_api = "responses"',
        )
    )


def gemini_config(url: str, key: str, model: str) -> str:
    """Return environment variables: https://geminicli.com/docs/get-started/authentication."""
    return _exports(GOOGLE_GEMINI_BASE_URL=url, GEMINI_API_KEY=key, GEMINI_MODEL=model)


def opencode_config(url: str, key: str, model: str) -> str:
    """Return `opencode.json`: https://opencode.ai/docs/providers.

    Without `modalities` opencode sends no pictures: https://github.com/anomalyco/opencode/issues/25229.
    """
    modalities = {"input": ["text", "image"], "output": ["text"]}
    provider = {
        "npm": "@ai-sdk/openai-compatible",
        "name": "LLM Gateway",
        "options": {"baseURL": f"{url}/v1", "apiKey": f"{{env:{KEY_VARIABLE}}}"},
        "models": {model: {"name": model, "attachment": True, "tool_call": True, "modalities": modalities}},
    }
    document = {
        "$schema": "https://opencode.ai/config.json",
        "model": f"gateway/{model}",
        "small_model": f"gateway/{model}",
        "provider": {"gateway": provider},
    }
    head = f"// ~/.config/opencode/opencode.json; set the key with: {_exports(**{KEY_VARIABLE: key})}"
    return f"{head}\n{json.dumps(document, indent=2)}"


def qwen_config(url: str, key: str, model: str) -> str:
    """Return environment variables: https://qwenlm.github.io/qwen-code-docs/en/users/configuration/auth/."""
    return _exports(OPENAI_BASE_URL=f"{url}/v1", OPENAI_API_KEY=key, OPENAI_MODEL=model)


def aider_config(url: str, key: str, model: str) -> str:
    """Return environment variables: https://aider.chat/docs/llms/openai-compat.html."""
    return _exports(OPENAI_API_BASE=f"{url}/v1", OPENAI_API_KEY=key, AIDER_MODEL=f"openai/{model}")


def _exports(**variables: str) -> str:
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables.items())
