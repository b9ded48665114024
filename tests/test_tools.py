"""The programs in tools/: a release is refused before it is built, and an installation says where its log is."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from tools import release, smoke

REPOSITORY = Path(__file__).parents[1]
CHANGELOG = "# Changelog\n\n## [Unreleased]\n\n## [0.1.0] - 2026-11-23\n"


def run(folder: Path, *command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True, timeout=60)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Provide a committed repository with the release's tools, and a version that its changelog does not describe."""
    shutil.copytree(REPOSITORY / "tools", tmp_path / "tools", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "src/llm_gateway").mkdir(parents=True)
    (tmp_path / "src/llm_gateway/__init__.py").write_text('__version__ = "0.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text(CHANGELOG)
    (tmp_path / ".gitignore").write_text("__pycache__/\n")
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.test")
    for command in (("init",), ("add", "."), (*identity, "commit", "--message", "first")):
        assert run(tmp_path, "git", *command).returncode == 0
    return tmp_path


def test_a_version_without_a_section_in_the_changelog_is_not_released(repository: Path) -> None:
    ended = run(repository, sys.executable, "-m", "tools.release")
    assert (ended.returncode, ended.stderr) == (
        1,
        "CHANGELOG.md has no section [0.2.0]: write it, commit, and try again.\n",
    )
    assert not (repository / "dist").exists()


def test_files_that_are_not_committed_are_not_released(repository: Path) -> None:
    (repository / "CHANGELOG.md").write_text(CHANGELOG.replace("[0.1.0]", "[0.2.0]"))
    ended = run(repository, sys.executable, "-m", "tools.release")
    assert ended.returncode == 1
    assert ended.stderr.startswith("A release is built from committed files, and these are not:")
    assert "CHANGELOG.md" in ended.stderr


def test_a_release_takes_no_other_folder(repository: Path) -> None:
    (repository / "precious").mkdir()
    ended = run(repository, sys.executable, "-m", "tools.release", "precious")
    assert (ended.returncode, "without arguments" in ended.stderr) == (1, True)
    assert (repository / "precious").exists()


def test_a_release_replaces_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist/old.whl").touch()
    (tmp_path / "new.whl").write_bytes(b"wheel")
    release.publish(tmp_path / "dist", [tmp_path / "new.whl"])
    assert sorted(path.name for path in (tmp_path / "dist").iterdir()) == ["SHA256SUMS", "new.whl"]
    assert (tmp_path / "dist/SHA256SUMS").read_text() == f"{hashlib.sha256(b'wheel').hexdigest()}  new.whl\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dist", "new.whl"]


def test_a_release_that_cannot_be_copied_leaves_the_one_before(tmp_path: Path) -> None:
    (tmp_path / "dist").mkdir()
    (tmp_path / "dist/old.whl").touch()
    with pytest.raises(FileNotFoundError):
        release.publish(tmp_path / "dist", [tmp_path / "missing.whl"])
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == ["dist", "dist/old.whl"]


def test_a_failing_installation_shows_the_end_of_its_log_and_where_it_is(tmp_path: Path) -> None:
    failing = "for number in range(100): print('line', number)\nraise SystemExit(3)"
    log = tmp_path / "install.log"
    ended = run(REPOSITORY, sys.executable, "tools/quietly.py", log, "Installing it", sys.executable, "-c", failing)
    assert ended.returncode == 3
    assert re.fullmatch(r"Installing it … failed in \d s\n", ended.stdout)
    shown = ended.stderr.splitlines()
    assert shown[0] == "line 85"
    assert shown[-1] == f"This failed: Installing it. The whole log is {log}."
    assert len(log.read_text().splitlines()) == 100


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_an_installation_is_reported_in_any_encoding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    failing = "import sys; sys.stdout.buffer.write('it fails …'.encode()); sys.exit(3)"
    command = (sys.executable, "tools/quietly.py", tmp_path / "log", "Installing it", sys.executable, "-c", failing)
    ended = run(REPOSITORY, *command)
    assert ended.returncode == 3
    assert re.fullmatch(r"Installing it \? failed in \d s\n", ended.stdout)
    assert ended.stderr.splitlines()[0] == "it fails ?"


def test_an_installation_that_works_is_one_line(tmp_path: Path) -> None:
    noisy = "print('Collecting a package')"
    log = tmp_path / "install.log"
    ended = run(REPOSITORY, sys.executable, "tools/quietly.py", log, "Installing it", sys.executable, "-c", noisy)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert re.fullmatch(r"Installing it … done in \d s\n", ended.stdout)
    assert log.read_text() == "Collecting a package\n"


@pytest.fixture
def dead_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Name a proxy that no connection reaches in the environment of programs that a test runs."""
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")


@pytest.mark.usefixtures("dead_proxy")
def test_the_trial_of_an_installation_uses_no_proxy() -> None:
    with smoke.listening() as provider:
        url = f"http://127.0.0.1:{provider.server_port}/"
        ended = run(
            REPOSITORY, sys.executable, "-c", f"from tools import smoke; print(smoke.call({url!r}, 1)['model'])"
        )
    assert (ended.stdout, ended.stderr) == ("trial\n", "")


class Readiness(BaseHTTPRequestHandler):
    """Answers /readyz with 200, any other path with 404."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/readyz" else 404)
        self.end_headers()


@pytest.mark.usefixtures("dead_proxy")
def test_the_images_health_check_uses_the_port_of_the_settings_and_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    dockerfile = (REPOSITORY / "deploy/Dockerfile").read_text(encoding="utf-8").replace("\\\n", "")
    [listed] = re.findall(r"^HEALTHCHECK .*? CMD (\[.*\])$", dockerfile, re.MULTILINE)
    [python, *arguments] = json.loads(listed)
    assert python == "python"
    with HTTPServer(("127.0.0.1", 0), Readiness) as server:
        monkeypatch.setenv("LLM_GATEWAY_PORT", str(server.server_port))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert run(REPOSITORY, sys.executable, *arguments).returncode == 0
        server.shutdown()
    assert run(REPOSITORY, sys.executable, *arguments).returncode == 1, "nobody listens"
