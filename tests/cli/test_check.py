"""Command `check` reports each problem that would prevent `serve`, and changes nothing."""

from __future__ import annotations

import os
import secrets
import sqlite3
from pathlib import Path

import pytest

from llm_gateway.data_dir import DataDir
from llm_gateway.store.migrations import HEAD
from tests.cli.command import Ran, SetUp, call, execute, on_terminal
from tests.e2e.process import GatewayProcess, free_port

Capsys = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def a_free_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_GATEWAY_PORT", str(free_port()))


def found(ran: Ran) -> dict[str, tuple[str, str]]:
    assert ran.err == ""
    return {what: (mark, says) for what, mark, says in (line.split("\t") for line in ran.out.splitlines())}


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_check_passes_in_a_fresh_directory_and_creates_nothing(capsys: Capsys) -> None:
    ran = call(capsys, "check")
    assert ran.code == 0
    says = found(ran)
    assert list(says) == ["settings", "data directory", "database", "encryption keys", "peppers", "port", "local model"]
    assert {mark for mark, _ in says.values()} == {"ok"}
    assert says["settings"][1].startswith("dev, 127.0.0.1 port ")
    assert list(Path().iterdir()) == [], "it makes nothing"
    assert call(capsys, "check", "--json").json[0]["what"] == "settings"


def test_check_reads_the_files_that_serve_would_read(capsys: Capsys) -> None:
    Path("gateway.env").write_text("LLM_GATEWAY_SERVICE_KEYS_FILE=keys\nLLM_GATEWAY_PROT=1\n")
    assert "Did you mean LLM_GATEWAY_PORT?" in call(capsys, "check", "--env-file", "gateway.env").out
    Path("gateway.env").write_text("LLM_GATEWAY_SERVICE_KEYS_FILE=keys\n")
    assert call(capsys, "check", "--env-file", "gateway.env").code == 78
    Path("keys").write_text("shop:a-key-of-a-file\n")
    ran = call(capsys, "check", "--env-file", "gateway.env")
    assert (ran.code, "service keys of shop" in found(ran)["settings"][1]) == (0, True)


@pytest.mark.parametrize(
    ("name", "value"), [("PORT", "x"), ("TYPO", "1"), ("HOST", "0.0.0.0"), ("SERVICE_KEYS", "secret-but-short")]
)
def test_invalid_settings_end_with_78(monkeypatch: pytest.MonkeyPatch, capsys: Capsys, name: str, value: str) -> None:
    monkeypatch.setenv(f"LLM_GATEWAY_{name}", value)
    ran = call(capsys, "check")
    assert ran.code == 78
    [(mark, says)] = found(ran).values()
    assert mark == "failed"
    assert f"LLM_GATEWAY_{name}" in says or name == "HOST"
    assert "secret-but-short" not in ran.out


def test_invalid_encryption_keys_are_reported_and_not_shown(monkeypatch: pytest.MonkeyPatch, capsys: Capsys) -> None:
    monkeypatch.setenv("LLM_GATEWAY_ENCRYPTION_KEYS", "secret-but-short")
    ran = call(capsys, "check")
    assert (ran.code, found(ran)["encryption keys"][0]) == (1, "failed")
    assert "secret-but-short" not in ran.out


def test_peppers_that_serve_would_refuse_are_reported_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: Capsys
) -> None:
    one, other = secrets.token_hex(32), secrets.token_hex(32)
    monkeypatch.setenv("LLM_GATEWAY_KEY_PEPPERS", f"2:{one}")
    assert found(call(capsys, "check"))["peppers"] == ("ok", "1 fits")
    Path("data").mkdir()
    Path("data/key.peppers").write_text(f"1:{other}\n")
    assert found(call(capsys, "check"))["peppers"] == ("ok", "2 fit")
    for unfit in ("1:short", "", f"1:{one}", f"2:{one},2:{other}"):
        monkeypatch.setenv("LLM_GATEWAY_KEY_PEPPERS", unfit)
        ran = call(capsys, "check")
        mark, says = found(ran)["peppers"]
        assert (ran.code, mark, "LLM_GATEWAY_KEY_PEPPERS" in says) == (1, "failed", True), unfit
        assert one not in ran.out
        assert "short" not in ran.out
    monkeypatch.delenv("LLM_GATEWAY_KEY_PEPPERS")
    Path("data/key.peppers").write_text("no pepper")
    assert found(call(capsys, "check"))["peppers"][0] == "failed"


def test_stored_keys_that_cannot_be_decrypted_are_reported(
    tmp_path: Path, set_up: SetUp, monkeypatch: pytest.MonkeyPatch, capsys: Capsys
) -> None:
    with GatewayProcess(tmp_path) as gateway:
        gateway.provider("acme", set_up.vendor.base_url)
    before = files(tmp_path)
    assert found(call(capsys, "check"))["encryption keys"] == ("ok", "all 1 stored provider keys open")
    own = Path("data/encryption.key").read_text().strip()
    new = secrets.token_hex(32)
    monkeypatch.setenv("LLM_GATEWAY_ENCRYPTION_KEYS", f"{new},{own}")
    assert found(call(capsys, "check"))["encryption keys"][1].endswith("run llm-gateway rekey")
    monkeypatch.setenv("LLM_GATEWAY_ENCRYPTION_KEYS", new)
    ran = call(capsys, "check")
    assert ran.code == 1
    mark, says = found(ran)["encryption keys"]
    assert mark == "failed"
    assert "Provider acme" in says
    assert "LLM_GATEWAY_ENCRYPTION_KEYS" in says
    monkeypatch.delenv("LLM_GATEWAY_ENCRYPTION_KEYS")
    Path("data/encryption.key").unlink()
    mark, says = found(call(capsys, "check"))["encryption keys"]
    assert (mark, "encryption.key is gone" in says) == ("failed", True)
    Path("data/encryption.key").write_text(own + "\n")
    assert files(tmp_path) == before, "looking changed nothing"


