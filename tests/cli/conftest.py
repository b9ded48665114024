"""Fixtures of the command line's tests: an empty directory, one gateway, one mock vendor."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.command import SetUp
from tests.databases import postgres
from tests.e2e.process import GatewayProcess
from tests.upstream import UpstreamProcess
from tests.upstream.forked import ForkedUpstream

__all__ = ["postgres"]

READER_KEY = "key-of-the-reader"


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.upper().startswith(("LLM_GATEWAY_", "GATEWAY_"))]:
        monkeypatch.delenv(name)
    for name in ("COLUMNS", "LINES"):  # pytest-xdist sets them; the pseudo-terminal has its own size
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def vendor() -> Iterator[UpstreamProcess]:
    with ForkedUpstream() as running:
        yield running


@pytest.fixture(scope="module")  # an idle one takes more than 1 % of a core, as long as it runs
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    keys = f"dev:dev-gateway-key,reader:{READER_KEY}:read"
    with GatewayProcess(tmp_path_factory.mktemp("gateway"), service_keys=keys) as gateway:
        yield gateway


@pytest.fixture
def set_up(running: GatewayProcess, vendor: UpstreamProcess, monkeypatch: pytest.MonkeyPatch) -> SetUp:
    """Provide a gateway without providers and overrides, at the address in the command line's variables."""
    for noun in ("providers", "overrides"):
        for each in running.call("GET", f"/api/v1/{noun}").json:
            assert running.call("DELETE", f"/api/v1/{noun}/{each['id']}").status == 204
    monkeypatch.setenv("GATEWAY_URL", f"http://localhost:{running.port}")
    vendor.reset()
    return SetUp(running, vendor)
