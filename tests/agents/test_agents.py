"""Stock coding agents through the gateway, with every vendor's dialect behind it."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import pytest

from tests.agents.conftest import ACCOUNTS, add_provider
from tests.agents.programs import Agent
from tests.agents.script import WORDS
from tests.agents.vendor import Vendor
from tests.e2e.process import GatewayProcess

TURNS = 20
STOCK = ("claude", "codex", "gemini")
"""The vendors' own agents."""
WITH_TOOLS = (*STOCK, "opencode", "qwen")
SUCCESSORS = {"openai": "anthropic", "responses": "gemini", "anthropic": "gemini", "gemini": "openai"}
"""The dialect of the provider that takes over, by that of the first."""
AT_A_USED_UP_BUDGET = {
    "claude": r"Budget 'core monthly' is used up: \d+ of 1 tokens; it resets \d{4}-\d\d-01T",
    "codex": r"hit your usage limit\. Try again at \w{3} 1st, \d{4}",
}
"""What agents show when a budget of a month is used up: the gateway's sentence, or their own with the date."""


def agents(*names: str) -> pytest.MarkDecorator:
    """Run a test with each of these agents."""
    return pytest.mark.parametrize("agent", names, indirect=True, ids=[f"from_{name}" for name in names])


def note(agent: Agent) -> str:
    """Write a file for the agent to read. Returns its path."""
    path = agent.work / "note.txt"
    path.write_text(f"{WORDS[0]}\n")
    return str(path)


def picture() -> bytes:
    """Return a small red PNG."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
    rows = chunk(b"IDAT", zlib.compress((b"\0" + b"\xff\0\0" * 8) * 8))
    return b"\x89PNG\r\n\x1a\n" + head + rows + chunk(b"IEND", b"")


@agents(*WITH_TOOLS, "aider")
def test_an_agent_answers_with_a_text(agent: Agent, vendor: Vendor) -> None:
    assert agent.ask("Do: say pong") == "pong it is."
    assert vendor.refused == []


@agents(*WITH_TOOLS)
def test_an_agent_uses_a_tool_and_sends_its_result(agent: Agent, vendor: Vendor) -> None:
    assert "xylophone" in agent.ask(f"Do: read {note(agent)}")
    assert vendor.refused == []


@agents(*WITH_TOOLS)
def test_an_agent_shows_a_picture_to_the_model(agent: Agent, vendor: Vendor) -> None:
    image = agent.work / "dot.png"
    image.write_bytes(picture())
    assert agent.ask(f"Do: view {image}") == "I see 1 picture."
    assert vendor.refused == []


@agents("aider")
def test_an_agent_edits_a_file_as_the_model_answers(agent: Agent, vendor: Vendor) -> None:
    path = Path(note(agent))
    agent.ask(f"Do: edit {path.name}")
    assert path.read_text() == f"{WORDS[1]}\n"
    assert vendor.refused == []


@agents(*STOCK)
def test_an_agent_resumes_its_session_for_twenty_turns(agent: Agent, vendor: Vendor, gateway: GatewayProcess) -> None:
    path = note(agent)
    for turn in range(TURNS):
        uses_tool = turn % 5 == 1
        answer = agent.ask(f"Do: read {path}" if uses_tool else f"Do: say word{turn}", resume=turn > 0)
        assert ("xylophone" if uses_tool else f"word{turn} it is.") in answer
    assert vendor.refused == []
    assert gateway.summary()["error_requests"] == 0


@agents(*WITH_TOOLS)
def test_an_agent_goes_on_when_another_vendor_takes_over(
    agent: Agent, vendor: Vendor, gateway: GatewayProcess, dialect: str
) -> None:
    assert "xylophone" in agent.ask(f"Do: read {note(agent)}")
    other = SUCCESSORS[dialect]
    with Vendor() as spare:
        add_provider(gateway, ACCOUNTS[other].kind, spare, other, ACCOUNTS[dialect].model, priority=0)
        vendor.stop()
        assert agent.ask("Do: say two", resume=True) == "two it is."
        assert spare.requests
        assert vendor.refused == spare.refused == []


@agents(*AT_A_USED_UP_BUDGET)
def test_an_agent_makes_one_call_at_a_used_up_budget(agent: Agent, vendor: Vendor, gateway: GatewayProcess) -> None:
    fields = {"name": "core monthly", "limit_tokens": 10**9, "period": "month"}
    path = f"/api/v1/budgets/{gateway.call('POST', '/api/v1/budgets', fields).json['id']}"
    assert agent.ask("Do: say pong") == "pong it is."
    gateway.summary()  # waits until it is counted
    assert gateway.call("PATCH", path, {"limit_tokens": 1}).status == 200
    calls = len(vendor.requests)
    done = agent.run("Do: say two")
    assert re.search(AT_A_USED_UP_BUDGET[agent.name], done.stdout), done
    refused = gateway.call("GET", "/api/v1/usage/records?outcome=refused_budget").json["records"]
    assert (len(refused), len(vendor.requests)) == (1, calls), refused
