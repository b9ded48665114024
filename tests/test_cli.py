"""The command line: what each command does and how it ends."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog

from llm_gateway import __version__, cli
from llm_gateway.errors import StoreUnavailable
from llm_gateway.settings import Settings
from llm_gateway.store.data_dir import DataDir
from tests.e2e.process import free_port

COMMAND = Path(sys.executable).with_name("llm-gateway")

STEADY = """
import asyncio, sys
from llm_gateway.app import Application
from llm_gateway.settings import load_settings

async def start_and_stop():
    waiting = ["lifespan.shutdown", "lifespan.startup"]
    async def receive(): return {"type": waiting.pop()}
    async def send(message): pass
    await Application(load_settings())({"type": "lifespan"}, receive, send)

asyncio.run(start_and_stop())
print(*(name for name in ("llm_gateway", "fastapi", "cyclopts", "alembic", "mako") if name in sys.modules))
"""


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    for name in [name for name in os.environ if name.upper().startswith("LLM_GATEWAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    yield
    structlog.reset_defaults()


class Became(BaseException):
    """The process became another one."""

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
    """The exit code of the command."""
    monkeypatch.setattr(sys, "argv", ["llm-gateway", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code or 0


def becomes(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> dict[str, str]:
    """The settings in the environment of the server the command becomes."""
    monkeypatch.setattr(sys, "argv", ["llm-gateway", *arguments])
    with pytest.raises(Became) as became:
        cli.main()
    assert became.value.program == sys.executable
    assert became.value.arguments == [sys.executable, "-P", "-m", "llm_gateway"]
    environment = became.value.environment
    assert environment["PATH"] == os.environ["PATH"]
    return {name: value for name, value in environment.items() if name.startswith("LLM_GATEWAY_")}


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [COMMAND, *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_help_lists_the_commands() -> None:
    ended = run("--help")
    assert (ended.returncode, ended.stderr) == (0, "")
    for command in ("serve", "check", "migrate", "usage"):
        assert command in ended.stdout


def test_the_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert ends(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.strip() == __version__


def test_every_setting_is_a_flag_of_serve(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert ends(monkeypatch, "serve", "--help") == 0
    output = capsys.readouterr().out
    for name in Settings.model_fields:
        assert f"--{name.replace('_', '-')} " in output


def test_flags_become_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_GATEWAY_PORT", "1")
    monkeypatch.setenv("LLM_GATEWAY_LOG_LEVEL", "debug")
    assert becomes(monkeypatch, "serve") == {"LLM_GATEWAY_PORT": "1", "LLM_GATEWAY_LOG_LEVEL": "debug"}
    assert becomes(monkeypatch, "serve", "--port", "8300", "--data-dir=/srv/x", "--service-keys", "a:b:call,c:d") == {
        "LLM_GATEWAY_PORT": "8300",
        "LLM_GATEWAY_LOG_LEVEL": "debug",
        "LLM_GATEWAY_DATA_DIR": "/srv/x",
        "LLM_GATEWAY_SERVICE_KEYS": "a:b:call,c:d",
    }


@pytest.mark.parametrize("name", list(Settings.model_fields))
def test_each_flag(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    flag = f"--{name.replace('_', '-')}"
    assert becomes(monkeypatch, "serve", flag, "x y") == {f"LLM_GATEWAY_{name.upper()}": "x y"}


@pytest.mark.parametrize(
    "arguments", [["serve", "--nonsense", "1"], ["serve", "8300"], ["serve", "--port"], ["nonsense"], ["usage", "x"]]
)
def test_what_is_no_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    assert ends(monkeypatch, *arguments) in (1, 2)
    output = capsys.readouterr()
    assert "Error" in output.out + output.err
    assert "Traceback" not in output.out + output.err


def test_check_says_what_would_be_started(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("LLM_GATEWAY_PORT", "8300")
    assert ends(monkeypatch, "check") == 0
    assert capsys.readouterr().out == "The settings fit: dev on 127.0.0.1:8300, data in data.\n"
    assert not Path("data").exists()
    monkeypatch.setenv("LLM_GATEWAY_ENCRYPTION_KEYS", "ab" * 32)
    assert ends(monkeypatch, "check") == 0


@pytest.mark.parametrize(
    ("name", "value"), [("PORT", "x"), ("TYPO", "1"), ("HOST", "0.0.0.0"), ("ENCRYPTION_KEYS", "secret-but-short")]
)
def test_check_refuses_as_serve_does(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, value: str
) -> None:
    monkeypatch.setenv(f"LLM_GATEWAY_{name}", value)
    assert ends(monkeypatch, "check") == 78
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("llm-gateway: ")
    assert len(output.err.splitlines()) == 1
    assert f"LLM_GATEWAY_{name}" in output.err or name == "HOST"
    assert "secret-but-short" not in output.err


def test_migrate_makes_the_tables_and_can_be_run_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for _ in range(2):
        assert ends(monkeypatch, "migrate") == 0
        assert capsys.readouterr().out == "The database is up to date.\n"
    assert Path("data/gateway.db").stat().st_mode & 0o777 == 0o600


def test_a_database_that_is_none_ends_with_78(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("data").mkdir()
    Path("data/gateway.db").write_bytes(b"this is no database" * 1000)
    for arguments in (["migrate"], ["usage", "replay"]):
        assert ends(monkeypatch, *arguments) == 78
        error = capsys.readouterr().err
        assert error.startswith("llm-gateway: ")
        assert len(error.splitlines()) == 1


def test_serve_on_a_database_that_is_none_ends_with_78() -> None:
    Path("data").mkdir()
    Path("data/gateway.db").write_bytes(b"this is no database" * 1000)
    ended = run("serve", LLM_GATEWAY_PORT="0", LLM_GATEWAY_LOG_LEVEL="error")
    assert (ended.returncode, ended.stdout) == (78, ""), "port 0 is no setting"
    ended = run("serve", LLM_GATEWAY_LOG_LEVEL="error", LLM_GATEWAY_PORT=str(free_port()))
    assert ended.returncode == 78
    assert ended.stderr.startswith("llm-gateway: The database file ")
    assert len(ended.stderr.splitlines()) == 1


def test_replay_with_nothing_left(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert ends(monkeypatch, "usage", "replay") == 0
    assert capsys.readouterr().out == "0 usage records were moved to the database.\n"


def test_replay_leaves_a_running_gateway_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    running = DataDir(Path("data"))
    assert ends(monkeypatch, "usage", "replay") == 78
    assert "Another gateway uses the data directory" in capsys.readouterr().err
    running.close()


@pytest.mark.parametrize(
    ("error", "code"), [(KeyboardInterrupt(), 130), (StoreUnavailable("The database does not answer."), 1)]
)
def test_how_it_ends(monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int) -> None:
    def fails() -> Any:
        raise error

    monkeypatch.setattr(cli, "build_cli", fails)
    assert ends(monkeypatch, "check") == code


def test_a_file_beside_it_does_not_stand_in_for_a_module() -> None:
    Path("msgspec.py").write_text("raise SystemExit('the wrong module')")
    ended = run("serve", LLM_GATEWAY_PORT="x")
    assert ended.returncode == 78
    assert "LLM_GATEWAY_PORT" in ended.stderr


def test_serving_takes_nothing_of_the_command_line_and_of_migrations() -> None:
    environment = {**os.environ, "LLM_GATEWAY_LOCAL_MODEL": "false", "LLM_GATEWAY_LOG_LEVEL": "error"}
    command = [sys.executable, "-c", STEADY]
    loaded = [
        subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True).stdout.split()
        for _ in range(2)
    ]
    assert loaded == [["llm_gateway", "fastapi", "alembic", "mako"], ["llm_gateway", "fastapi"]]
