"""Other people's client libraries at a running gateway, told no more than a base URL and a key (`make test-clients`).

They live in a venv of their own, for they agree with each other on versions that are not the gateway's. Where they are
not installed, nothing here is collected.
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
    "google.genai",  # the last: where its parent is missing, looking for it raises
)
INSTALLED = all(find_spec(name) for name in LIBRARIES)
if not INSTALLED:
    collect_ignore_glob = ["test_*.py"]

ROOT = Path(__file__).parents[2]
MODELS = {"openai": "gpt-4o-mini", "anthropic": "claude-haiku-4-5-20251001", "gemini": "gemini-2.5-pro"}
"""One of each vendor, by dialect."""


# The libraries keep their connections for the next call and never close them.
UNCLOSED = "unclosed"


def pytest_configure(config: pytest.Config) -> None:
    if INSTALLED:
        config.addinivalue_line("filterwarnings", f"ignore:{UNCLOSED}:ResourceWarning")


@pytest.fixture(scope="session", autouse=True)
def collected() -> Iterator[None]:
    """What is left at the end is collected while it may be; pytest does it later without those filters."""
    yield
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", UNCLOSED, ResourceWarning)
        gc.collect()


class InstalledGateway(CommandProcess):
    """The gateway of `make setup`, which knows nothing of this venv."""

    command = ROOT / ".venv" / "bin" / "llm-gateway"


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with InstalledGateway(tmp_path_factory.mktemp("gateway")) as gateway:
        yield gateway


@pytest.fixture
def gateway(running: GatewayProcess, llmock: LLMock, monkeypatch: pytest.MonkeyPatch) -> GatewayProcess:
    """A running gateway without providers; the variables that SDKs read name it and its key."""
    for provider in running.call("GET", "/api/v1/providers").json:
        assert running.call("DELETE", f"/api/v1/providers/{provider['id']}").status == 204
    root = f"http://127.0.0.1:{running.port}"
    for name, base_url in (("OPENAI", f"{root}/v1"), ("ANTHROPIC", root)):
        monkeypatch.setenv(f"{name}_BASE_URL", base_url)
        monkeypatch.setenv(f"{name}_API_KEY", KEY)
    monkeypatch.setenv("GOOGLE_GEMINI_BASE_URL", root)
    monkeypatch.setenv("GOOGLE_API_KEY", KEY)  # comes before GEMINI_API_KEY, and llmock sets it
    return running


def configure(gateway: GatewayProcess, llmock: LLMock, kind: str, **fields: Any) -> None:
    """A provider of this dialect at the mock."""
    gateway.provider(f"my-{kind}", llmock.base_url(kind), MODELS[kind], kind=kind, **fields)


@pytest.fixture(params=MODELS)
def vendor(request: pytest.FixtureRequest, gateway: GatewayProcess, llmock: LLMock) -> str:
    """Each dialect in turn, as the one provider there is."""
    kind: str = request.param
    configure(gateway, llmock, kind)
    return kind
