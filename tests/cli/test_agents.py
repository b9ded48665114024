"""Commands `agent …`: the printed configurations are valid, hold the given values, and are those of docs/AGENTS.md."""

from __future__ import annotations

import json
import subprocess
import tomllib
from pathlib import Path

import pytest

from llm_gateway.domain.agent_configurations import PLACEHOLDER
from tests.cli.command import call

DOCUMENT = Path(__file__).parents[2] / "docs" / "AGENTS.md"
AGENTS = ("claude", "codex", "gemini", "opencode", "qwen", "aider")
GIVEN = ("--url", "https://llm.example.com/v1/", "--key", "it's secret", "--model", "gpt-4o")


def printed(capsys: pytest.CaptureFixture[str], agent: str, *flags: str) -> str:
    ran = call(capsys, "agent", agent, "--print-config", *flags)
    assert (ran.code, ran.err) == (0, "")
    return ran.out


def exported(lines: str) -> dict[str, str]:
    """Return the variables that a shell has after these lines."""
    script = ["sh", "-c", f"{lines}\nenv -0"]
    environment = subprocess.check_output(script, env={}, text=True).split("\0")
    return dict(each.split("=", 1) for each in environment if each)


@pytest.mark.parametrize("agent", AGENTS)
def test_the_document_shows_what_is_printed(
    agent: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GATEWAY_URL", raising=False)

    assert f"\n{printed(capsys, agent)}```\n" in DOCUMENT.read_text("utf-8")


@pytest.mark.parametrize("agent", AGENTS)
def test_no_key_is_printed_unless_given(
    agent: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_KEY", "a-real-secret")

    out = printed(capsys, agent)

    assert "a-real-secret" not in out
    assert PLACEHOLDER in out


def test_the_variables_of_qwen_code_and_aider_name_openais_api(capsys: pytest.CaptureFixture[str]) -> None:
    qwen, aider = exported(printed(capsys, "qwen", *GIVEN)), exported(printed(capsys, "aider", *GIVEN))

    assert qwen["OPENAI_BASE_URL"] == aider["OPENAI_API_BASE"] == "https://llm.example.com/v1"
    assert qwen["OPENAI_API_KEY"] == aider["OPENAI_API_KEY"] == "it's secret"
    assert (qwen["OPENAI_MODEL"], aider["AIDER_MODEL"]) == ("gpt-4o", "openai/gpt-4o")


def test_the_variables_of_claude_code_and_gemini_cli_survive_a_shell(capsys: pytest.CaptureFixture[str]) -> None:
    claude, gemini = exported(printed(capsys, "claude", *GIVEN)), exported(printed(capsys, "gemini", *GIVEN))

    assert claude["ANTHROPIC_BASE_URL"] == gemini["GOOGLE_GEMINI_BASE_URL"] == "https://llm.example.com"
    assert claude["ANTHROPIC_AUTH_TOKEN"] == gemini["GEMINI_API_KEY"] == "it's secret"
    assert claude["ANTHROPIC_MODEL"] == gemini["GEMINI_MODEL"] == "gpt-4o"


def test_the_file_of_codex_is_toml(capsys: pytest.CaptureFixture[str]) -> None:
    document = tomllib.loads(printed(capsys, "codex", *GIVEN))

    assert document["model"] == "gpt-4o"
    provider = document["model_providers"][document["model_provider"]]
    assert provider["base_url"] == "https://llm.example.com/v1"
    assert provider["env_key"] == "GATEWAY_KEY"


def test_the_file_of_opencode_is_json_below_a_comment(capsys: pytest.CaptureFixture[str]) -> None:
    comment, _, text = printed(capsys, "opencode", *GIVEN).partition("\n")
    document = json.loads(text)

    assert comment.startswith("// ")
    name, _, model = document["model"].partition("/")
    assert model in document["provider"][name]["models"]
    assert document["provider"][name]["options"]["baseURL"] == "https://llm.example.com/v1"


def test_the_gateways_url_is_taken_from_the_environment(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_URL", "http://10.0.0.7:8200")

    assert "ANTHROPIC_BASE_URL=http://10.0.0.7:8200\n" in printed(capsys, "claude")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "--print-config"),
        (("--print-config", "--url", "localhost:8200"), "--url must be the gateway's address"),
        (("--print-config", "--url", "https://"), "--url must be the gateway's address"),
    ],
)
def test_a_wrong_call_says_what_to_do(flags: tuple[str, ...], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    ran = call(capsys, "agent", "claude", *flags)

    assert ran.code == 2
    assert words in ran.sentence
