"""Name the program that sent a request by its User-Agent: a coding agent, an SDK, `other`.

The names are labels of usage records and reports, so there are few of them, whatever clients send.
"""

from __future__ import annotations

from functools import lru_cache

OTHER = "other"
AGENTS: tuple[tuple[str, str], ...] = (
    ("claude-cli/", "claude-code"),
    ("codex", "codex"),  # codex_cli_rs/…, codex_exec/…, codex_vscode/…, codex-tui/…
    ("geminicli", "gemini-cli"),  # GeminiCLI/…, GeminiCLI-tui/…
    ("cloudcodevscode/", "gemini-code-assist"),
    ("opencode/", "opencode"),
    ("qwencode/", "qwen-code"),
    ("aider/", "aider"),
    ("cline/", "cline"),
    ("roocode/", "roo-code"),
    ("kilo-code/", "kilo-code"),
    ("goose/", "goose"),
    ("openai/python", "openai-python"),
    ("asyncopenai/python", "openai-python"),
    ("openai/js", "openai-node"),
    ("anthropic/python", "anthropic-python"),
    ("asyncanthropic/python", "anthropic-python"),
    ("anthropic/js", "anthropic-node"),
    ("google-genai-sdk/", "google-genai"),
    ("litellm/", "litellm"),
    ("curl/", "curl"),
)
"""Beginnings of User-Agent, in lower case, and the names of the programs that send them; the first match decides.

Sources, read 2026-11-27: https://code.claude.com/docs/en/llm-gateway-protocol, github.com/openai/codex
(codex-rs/login/src/auth/default_client.rs), github.com/google-gemini/gemini-cli/pull/21934 and issues/23254; for the
SDKs, the `_client.py` and `client.ts` of openai, anthropic and google-genai.
"""
_READ, _REMEMBERED = 200, 512
"""Bytes of the header that are read, and values whose name is remembered."""


def agent_of(user_agent: bytes | None) -> str | None:
    """Return the name of the program that sends this User-Agent, `other` for an unknown one, None without a header."""
    return None if not user_agent else _named(user_agent[:_READ])


@lru_cache(maxsize=_REMEMBERED)
def _named(user_agent: bytes) -> str:
    text = user_agent.decode("latin-1").lower()
    return next((name for beginning, name in AGENTS if text.startswith(beginning)), OTHER)
