"""Command `keys new`: the generated keys are valid in the settings."""

from __future__ import annotations

import pytest

from llm_gateway.cli.keys import SCOPES
from llm_gateway.domain.key_secret import is_intact, looks_like_secret
from llm_gateway.settings import SCOPES as KNOWN_SCOPES
from llm_gateway.settings_reader import load_settings
from llm_gateway.store.secrets import parse_keys
from tests.cli.command import call, on_terminal


def test_a_service_key_is_an_entry_of_the_setting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shop = call(capsys, "keys", "new", "--name", "shop")
    ops = call(capsys, "keys", "new", "--name", "ops", "--scope", "admin")
    encryption = call(capsys, "keys", "new", "--encryption")
    assert {made.code for made in (shop, ops, encryption)} == {0}
    assert {made.err for made in (shop, ops, encryption)} == {""}
    monkeypatch.setenv("LLM_GATEWAY_ENV", "production")
    monkeypatch.setenv("LLM_GATEWAY_SERVICE_KEYS", f"{shop.out.strip()},{ops.out.strip()}")
    monkeypatch.setenv("LLM_GATEWAY_ENCRYPTION_KEYS", encryption.out.strip())
    callers = load_settings().callers()
    assert [(name, set(scopes)) for name, _, scopes in callers] == [("shop", {"call", "read"}), ("ops", {"admin"})]
    assert len({key for _, key, _ in callers}) == 2
    assert [len(key) for key in parse_keys(encryption.out)] == [32]


def test_a_new_key_is_printed_as_json_with_its_entry(capsys: pytest.CaptureFixture[str]) -> None:
    made = call(capsys, "keys", "new", "--name", "shop", "--scope", "call", "--json").json
    assert made["entry"] == f"shop:{made['key']}:call"
    assert (made["name"], made["scopes"]) == ("shop", ["call"])
    assert set(call(capsys, "keys", "new", "--encryption", "--json").json) == {"key"}
    secret = call(capsys, "keys", "new", "--secret", "--json").json["secret"]
    assert looks_like_secret(secret)
    assert is_intact(secret.encode())


@pytest.mark.parametrize(
    "flags", [["--name", "a:b"], ["--name", "a b"], ["--name", ""], ["--scope", "root"], ["--scope", ""]]
)
def test_an_invalid_name_or_scope_ends_with_2(capsys: pytest.CaptureFixture[str], flags: list[str]) -> None:
    ended = call(capsys, "keys", "new", *flags)
    assert ended.code == 2
    assert flags[0] in ended.sentence


def test_a_terminal_gets_a_hint_to_the_setting() -> None:
    assert "LLM_GATEWAY_SERVICE_KEYS" in on_terminal("keys", "new").out
    assert "llm-gateway rekey" in on_terminal("keys", "new", "--encryption").out


def test_the_scopes_match_those_of_the_settings() -> None:
    assert set(SCOPES) == KNOWN_SCOPES
