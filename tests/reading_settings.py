"""Settings as tests read them: from variables and a file, not from this process's environment."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from llm_gateway.errors import ConfigurationError
from llm_gateway.settings import Settings
from llm_gateway.settings_reader import load_settings

KEY = "0123456789abcdef" * 2
ENCRYPTION_KEY = KEY * 2
PRODUCTION = {"ENV": "production", "SERVICE_KEYS": f"ops:{KEY}", "ENCRYPTION_KEYS": ENCRYPTION_KEY}

Read: TypeAlias = Callable[..., Settings]


def reader(env_file: Path) -> Read:
    """Return a function that loads settings from variables (named without the prefix) and `env_file`."""

    def read(**variables: str) -> Settings:
        return load_settings({f"LLM_GATEWAY_{name}": text for name, text in variables.items()}, env_file)

    return read


def refusal(read: Read, **variables: str) -> str:
    """Return the error message for these variables."""
    with pytest.raises(ConfigurationError) as refused:
        read(**variables)
    return str(refused.value)
