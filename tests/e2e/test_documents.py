"""The curl commands in the documents run in order and get the documented responses; the programs run, too."""

from __future__ import annotations

import contextlib
import io
import json
import re
from pathlib import Path

import pytest

from llm_gateway.cli.commands import run
from llm_gateway.domain.key_secret import make_secret
from tests.e2e.documents import REPOSITORY, Reader, differences, examples, parse
from tests.e2e.process import GatewayProcess


@pytest.mark.parametrize(
    "name", ["README.md", "docs/API.md", "docs/KEYS.md", "docs/REPORTS.md", "docs/BUDGETS.md", "docs/ALERTS.md"]
)
def test_the_examples_get_the_documented_responses(tmp_path: Path, name: str) -> None:
    found = list(examples(REPOSITORY / name))
    assert found, "no examples"
    assert any(example.answer for example in found)
    with GatewayProcess(tmp_path, local_model="auto") as gateway:
        reader = Reader(gateway)
        for command, answer in found:
            response = reader.run(command)
            where = f"{command}\n{response.status} {response.body.decode()}"
            if answer is None:
                assert response.status < 300, where
                continue
            said = json.loads(answer)
            assert differences(said, response.json) == [], where
            expected = said.get("status") if isinstance(said, dict) and "code" in said else None
            assert response.status == expected if expected else response.status < 300, where


def test_the_file_of_the_document_is_applied_and_its_commands_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    document = REPOSITORY / "docs" / "CONFIG.md"
    [file] = re.findall(r"```yaml\n(.*?)```", document.read_text(), re.DOTALL)
    first, second, *_ = re.findall(r"```text\n(.*?)```", document.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("gateway.yaml").write_text(file)
    Path("nightly.secret").write_text(make_secret())
    monkeypatch.setenv("OPENAI_API_KEY", "sk-1")
    monkeypatch.setenv("AGENTS_KEY", make_secret())
    monkeypatch.setenv("OPERATIONS_URL", "http://127.0.0.1:9/hook")
    monkeypatch.setenv("OPERATIONS_SECRET", "signs-its-messages")
    with GatewayProcess(tmp_path) as gateway:
        monkeypatch.setenv("GATEWAY_URL", f"http://localhost:{gateway.port}")
        for expected in (first, second):
            assert run(["apply", "-f", "gateway.yaml"]) == 0
            assert capsys.readouterr().out == expected
        reader = Reader(gateway)
        for command, answer in examples(document):
            response = reader.run(command)
            assert response.status == 200, response.body
            assert answer is None or differences(json.loads(answer), response.json) == []


@pytest.mark.parametrize("name", ["docs/OPENAI.md", "docs/ANTHROPIC.md", "docs/GEMINI.md"])
def test_the_programs_in_the_documents_run(tmp_path: Path, name: str) -> None:
    programs = re.findall(r"```python\n(.*?)```", (REPOSITORY / name).read_text(), re.DOTALL)
    assert programs, "no programs"
    with GatewayProcess(tmp_path, local_model="auto") as gateway:
        mine = [program.replace("http://localhost:8200", f"http://localhost:{gateway.port}") for program in programs]
        assert all(changed != program for changed, program in zip(mine, programs, strict=True))
        for program in mine:
            with contextlib.redirect_stdout(io.StringIO()) as output:
                exec(compile(program, name, "exec"), {"__name__": "__main__"})
            assert output.getvalue().strip() or "print" not in program, program
        assert gateway.summary()["total_requests"] >= len(programs) - 1


def test_a_command_is_parsed_as_a_shell_would() -> None:
    command = (
        "curl -X PATCH http://localhost:8200/api/v1/x?a=1 \\\n  -H 'X-Service-Key: k' \\\n  -d '{\"a\": \"b c\"}'\n"
    )
    assert parse(command) == ("PATCH", "/api/v1/x?a=1", '{"a": "b c"}', {"X-Service-Key": "k"})
    assert parse("curl http://localhost:8200/a") == ("GET", "/a", None, {})
    assert parse("curl http://localhost:8200/a -d '{}'").method == "POST"


def test_differences_between_responses_are_found() -> None:
    said = {"id": "a", "count": 1, "items": [{"latency_ms": 3, "name": "x"}]}
    assert differences(said, {"id": "b", "count": 1, "items": [{"latency_ms": 9, "name": "x"}]}) == []
    for came in (
        {"id": 1, "count": 1, "items": [{"latency_ms": 9, "name": "x"}]},
        {"id": "b", "count": 2, "items": [{"latency_ms": 9, "name": "x"}]},
        {"id": "b", "count": 1, "items": [{"latency_ms": 9, "name": "y"}]},
        {"id": "b", "count": 1, "items": []},
        {"id": "b", "count": 1},
        {"id": "b", "count": 1, "items": [], "more": 1},
        [said],
    ):
        assert differences(said, came), came
