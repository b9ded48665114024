"""The programs of docs/CLIENTS.md run unchanged against a gateway with the embedded model."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clients.conftest import ROOT, InstalledGateway
from tests.clients.test_npm import HERE, NODE
from tests.e2e.process import GatewayProcess

ADDRESS = "http://localhost:8200"
PROGRAMS = re.findall(
    r"^```(python|js)\n(.*?)^```$", (ROOT / "docs/CLIENTS.md").read_text("utf-8"), re.DOTALL | re.MULTILINE
)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    with InstalledGateway(tmp_path_factory.mktemp("documents"), local_model="auto") as gateway:
        yield gateway


@pytest.mark.parametrize("number", range(len(PROGRAMS)))
def test_a_program_of_the_document_runs(alone: GatewayProcess, number: int, tmp_path: Path) -> None:
    language, program = PROGRAMS[number]
    mine = program.replace(ADDRESS, f"http://localhost:{alone.port}")
    assert mine != program
    before = alone.summary()["total_requests"]
    if language == "js":
        if NODE is None or not (HERE / "node_modules").is_dir():
            pytest.skip("there is no Node.js, or its packages are not installed")
        command, folder = [NODE, "--input-type=module", "--eval", mine], HERE
    else:
        command, folder = [sys.executable, "-c", mine], tmp_path

    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)

    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip()
    assert alone.summary()["total_requests"] > before


def test_there_are_programs_in_both_languages() -> None:
    assert {language for language, _ in PROGRAMS} == {"python", "js"}
