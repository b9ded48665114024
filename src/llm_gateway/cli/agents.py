"""Commands `agent …`: print the configuration with which a coding agent uses the gateway."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated
from urllib.parse import urlsplit

from cyclopts import App, Parameter

from llm_gateway.cli.client import DEFAULT_URL, URL_VARIABLE
from llm_gateway.cli.exits import USAGE, CommandFailed
from llm_gateway.cli.output import Flag
from llm_gateway.domain.agent_configurations import (
    ANY_MODEL,
    GEMINI_MODEL,
    PLACEHOLDER,
    aider_config,
    claude_config,
    codex_config,
    gemini_config,
    opencode_config,
    qwen_config,
)

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
