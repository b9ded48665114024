"""The setting that says where usage must be before its answer leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from llm_gateway.errors import ConfigurationError
from llm_gateway.settings_reader import load_settings


def test_usage_in_the_database_needs_postgres(tmp_path: Path) -> None:
    wanted = {"LLM_GATEWAY_JOURNAL": "database"}
    with pytest.raises(ConfigurationError) as refused:
        load_settings(wanted, tmp_path / ".env", [])
    assert str(refused.value) == (
        "LLM_GATEWAY_JOURNAL=database needs a Postgres database, since a SQLite file is on this host's disk: set "
        "LLM_GATEWAY_DATABASE_URL to postgresql://…, or unset LLM_GATEWAY_JOURNAL."
    )
    on_postgres = wanted | {"LLM_GATEWAY_DATABASE_URL": "postgresql://gateway@db/gateway"}
    assert load_settings(on_postgres, tmp_path / ".env", []).journal == "database"
    assert load_settings({}, tmp_path / ".env", []).journal == "disk"
