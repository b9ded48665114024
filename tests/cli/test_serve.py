"""Command `serve` passes flags on as settings and replaces the process with the server."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llm_gateway import __version__, cli
from llm_gateway.inherited import OPTIONS
from llm_gateway.settings import Settings
from tests.cli.command import execute_command
from tests.e2e.process import free_port


class Became(BaseException):
    """Raised in place of replacing the process."""

    def __init__(self, program: str, arguments: list[str], environment: dict[str, str]) -> None:
        self.program = program
        self.arguments = arguments
        self.environment = environment


@pytest.fixture(autouse=True)
def become(monkeypatch: pytest.MonkeyPatch) -> None:
    def execve(program: str, arguments: list[str], environment: dict[str, str]) -> None:
        raise Became(program, arguments, environment)

    monkeypatch.setattr(os, "execve", execve)


def ends(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Any:
    """Run the command. Returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["llm-gateway", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code or 0


def becomes(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict[str, str]:
    """Run the command. Returns the settings in the environment of the server that replaces it."""
    monkeypatch.setattr(sys, "argv", ["llm-gateway", *arguments])
    with pytest.raises(Became) as became:
        cli.main()
    assert became.value.program == sys.executable
    assert became.value.arguments == [sys.executable, "-P", "-m", "llm_gateway"]
    environment = became.value.environment
    assert environment["PATH"] == os.environ["PATH"]
    return {name: value for name, value in environment.items() if name.startswith("LLM_GATEWAY_")}


def test_version_prints_the_packages_version(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.strip() == __version__


def test_the_help_of_serve_lists_every_setting(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert ends(monkeypatch, "serve", "--help") == 0
    output = capsys.readouterr().out
    for name in Settings.__struct_fields__:
        assert f"--{name.replace('_', '-')} " in output


def test_the_help_of_serve_tells_forms_ranges_defaults_and_variables(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    assert ends(monkeypatch, "serve", "--help") == 0
    lines = {line.split()[0]: line.strip() for line in capsys.readouterr().out.splitlines() if "--" in line}
    port = "port to listen on; a whole number from 1 to 65535 [default: 8200] [LLM_GATEWAY_PORT]"
    assert lines["--port"] == f"--port INT: {port}"
    assert lines["--log-level"].startswith("--log-level debug|info|warning|error: ")
    assert "[default: info]" in lines["--log-level"]
    assert lines["--data-dir"].startswith("--data-dir PATH: ")
    assert "; a finite number above 0 [default: 120]" in lines["--request-timeout-seconds"]
    assert lines["--service-keys"].endswith("comma-separated [LLM_GATEWAY_SERVICE_KEYS]")
    for name in Settings.__struct_fields__:
        assert f"[LLM_GATEWAY_{name.upper()}]" in lines[f"--{name.replace('_', '-')}"]


def test_flags_of_serve_become_settings_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_GATEWAY_PORT", "1")
    monkeypatch.setenv("LLM_GATEWAY_LOG_LEVEL", "debug")
    assert becomes(monkeypatch, "serve") == {"LLM_GATEWAY_PORT": "1", "LLM_GATEWAY_LOG_LEVEL": "debug"}
    assert becomes(monkeypatch, "serve", "--port", "8300", "--data-dir=/srv/x", "--service-keys", "a:b:call,c:d") == {
        "LLM_GATEWAY_PORT": "8300",
        "LLM_GATEWAY_LOG_LEVEL": "debug",
        "LLM_GATEWAY_DATA_DIR": "/srv/x",
        "LLM_GATEWAY_SERVICE_KEYS": "a:b:call,c:d",
    }


def test_options_of_serve_name_files_and_are_told_from_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    assert becomes(monkeypatch, "serve", "--env-file", "a", "--env-file=b", "--service-keys-file", "c") == {
        "LLM_GATEWAY_ENV_FILE": "a:b",
        "LLM_GATEWAY_SERVICE_KEYS_FILE": "c",
    }
    monkeypatch.setattr(sys, "argv", ["llm-gateway", "serve", "--port", "1", "--env-file", "a"])
    with pytest.raises(Became) as became:
        cli.main()
    assert became.value.environment[OPTIONS] == "port,env_file"


def test_a_path_that_cannot_be_in_a_list_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ends(monkeypatch, "serve", "--env-file", "a:b") == 2
    assert capsys.readouterr().err == "llm-gateway: --env-file takes the path of a file without ':', not 'a:b'.\n"


def test_every_setting_can_be_set_by_its_flag_which_wins_over_its_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Settings.__struct_fields__
    for name in names:
        monkeypatch.setenv(f"LLM_GATEWAY_{name.upper()}", "the flag comes first")
    given = [word for name in names for word in (f"--{name.replace('_', '-')}", f"{name} x")]
    assert becomes(monkeypatch, "serve", *given) == {f"LLM_GATEWAY_{name.upper()}": f"{name} x" for name in names}


def test_serve_on_a_damaged_database_ends_with_78() -> None:
    Path("data").mkdir()
    Path("data/gateway.db").write_bytes(b"this is no database" * 1000)
    ended = execute_command("serve", LLM_GATEWAY_PORT="0", LLM_GATEWAY_LOG_LEVEL="error")
    assert (ended.code, ended.out) == (78, ""), "port 0 is no setting"
    ended = execute_command("serve", LLM_GATEWAY_LOG_LEVEL="error", LLM_GATEWAY_PORT=str(free_port()))
    assert ended.code == 78
    assert ended.err.startswith("llm-gateway: The database file ")
    assert len(ended.err.splitlines()) == 1


def test_a_file_in_the_working_directory_is_not_imported() -> None:
    Path("msgspec.py").write_text("raise SystemExit('the wrong module')")
    ended = execute_command("serve", LLM_GATEWAY_PORT="x")
    assert ended.code == 78
    assert "LLM_GATEWAY_PORT" in ended.err


def test_serve_without_flags_imports_no_library_first() -> None:
    script = "import sys; before = set(sys.modules); import llm_gateway.cli; print(*set(sys.modules) - before)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    ours = {
        "llm_gateway",
        "llm_gateway.cli",
        "llm_gateway.cli.exec_server",
        "llm_gateway.cli.exits",
        "llm_gateway.inherited",
        "llm_gateway.process_setup",
    }
    assert ours <= set(loaded)
    assert {name.partition(".")[0] for name in set(loaded) - ours} <= sys.stdlib_module_names
