"""Fixtures of the tests with third-party client libraries, configured with base URL and key only (`make test-clients`).

The libraries are in a separate venv, since they need other versions of packages than the gateway. Where they are not
installed, pytest collects nothing here.
"""

from __future__ import annotations

import gc
import warnings
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.process import KEY, CommandProcess, GatewayProcess

if TYPE_CHECKING:
    from llmock.pytest_plugin import LLMock

LIBRARIES = (
    *("instructor", "langchain_anthropic", "langchain_openai", "langchain_tests", "llm", "pydantic_ai"),
    "google.genai",  # the parent package comes first: find_spec raises if it is missing
)
INSTALLED = all(find_spec(name) for name in LIBRARIES)
if not INSTALLED:
    collect_ignore_glob = ["test_*.py"]

ROOT = Path(__file__).parents[2]
MODELS = {"openai": "gpt-4o-mini", "anthropic": "claude-haiku-4-5-20251001", "gemini": "gemini-2.5-pro"}
"""A model of each vendor, by dialect."""


# The libraries keep connections open for the next call and never close them.
UNCLOSED = "unclosed"


def pytest_configure(config: pytest.Config) -> None:
    if INSTALLED:
        config.addinivalue_line("filterwarnings", f"ignore:{UNCLOSED}:ResourceWarning")


@pytest.fixture(scope="session", autouse=True)
def collected() -> Iterator[None]:
    """Collect garbage while these warning filters apply; pytest does it later without them."""
    yield
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", UNCLOSED, ResourceWarning)
        gc.collect()


class InstalledGateway(CommandProcess):
    """The gateway installed by `make setup`, in its own venv."""

    command = ROOT / ".venv" / "bin" / "llm-gateway"


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with InstalledGateway(tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway


@pytest.fixture
def gateway(running: GatewayProcess, llmock: LLMock, monkeypatch: pytest.MonkeyPatch) -> GatewayProcess:
    """Provide a running gateway without providers, and set the variables from which SDKs read address and key."""
    for provider in running.call("GET", "/api/v1/providers").json:
        assert running.call("DELETE", f"/api/v1/providers/{provider['id']}").status == 204
    root = f"http://127.0.0.1:{running.port}"
    for name, base_url in (("OPENAI", f"{root}/v1"), ("ANTHROPIC", root)):
        monkeypatch.setenv(f"{name}_BASE_URL", base_url)
        monkeypatch.setenv(f"{name}_API_KEY", KEY)
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", root)
    monkeypatch.setenv("GOOGLE_API_KEY", KEY)  # it has priority over GEMINI_API_KEY, and llmock sets it
    return running


def configure(gateway: GatewayProcess, llmock: LLMock, kind: str, **fields: Any) -> None:
    """Configure a provider of this dialect at the mock."""
    gateway.provider(f"my-{kind}", llmock.base_url(kind), MODELS[kind], kind=kind, **fields)


@pytest.fixture(params=MODELS)
def vendor(request: pytest.FixtureRequest, gateway: GatewayProcess, llmock: LLMock) -> str:
    """Configure a provider of each dialect in turn, as the only one."""
    kind: str = request.param
    configure(gateway, llmock, kind)
    return kind
