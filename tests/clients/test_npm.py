"""JavaScript client libraries against the gateway: one script per package, run by node, one step at a time."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from llmock.pytest_plugin import LLMock

from tests.clients.conftest import MODELS, configure
from tests.e2e.process import GatewayProcess

HERE = Path(__file__).with_name("npm")
NODE = shutil.which("node")
TEXT = "The capital is Paris. It is a large town."
CAPITAL = {"city": "Paris", "people": 2_000_000}
PACKAGES = pytest.mark.parametrize("package", ["openai", "anthropic", "ai"])

pytestmark = [
    pytest.mark.skipif(NODE is None, reason="There is no node here: install Node.js 20 or newer"),
    pytest.mark.skipif(
        not (HERE / "node_modules").is_dir(), reason="make test-clients installs the packages, with npm"
    ),
]


def run(package: str, step: str) -> Any:
    """Run a step of a script and return its decoded output."""
    assert NODE is not None
    done = subprocess.run(
        [NODE, f"{package}.mjs", step], cwd=HERE, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@PACKAGES
@pytest.mark.parametrize("step", ["chat", "stream"])
@pytest.mark.usefixtures("vendor")
def test_an_answer_has_text_reason_and_usage(llmock: LLMock, package: str, step: str) -> None:
    llmock.reply(TEXT)

    told = run(package, step)

    assert told["text"] == TEXT
    assert told["reason"] == ("end_turn" if package == "anthropic" else "stop")
    assert told["tokens"] > 10, "as many as the mock counts for the answer, and the question's"
    llmock.assert_resilient(strict=True)


@pytest.mark.parametrize("step", ["responses", "responsesStream"])
@pytest.mark.usefixtures("vendor")
def test_the_responses_api_returns_text(llmock: LLMock, step: str) -> None:
    llmock.reply(TEXT)

    assert run("openai", step) == TEXT


@pytest.mark.parametrize(
    ("package", "step"), [("openai", "tools"), ("anthropic", "tools"), ("ai", "tools"), ("ai", "toolsStream")]
)
@pytest.mark.usefixtures("vendor")
def test_a_tool_round_trip(llmock: LLMock, package: str, step: str) -> None:
    llmock.call_tool("weather", {"city": "Paris"}).reply(TEXT)

    assert run(package, step) == TEXT
    assert len(llmock.requests) == 2
    assert "sunny in Paris" in json.dumps(llmock.last_request.body)


@PACKAGES
def test_a_schema_reaches_the_vendor(llmock: LLMock, vendor: str, package: str) -> None:
    llmock.reply(json.dumps(CAPITAL))

    assert run(package, "schema") == CAPITAL
    assert '"people"' in json.dumps(llmock.last_request.body), f"{vendor} was told the schema"


def test_tokens_are_counted_for_anthropics_library(gateway: GatewayProcess, llmock: LLMock) -> None:
    configure(gateway, llmock, "openai")

    assert 0 < run("anthropic", "counted") < 20


NAMES = {
    "openai": ("NotFoundError", "AuthenticationError", "InternalServerError"),
    "anthropic": ("NotFoundError", "AuthenticationError", "InternalServerError"),
    "ai": ("APICallError",) * 3,
}


@PACKAGES
@pytest.mark.usefixtures("vendor")
def test_errors_raise_the_librarys_own_exceptions(llmock: LLMock, package: str) -> None:
    llmock.outage(status=500)

    unknown, wrong, fails = (run(package, step) for step in ("unknownModel", "wrongKey", "vendorFails"))

    assert (unknown["status"], wrong["status"], fails["status"]) == (404, 401, 502)
    assert (unknown["name"], wrong["name"], fails["name"]) == NAMES[package]
    assert "Available models: auto" in unknown["message"]
    assert any(model in unknown["message"] for model in MODELS.values())
    assert "Internal server error." in fails["message"]
