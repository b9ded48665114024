"""Fixtures of the tests with coding agents (`make test-agents`): mock vendors, a gateway, an agent; and the matrix.

The agents are npm packages of their own folder. They run only where no network but loopback is, and without them or
with another network pytest collects their tests not at all.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.agents.programs import AGENTS, COMMANDS, Agent
from tests.agents.vendor import Vendor
from tests.e2e.process import GatewayProcess


class Account(NamedTuple):
    """Configuration of a provider that speaks a dialect: its kind, a model of its vendor and its protocols."""

    kind: str
    model: str
    protocols: list[str] | None = None


ACCOUNTS = {
    "openai": Account("openai", "gpt-4.1", ["openai_chat"]),
    "responses": Account("openai", "gpt-5.4", ["openai_responses"]),
    "anthropic": Account("anthropic", "claude-sonnet-4-5"),
    "gemini": Account("gemini", "gemini-2.5-pro"),
}
"""An account by dialect."""

if not COMMANDS.exists() or {name for _, name in socket.if_nameindex()} != {"lo"}:
    collect_ignore = ["test_agents.py"]


@pytest.fixture
def vendor() -> Iterator[Vendor]:
    with Vendor() as running:
        yield running


@pytest.fixture(params=ACCOUNTS, ids=lambda name: f"to_{name}")
def dialect(request: pytest.FixtureRequest) -> str:
    """Provide each dialect in turn."""
    name: str = request.param
    return name


def add_provider(
    gateway: GatewayProcess, name: str, vendor: Vendor, dialect: str, model: str, **fields: object
) -> None:
    """Add a provider that speaks the dialect and has this model."""
    kind, _, protocols = ACCOUNTS[dialect]
    more = fields if protocols is None else {**fields, "protocols": protocols}
    gateway.provider(name, vendor.base_url(dialect), model, kind=kind, **more)


@pytest.fixture
def gateway(tmp_path: Path, vendor: Vendor, dialect: str) -> Iterator[GatewayProcess]:
    """Provide a gateway whose only provider speaks the dialect."""
    with GatewayProcess(tmp_path) as running:
        add_provider(running, ACCOUNTS[dialect].kind, vendor, dialect, ACCOUNTS[dialect].model)
        yield running


@pytest.fixture
def agent(request: pytest.FixtureRequest, tmp_path: Path, gateway: GatewayProcess, dialect: str) -> Agent:
    """Make the agent that a test names, configured for the gateway and the model of the dialect's vendor."""
    found = AGENTS[request.param]
    if not found.command_path().exists():
        pytest.skip(f"{found.name} is not installed")
    return found(tmp_path, gateway.port, ACCOUNTS[dialect].model)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the matrix: scenario and agent by dialect."""
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            name, _, parameters = report.nodeid.rpartition("::")[2].rstrip("]").partition("[")
            found = dict(each.partition("_")[::2] for each in parameters.split("-"))
            if {"from", "to"} <= found.keys() and (outcome != "passed" or report.when == "call"):
                scenario = name.removeprefix("test_an_agent_").replace("_", " ")
                cells.setdefault((scenario, found["from"]), {})[found["to"]] = outcome
    if not cells:
        return
    terminalreporter.section("agents")
    terminalreporter.write_line(f"{'':58}" + "".join(f"{dialect:>11}" for dialect in ACCOUNTS))
    for (scenario, program), row in sorted(cells.items()):
        figures = "".join(f"{row.get(dialect, ''):>11}" for dialect in ACCOUNTS)
        terminalreporter.write_line(f"{scenario:48}{program:10}{figures}")
