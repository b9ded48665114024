"""Stock coding agents through the gateway, with every vendor's dialect behind it."""

from __future__ import annotations

import struct
import zlib

from tests.agents.conftest import ACCOUNTS, add_provider
from tests.agents.programs import Agent
from tests.agents.vendor import Vendor
from tests.e2e.process import GatewayProcess

TURNS = 20
SUCCESSORS = {"openai": "anthropic", "responses": "gemini", "anthropic": "gemini", "gemini": "openai"}
"""The dialect of the provider that takes over, by that of the first."""


def picture() -> bytes:
    """Return a small red PNG."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0))
    rows = chunk(b"IDAT", zlib.compress((b"\0" + b"\xff\0\0" * 8) * 8))
    return b"\x89PNG\r\n\x1a\n" + head + rows + chunk(b"IEND", b"")


def test_an_agent_answers_with_a_text(agent: Agent, vendor: Vendor) -> None:
    assert agent.ask("Do: say pong") == "pong it is."
    assert vendor.refused == []


def test_an_agent_uses_a_tool_and_sends_its_result(agent: Agent, vendor: Vendor) -> None:
    note = agent.work / "note.txt"
    note.write_text("the word is xylophone\n")
    assert "xylophone" in agent.ask(f"Do: read {note}")
    assert vendor.refused == []


def test_an_agent_shows_a_picture_to_the_model(agent: Agent, vendor: Vendor) -> None:
    image = agent.work / "dot.png"
    image.write_bytes(picture())
    assert agent.ask(f"Do: view {image}") == "I see 1 picture."
    assert vendor.refused == []


def test_an_agent_resumes_its_session_for_twenty_turns(agent: Agent, vendor: Vendor, gateway: GatewayProcess) -> None:
    for turn in range(TURNS):
        assert agent.ask(f"Do: say word{turn}", resume=turn > 0) == f"word{turn} it is."
    assert vendor.refused == []
    assert gateway.summary()["error_requests"] == 0


def test_an_agent_goes_on_when_another_vendor_takes_over(
    agent: Agent, vendor: Vendor, gateway: GatewayProcess, dialect: str
) -> None:
    note = agent.work / "note.txt"
    note.write_text("the word is xylophone\n")
    assert "xylophone" in agent.ask(f"Do: read {note}" if agent.resumes_tools else "Do: say xylophone")
    other = SUCCESSORS[dialect]
    with Vendor() as spare:
        add_provider(gateway, "spare", spare, other, ACCOUNTS[dialect].model, priority=0)
        vendor.stop()
        assert agent.ask("Do: say two", resume=True) == "two it is."
        assert spare.requests
        assert vendor.refused == spare.refused == []
