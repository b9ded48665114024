"""Fuzz test: schemathesis generates requests from the OpenAPI document and checks a running gateway."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.process import GatewayProcess
from tests.fuzz.environment import MODEL, PROVIDER, PROVIDER_ID, SAMPLE, UPSTREAM
from tests.upstream.forked import ForkedUpstream

ROOT = Path(__file__).resolve().parents[2]
COMMAND = Path(sys.executable).with_name("schemathesis")
CONFIGURATION = Path(__file__).with_name("schemathesis.toml")
HIGHEST_PRIORITY = 2**31 - 1

SAME_ENDPOINTS = r"^/v1/models/\{model\}:"
"""Gemini's calls below `/v1`: the endpoints of `/v1beta` at another path."""
QUICK = [
    "--seed=1",
    "--phases=examples,coverage,fuzzing",
    "--max-examples=1",
    f"--exclude-path-regex={SAME_ENDPOINTS}",
]
QUICK_SAMPLE = "8"
LONG = ["--max-examples=300", "--max-time=300", "--continue-on-failure"]
PATIENCE_S = 900


@pytest.fixture
def long(request: pytest.FixtureRequest) -> bool:
    """Return True if the full length is requested (`--long`)."""
    return bool(request.config.getoption("--long"))


def test_every_answer_is_one_the_document_promises(tmp_path: Path, long: bool) -> None:
    with ForkedUpstream() as mock, GatewayProcess(tmp_path) as gateway:
        path = gateway.provider("acme", mock.base_url, "json", priority=HIGHEST_PRIORITY)
        local = {UPSTREAM: mock.base_url, PROVIDER_ID: path.rpartition("/")[2], PROVIDER: "acme", MODEL: "json"}
        if not long:
            local[SAMPLE] = QUICK_SAMPLE
        document = tmp_path / "openapi.json"
        document.write_bytes(gateway.call("GET", "/openapi.json").body)
        options = [f"--url=http://127.0.0.1:{gateway.port}", *(LONG if long else QUICK)]
        ended = subprocess.run(
            [COMMAND, f"--config-file={CONFIGURATION}", "--no-color", "run", document, *options],
            cwd=tmp_path,
            env={**local, "PYTHONPATH": str(ROOT), "HYPOTHESIS_STORAGE_DIRECTORY": str(ROOT / ".hypothesis")},
            stdout=None if long else subprocess.PIPE,  # make fuzz shows the output as it comes
            stderr=None if long else subprocess.STDOUT,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        assert ended.returncode == 0, ended.stdout
        assert mock.seen().total > 0, "no call got through: nothing was tried"
        assert '"level": "error"' not in gateway.log
        assert "Traceback" not in gateway.log
        assert gateway.ask().status == 200
