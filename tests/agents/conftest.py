"""Fixtures of the tests with coding agents (`make test-agents`): mock vendors, a gateway, an agent; and the matrix.

The agents are npm packages of their own folder. Where they are not installed, pytest collects nothing here.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.agents.programs import AGENTS, COMMANDS, Agent
from tests.agents.vendor import Vendor
from tests.e2e.process import GatewayProcess

MODELS = {"openai": "gpt-4.1", "anthropic": "claude-sonnet-4-5", "gemini": "gemini-2.5-pro"}
"""A model of each vendor, by dialect."""

if not all((COMMANDS / name).exists() for name in AGENTS):
    collect_ignore_glob = ["test_*.py"]


@pytest.fixture
def vendor() -> Iterator[Vendor]:
    with Vendor() as running:
        yield running


@pytest.fixture(params=MODELS)
def kind(request: pytest.FixtureRequest) -> str:
    """Provide each dialect in turn."""
    name: str = request.param
    return name


@pytest.fixture
def gateway(tmp_path: Path, vendor: Vendor, kind: str) -> Iterator[GatewayProcess]:
    """Provide a gateway whose only provider speaks the dialect."""
    with GatewayProcess(tmp_path) as running:
        running.provider("acme", vendor.base_url(kind), MODELS[kind], kind=kind)
        yield running


@pytest.fixture(params=AGENTS)
def agent(request: pytest.FixtureRequest, tmp_path: Path, gateway: GatewayProcess, kind: str) -> Agent:
    """Provide each agent in turn, configured for the gateway and the model of the dialect's vendor."""
    return AGENTS[request.param](tmp_path, gateway.port, MODELS[kind])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the matrix: scenario and agent by dialect."""
    cells: dict[tuple[str, str], dict[str, str]] = {}
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.stats.get(outcome, []):
            name, _, parameters = report.nodeid.rpartition("::")[2].partition("[")
            words = parameters.rstrip("]").split("-")
            dialect, program = (next((word for word in words if word in known), "") for known in (MODELS, AGENTS))
            if program and (outcome != "passed" or report.when == "call"):
                cells.setdefault((name.removeprefix("test_an_agent_").replace("_", " "), program), {})[dialect] = outcome
    if not cells:
        return
    terminalreporter.section("agents")
    terminalreporter.write_line(f"{'':46}" + "".join(f"{dialect:>11}" for dialect in MODELS))
    for (scenario, program), row in sorted(cells.items()):
        figures = "".join(f"{row.get(dialect, ''):>11}" for dialect in MODELS)
        terminalreporter.write_line(f"{scenario[:36]:37}{program:9}{figures}")
