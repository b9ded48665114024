"""The command `llm` against the gateway, configured in its extra-openai-models.yaml."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from llmock.pytest_plugin import LLMock

from tests.e2e.process import KEY, GatewayProcess

COMMAND = Path(sys.executable).with_name("llm")
MODEL = """
- model_id: {model_id}
  model_name: {model_name}
  api_base: http://127.0.0.1:{port}/v1
  api_key_name: gateway
  supports_tools: true
  supports_schema: true
  vision: true
  responses: {responses}
"""
TEXT = "The capital is Paris. It is a large town."
WEATHER = 'def weather(city: str) -> str:\n    return f"sunny in {city}"\n'
MODELS = pytest.mark.parametrize("model", ["chat", "responses"])
STREAM = pytest.mark.parametrize("flags", [["--no-stream"], []], ids=["whole", "stream"])


class Command:
    """The command `llm` with its own user directory."""

    def __init__(self, folder: Path, gateway: GatewayProcess) -> None:
        self.environment = {**os.environ, "LLM_USER_PATH": str(folder)}
        names = (("chat", "auto", "false"), ("responses", "auto", "true"), ("unknown", "no-such-model", "false"))
        models = [
            MODEL.format(model_id=model_id, model_name=name, responses=responses, port=gateway.port)
            for model_id, name, responses in names
        ]
        (folder / "extra-openai-models.yaml").write_text("".join(models))
        (folder / "keys.json").write_text(json.dumps({"gateway": KEY}))

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [COMMAND, *words],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )


@pytest.fixture
def llm(tmp_path: Path, gateway: GatewayProcess) -> Command:
    return Command(tmp_path, gateway)


@MODELS
@STREAM
@pytest.mark.usefixtures("vendor")
def test_an_answer_is_printed_with_its_usage(llmock: LLMock, llm: Command, model: str, flags: list[str]) -> None:
    llmock.reply(TEXT)

    done = llm("prompt", "Where?", "-m", model, "-u", *flags)

    assert (done.returncode, done.stdout.strip()) == (0, TEXT), done.stderr
    assert "10 output" in done.stderr, "the tokens used"
    llmock.assert_resilient(strict=True)


@MODELS
@pytest.mark.usefixtures("vendor")
def test_a_tool_round_trip(llmock: LLMock, llm: Command, model: str) -> None:
    llmock.call_tool("weather", {"city": "Paris"}).reply(TEXT)

    done = llm("prompt", "Where?", "-m", model, "--functions", WEATHER)

    assert (done.returncode, done.stdout.strip()) == (0, TEXT), done.stderr
    assert "sunny in Paris" in json.dumps(llmock.last_request.body)


@MODELS
@pytest.mark.usefixtures("vendor")
def test_a_schema_reaches_the_vendor(llmock: LLMock, llm: Command, model: str) -> None:
    llmock.reply('{"city": "Paris", "people": 2000000}')

    done = llm("prompt", "Where?", "-m", model, "--schema", "city, people int")

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"city": "Paris", "people": 2_000_000}
    assert '"people"' in json.dumps(llmock.last_request.body), "the vendor was told the schema"


@pytest.mark.usefixtures("vendor")
def test_a_conversation_goes_on(llmock: LLMock, llm: Command) -> None:
    llmock.reply("Hello, Ada.").reply("You are Ada.")

    assert llm("prompt", "I am Ada", "-m", "chat").returncode == 0
    assert llm("prompt", "Who am I?", "-c").stdout.strip() == "You are Ada."
    assert "Hello, Ada." in json.dumps(llmock.last_request.body)


@STREAM
@pytest.mark.usefixtures("vendor")
def test_errors_of_the_gateway_are_printed(llmock: LLMock, llm: Command, flags: list[str]) -> None:
    llmock.fail(400, message="too odd", times=None)

    refused, unknown = (llm("prompt", "Where?", "-m", model, *flags) for model in ("chat", "unknown"))

    assert (refused.returncode, unknown.returncode) == (1, 1)
    assert "too odd" in refused.stderr
    assert "Available models: auto" in unknown.stderr
