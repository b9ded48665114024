"""The built wheel and sdist hold every file they need, and each lock file holds what its users need."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email import message_from_string
from pathlib import Path

import pytest

from llm_gateway import __version__

REPOSITORY = Path(__file__).parents[1]
PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build wheel and sdist of this tree into a folder."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True)
    return folder


def files(*roots: str) -> set[str]:
    """Paths of the files below some roots of the repository."""
    found = (path for root in roots for path in (REPOSITORY / root).rglob("*") if path.is_file())
    return {path.relative_to(REPOSITORY).as_posix() for path in found if "__pycache__" not in path.parts}


def pins(lock: str) -> dict[str, str]:
    """Names and versions in a lock file."""
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (REPOSITORY / lock).read_text(encoding="utf-8"), re.MULTILINE))


def names(requirements: list[str]) -> set[str]:
    """Return the distributions of some requirements, as lock files spell them."""
    return {re.split(r"[^a-zA-Z0-9._-]", requirement)[0].lower().replace("_", "-") for requirement in requirements}


def test_the_wheel_holds_every_file_of_the_package_and_the_command(built: Path) -> None:
    [wheel] = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
        [info] = {name.partition("/")[0] for name in packed if ".dist-info/" in name}
        metadata = message_from_string(archive.read(f"{info}/METADATA").decode())
        entries = archive.read(f"{info}/entry_points.txt").decode()
    expected = {name.removeprefix("src/") for name in files("src")}
    assert {name for name in packed if ".dist-info/" not in name} == expected
    assert {"llm_gateway/py.typed", "llm_gateway/store/migrations/env.py"} < expected
    assert (metadata["Name"], metadata["Version"]) == ("llm-gateway-server", __version__)
    assert "llm-gateway = llm_gateway.cli:main" in entries


def test_the_sdist_holds_what_building_testing_and_running_need(built: Path) -> None:
    [sdist] = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        packed = {name.partition("/")[2] for name in archive.getnames()}
    locks = {path.name for path in REPOSITORY.glob("requirements*.lock")}
    assert files("src", "tests/store", "docs", "deploy", "tools") | locks <= packed
    assert {"Makefile", "pyproject.toml", "README.md", "LICENSE", "CHANGELOG.md", "SECURITY.md"} <= packed


def test_the_gateways_lock_holds_its_dependencies_and_neither_llama_cpp_nor_tools() -> None:
    locked = pins("requirements.lock").keys()
    groups = PROJECT["dependency-groups"]
    assert names(PROJECT["project"]["dependencies"]) <= locked
    assert not (names(groups["local"]) | names(groups["build"])) & locked
    assert names(groups["local"]) == pins("requirements-local.lock").keys()


def test_the_lock_for_postgres_adds_its_driver_and_nothing_else() -> None:
    plain, with_driver = pins("requirements.lock"), pins("requirements-postgres.lock")
    assert plain.items() <= with_driver.items()
    assert with_driver.keys() - plain.keys() == {"psycopg", "psycopg-binary", "tzdata"}
    assert names(PROJECT["project"]["optional-dependencies"]["postgres"]) <= with_driver.keys()


LOCKS = [f"requirements{kind}.lock" for kind in ("", "-postgres", "-build", "-release")]


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_files_that_are_installed_together_agree_on_versions(lock: str) -> None:
    dev = pins("requirements-dev.lock")
    mine = pins(lock)
    assert mine
    assert {name: version for name, version in mine.items() if dev.get(name, version) != version} == {}
    if lock != "requirements-release.lock":
        assert mine.keys() <= dev.keys()


def test_the_image_installs_nothing_but_the_gateways_lock() -> None:
    dockerfile = (REPOSITORY / "deploy/Dockerfile").read_text(encoding="utf-8")
    used = set(re.findall(r"requirements\S*\.lock", re.sub(r"^#.*$", "", dockerfile, flags=re.MULTILINE)))
    assert used == {"requirements-postgres.lock", "requirements-build.lock"}
    into_the_image = re.findall(r"pip --python /opt/\S+ install (.*?)(?: \\)?$", dockerfile, re.MULTILINE)
    assert [line.split()[-1] for line in into_the_image] == ["requirements-postgres.lock", "dist/*.whl"]


def test_the_changelog_has_unreleased_on_top_and_dated_versions_in_order() -> None:
    headings = re.findall(r"^## (.*)$", (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    dated = [re.fullmatch(r"\[(\d+)\.(\d+)\.(\d+)\] - \d{4}-\d\d-\d\d", heading) for heading in headings[1:]]
    assert all(dated)
    numbers = [tuple(map(int, match.groups())) for match in dated if match]
    assert numbers == sorted(set(numbers), reverse=True)
    assert ".dev" in __version__ or __version__ == ".".join(map(str, numbers[0]))
