"""Install and run other gateways (peers) to measure beside this one."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from benchmarks.machine import Cores, ProcessTree, free_port, stop, wait_for_200
from benchmarks.targets import TargetFailed

SMG = "smg==1.13.0"


def peers_folder() -> Path:
    """Return the directory for installed peers: $PEERS_DIR, by default within the system's temporary directory."""
    return Path(os.environ.get("PEERS_DIR") or Path(tempfile.gettempdir()) / "gateway-peers")


def installed(requirement: str, folder: Path) -> Path:
    """Install a package into its own venv, unless that exists from an earlier run. Returns the venv.

    Raises:
        TargetFailed: pip could not install it.
    """
    home = folder / requirement
    stamp = home / ".installed"
    if stamp.exists():
        return home
    print(f"installing {requirement} into {home} …", file=sys.stderr, flush=True)
    venv.create(home, clear=True)
    pip: list[str | Path] = [sys.executable, "-m", "pip", "--python", home, "--disable-pip-version-check"]
    command = [*pip, "install", "--quiet", requirement]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        raise TargetFailed(f"{requirement} could not be installed:\n{done.stdout}")
    stamp.touch()
    return home


class Smg:
    """smg, a gateway in Rust: forwards chat completions and keeps no accounts."""

    def __init__(self, folder: Path, upstream_port: int, cores: Cores) -> None:
        program = installed(SMG, peers_folder()) / "bin" / "smg"
        self.port = free_port()
        folder.mkdir()
        options = {
            "backend": "openai",
            "worker-urls": f"http://127.0.0.1:{upstream_port}",
            "host": "127.0.0.1",
            "port": str(self.port),
            "prometheus-host": "127.0.0.1",
            "prometheus-port": str(free_port()),
            "history-backend": "none",
            "log-level": "error",
        }
        command: list[str | Path] = [program, "launch", "--disable-health-check"]
        command += [word for name, value in options.items() for word in (f"--{name}", value)]
        log = folder / "smg.log"
        with cores.for_measured(), log.open("wb") as output:
            self._process = subprocess.Popen(command, cwd=folder, stdout=output, stderr=output)
        self.tree = ProcessTree(self._process.pid)
        try:
            wait_for_200(self.port, "/health", self._process)
        except RuntimeError as error:
            self.stop()
            raise TargetFailed(f"smg did not start. {error}:\n{log.read_text(errors='replace')[-2000:]}") from None

    def stop(self) -> None:
        stop(self._process)