def test_a_running_gateway_is_reported_by_check(set_up: SetUp) -> None:
    there = {
        "LLM_GATEWAY_DATA_DIR": str(set_up.gateway.directory / "data"),
        "LLM_GATEWAY_PORT": str(set_up.gateway.port),
    }
    ran = execute("check", **there)
    assert ran.code == 1
    says = found(ran)
    assert [what for what, (mark, _) in says.items() if mark == "failed"] == ["data directory", "port"]
    assert "LLM_GATEWAY_PORT" in says["port"][1]
    assert set_up.gateway.call("GET", "/readyz").status == 200


def test_check_does_not_keep_the_lock(capsys: Capsys) -> None:
    DataDir(Path("data")).close()
    assert call(capsys, "check").code == 0
    DataDir(Path("data")).close()


def test_a_data_directory_that_is_a_file_is_reported(capsys: Capsys) -> None:
    Path("data").touch()
    ran = call(capsys, "check")
    assert (ran.code, found(ran)["data directory"][0]) == (1, "failed")


@pytest.mark.parametrize("place", ["/proc/nowhere", "/dev/null/x", "/proc", "x" * 300, "a/b/c" + "x" * 300])
def test_a_directory_that_cannot_be_made_fails(monkeypatch: pytest.MonkeyPatch, capsys: Capsys, place: str) -> None:
    monkeypatch.setenv("LLM_GATEWAY_DATA_DIR", place)
    ran = call(capsys, "check")
    mark, says = found(ran)["data directory"]
    assert (ran.code, mark) == (1, "failed")
    assert "LLM_GATEWAY_DATA_DIR" in says
    assert list(Path().iterdir()) == [], "it leaves nothing behind"


def test_a_data_directory_below_a_file_is_not_a_matter_of_owners(
    monkeypatch: pytest.MonkeyPatch, capsys: Capsys, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("LLM_GATEWAY_DATA_DIR", str(file / "x"))
    says = found(call(capsys, "check"))
    assert says["data directory"] == ("failed", f"{file} is not a directory: set LLM_GATEWAY_DATA_DIR to one.")
    mark, sentence = says["database"]
    assert (mark, sentence.startswith(f"{file}/x/gateway.db cannot be made")) == ("failed", True)
    monkeypatch.setenv("LLM_GATEWAY_DATABASE_URL", f"sqlite:///{tmp_path}/own.db")
    assert found(call(capsys, "check"))["database"] == ("ok", f"{tmp_path}/own.db will be made")
    monkeypatch.setenv("LLM_GATEWAY_DATABASE_URL", "sqlite:////proc/below/own.db")
    mark, sentence = found(call(capsys, "check"))["database"]
    assert (mark, sentence.startswith("/proc/below/own.db cannot be made (")) == ("failed", True)


def test_a_directory_that_can_be_made_is_not_left_behind(monkeypatch: pytest.MonkeyPatch, capsys: Capsys) -> None:
    monkeypatch.setenv("LLM_GATEWAY_DATA_DIR", "a/b/c")
    ran = call(capsys, "check")
    assert (ran.code, found(ran)["data directory"][0]) == (0, "ok")
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("url", ["mysql://a@b/c", "sqlite://", "nonsense"])
def test_a_database_url_that_does_not_fit_ends_with_78(
    monkeypatch: pytest.MonkeyPatch, capsys: Capsys, url: str
) -> None:
    monkeypatch.setenv("LLM_GATEWAY_DATABASE_URL", url)
    ran = call(capsys, "check")
    assert ran.code == 78
    [(mark, says)] = found(ran).values()
    assert (mark, says.split()[0]) == ("failed", "LLM_GATEWAY_DATABASE_URL")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_data_directory_that_cannot_be_written_is_reported(capsys: Capsys) -> None:
    Path("data").mkdir(mode=0o500)
    assert found(call(capsys, "check"))["data directory"][0] == "failed"


def test_a_damaged_or_newer_database_is_reported(capsys: Capsys) -> None:
    Path("data").mkdir()
    file = Path("data/gateway.db")
    file.write_bytes(b"this is no database" * 1000)
    assert found(call(capsys, "check"))["database"][0] == "failed"
    file.unlink()
    assert call(capsys, "migrate").code == 0
    assert found(call(capsys, "check"))["database"][1].endswith(f"is at version {HEAD}")
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    assert found(call(capsys, "check"))["database"][1].endswith(
        "at version 9999, of a newer llm-gateway; this one can use it, too"
    )
    with sqlite3.connect(file) as connection:
        connection.execute("UPDATE compatibility SET oldest = '9999'")
    connection.close()
    ran = call(capsys, "check")
    assert (ran.code, found(ran)["database"][0]) == (1, "failed")
    assert "newer llm-gateway" in ran.out


def test_check_reports_the_local_model_as_not_wanted_or_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: Capsys
) -> None:
    monkeypatch.setenv("LLM_GATEWAY_LOCAL_MODEL", "false")
    assert found(call(capsys, "check"))["local model"] == ("ok", "not wanted")
    monkeypatch.setenv("LLM_GATEWAY_LOCAL_MODEL", "true")
    assert found(call(capsys, "check"))["local model"] == ("ok", "installed")


def test_on_a_terminal_check_prints_a_line_for_each_finding() -> None:
    shown = on_terminal("check")
    assert shown.code == 0
    assert [line.split()[0] for line in shown.out.splitlines()] == ["ok"] * 7
