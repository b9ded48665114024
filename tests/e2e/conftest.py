"""Fixtures of the end-to-end tests: one mock vendor, and one gateway for tests that need no start of their own."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.process import GatewayProcess
from tests.e2e.sdk_clients import close_all
from tests.upstream import UpstreamProcess
from tests.upstream.forked import ForkedUpstream


@pytest.fixture(scope="session")
def vendor() -> Iterator[UpstreamProcess]:
    with ForkedUpstream() as running:
        yield running


@pytest.fixture(autouse=True)
def close_sdk_clients() -> Iterator[None]:
    """Close the clients of `sdk_clients` after the test."""
    yield
    close_all()


@pytest.fixture
def mock(vendor: UpstreamProcess) -> UpstreamProcess:
    """Provide the mock vendor without recorded calls."""
    vendor.reset()
    return vendor


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with GatewayProcess(tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway


@pytest.fixture
def gateway(running: GatewayProcess) -> GatewayProcess:
    """Provide a running gateway without providers."""
    for provider in running.call("GET", "/api/v1/providers").json:
        assert running.call("DELETE", f"/api/v1/providers/{provider['id']}").status == 204
    return running
