"""Build wheel, sdist and SBOM into dist/, and try the wheel: `make release`, or `python -m tools.release`.

Both are built from the committed files, and again from the sdist alone; the two builds must be equal byte by byte. The
wheel is installed with the locked packages into a venv of its own and tried there (tools/smoke.py); the SBOM lists what
is in that venv. Work is done in a temporary folder. A step that fails ends the release and leaves dist/ as it was.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from tools import quietly, smoke

REPOSITORY = Path(__file__).parents[1]
TARGET = REPOSITORY / "dist"
NAME = "llm-gateway-server"
VERSION = re.compile(r'^__version__ = "(.+)"$', re.MULTILINE)


def main() -> None:
    """Build and try the version of the working tree; replace dist/ when all went well."""
    version = check_source()
    with tempfile.TemporaryDirectory(prefix="release-") as name:
        work = Path(name)
        tools = make_venv(work / "tools", REPOSITORY / "requirements-release.lock")
        wheel, sdist = build(tools, work)
        gateway = make_venv(work / "gateway", REPOSITORY / "requirements.lock")
        # Without an index, pip fails if a dependency of the wheel is not in the lock file.
        pip(gateway, "--no-index", "--find-links", wheel.parent, f"{NAME}=={version}")
        command = gateway / "bin/llm-gateway"
        if (shown := output(command, "--version")) != version:
            sys.exit(f"The installed llm-gateway --version shows {shown} instead of {version}.")
        smoke.main(command)
        sbom = work / f"{sdist.name.removesuffix('.tar.gz')}.cdx.json"
        describe(tools, gateway, version, sbom)
        publish(TARGET, [wheel, sdist, sbom, *(REPOSITORY / f"requirements{kind}.lock" for kind in ("", "-postgres"))])
    print(f"{TARGET} holds release {version}.")


def check_source() -> str:
    """Return the version. Ends the program if files are not committed or the changelog lacks the version."""
    if changed := output("git", "status", "--porcelain"):
        sys.exit(f"A release is built from committed files, and these are not:\n{changed}")
    version = VERSION.findall((REPOSITORY / "src/llm_gateway/__init__.py").read_text(encoding="utf-8"))[0]
    section = "Unreleased" if ".dev" in version else version
    if f"\n## [{section}]" not in (REPOSITORY / "CHANGELOG.md").read_text(encoding="utf-8"):
        sys.exit(f"CHANGELOG.md has no section [{section}]: write it, commit, and try again.")
    return str(version)


def build(tools: Path, work: Path) -> tuple[Path, Path]:
    """Build from the repository and from the resulting sdist, compare, and return the wheel and the sdist."""
    os.environ["SOURCE_DATE_EPOCH"] = output("git", "log", "-1", "--format=%ct")
    run(tools / "bin/hatchling", "build", "-d", work / "dist")
    [wheel], [sdist] = (work / "dist").glob("*.whl"), (work / "dist").glob("*.tar.gz")
    shutil.unpack_archive(sdist, work / "unpacked")
    [root] = (work / "unpacked").iterdir()
    run(tools / "bin/hatchling", "build", "-d", work / "again", cwd=root)
    for file in (wheel, sdist):
        if file.read_bytes() != (work / "again" / file.name).read_bytes():
            sys.exit(f"{file.name} differs when it is built from the sdist: the build is not reproducible.")
    return wheel, sdist


def describe(tools: Path, gateway: Path, version: str, sbom: Path) -> None:
    """Write the SBOM of what is installed in a venv."""
    project = (REPOSITORY / "pyproject.toml").read_text(encoding="utf-8")
    about = sbom.with_name("pyproject.toml")
    about.write_text(project.replace('dynamic = ["version"]', f'version = "{version}"'), encoding="utf-8")
    form = ("--output-reproducible", "--mc-type", "application", "--pyproject", about, "--output-file", sbom)
    run(tools / "bin/cyclonedx-py", "environment", *form, gateway)


def make_venv(path: Path, lock: Path) -> Path:
    """Make a venv without pip, so that it holds nothing else, and install a lock file into it."""
    venv.create(path, symlinks=True)
    pip(path, "--require-hashes", "--no-deps", "-r", lock)
    return path


def pip(environment: Path, *arguments: str | Path) -> None:
    """Install into an environment with the pip of the Python that runs this program."""
    python = ["--python", str(environment / "bin/python")]
    command = [sys.executable, "-m", "pip", *python, "--disable-pip-version-check", "install", *map(str, arguments)]
    if code := quietly.run(environment / "install.log", f"Installing {arguments[-1]}", command):
        sys.exit(code)


def publish(target: Path, files: list[Path]) -> None:
    """Replace the folder `target` by one with the files and their SHA-256 sums; an error leaves it as it was."""
    with tempfile.TemporaryDirectory(prefix=f"{target.name}-", dir=target.parent) as beside:
        new, old = Path(beside) / "new", Path(beside) / "old"
        new.mkdir()
        sums = []
        for file in sorted(files, key=lambda file: file.name):
            shutil.copy(file, new)
            sums.append(f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n")
        (new / "SHA256SUMS").write_text("".join(sums), encoding="utf-8")
        try:
            if target.exists():
                target.rename(old)
            new.rename(target)
        finally:
            if old.exists() and not target.exists():
                old.rename(target)


def run(*command: str | Path, cwd: Path = REPOSITORY) -> None:
    """Run a command; ends the program with its name if it fails."""
    if code := subprocess.run(command, cwd=cwd, check=False).returncode:
        sys.exit(f"The release stops here, with exit code {code} of: {' '.join(map(str, command))}")


def output(*command: str | Path) -> str:
    """Return what a command prints."""
    return subprocess.run(command, cwd=REPOSITORY, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    if sys.argv[1:]:
        sys.exit(f"A release goes into {TARGET}: run python -m tools.release without arguments.")
    main()
