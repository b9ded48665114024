"""Commands `agent …`: print the configuration with which a coding agent uses the gateway."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from typing import Annotated
from urllib.parse import urlsplit

from cyclopts import App, Parameter

from llm_gateway.cli.client import DEFAULT_URL, KEY_VARIABLE, URL_VARIABLE
from llm_gateway.cli.exits import USAGE, CommandFailed
from llm_gateway.cli.output import Flag

PLACEHOLDER = "your-service-key"
"""Printed for the service key unless one is given, so that no secret gets into a file or a terminal by accident."""
ANY_MODEL = "auto"
GEMINI_MODEL = "gemini-2.5-pro"
"""Gemini CLI has a meaning of its own for `auto`."""

Url = Annotated[str, Parameter(env_var=URL_VARIABLE, help="where the gateway listens")]
Key = Annotated[str, Parameter(help="the service key to print; a placeholder unless given")]
Model = Annotated[str, Parameter(help="the model to ask for; auto is the best provider's default model")]
PrintConfig = Annotated[Flag, Parameter(help="print the configuration")]


def agent_app() -> App:
    """Build the commands `agent …`."""
    app = App(name="agent", help="Configurations of coding agents for this gateway.")
    for command in (claude, codex, gemini, opencode, qwen, aider):
        app.command(command)
    return app


def claude(
    *, print_config: PrintConfig = False, url: Url = DEFAULT_URL, key: Key = PLACEHOLDER, model: Model = ANY_MODEL
) -> None:
    """Print the environment variables of Claude Code.

    ```sh
    llm-gateway agent claude --print-config --url https://llm.example.com
    ```
    """
    _print(claude_config, url, key, model, print_config=print_config)


def codex(
    *, print_config: PrintConfig = False, url: Url = DEFAULT_URL, key: Key = PLACEHOLDER, model: Model = ANY_MODEL
) -> None:
    """Print the configuration file of Codex.

    ```sh
    llm-gateway agent codex --print-config --url https://llm.example.com
    ```
    """
    _print(codex_config, url, key, model, print_config=print_config)


def gemini(
    *, print_config: PrintConfig = False, url: Url = DEFAULT_URL, key: Key = PLACEHOLDER, model: Model = GEMINI_MODEL
) -> None:
    """Print the environment variables of Gemini CLI.

    ```sh
    llm-gateway agent gemini --print-config --url https://llm.example.com
    ```
    """
    _print(gemini_config, url, key, model, print_config=print_config)


def opencode(
    *, print_config: PrintConfig = False, url: Url = DEFAULT_URL, key: Key = PLACEHOLDER, model: Model = ANY_MODEL
) -> None:
    """Print the configuration file of opencode.

    ```sh
    llm-gateway agent opencode --print-config --model gpt-4o-mini
    ```
    """
    _print(opencode_config, url, key, model, print_config=print_config)


def qwen(
    *, print_config: PrintConfig = False, url: Url = DEFAULT_URL, key: Key = PLACEHOLDER, model: Model = ANY_MODEL
) -> None:
    """Print the environment variables of Qwen Code.

    ```sh
    llm-gateway agent qwen --print-config
    ```
    """
    _print(qwen_config, url, key, model, print_config=print_config)


def aider(
    *, print_config: PrintConfig = False, url: Url = DEFAULT_URL, key: Key = PLACEHOLDER, model: Model = ANY_MODEL
) -> None:
    """Print the environment variables of aider.

    ```sh
    llm-gateway agent aider --print-config --model claude-sonnet-4-5
    ```
    """
    _print(aider_config, url, key, model, print_config=print_config)


def _print(config: Callable[[str, str, str], str], url: str, key: str, model: str, *, print_config: bool) -> None:
    if not print_config:
        raise CommandFailed("The command prints a configuration and starts no agent: add --print-config.", USAGE)
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc:
        raise CommandFailed(f"--url must be the gateway's address, such as {DEFAULT_URL}, not {url!r}.", USAGE)
    print(config(url.rstrip("/").removesuffix("/api/v1").removesuffix("/v1"), key, model))


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
