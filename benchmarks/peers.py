"""Other gateways (peers) to measure beside this one: from the package index, in front of a mock vendor.

Each is set up as its documentation says, for chat completions only: no accounts, no log of requests, no limits.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import venv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import monotonic, sleep
from typing import NamedTuple

import msgspec

from benchmarks import calls
from benchmarks.jobs import Job
from benchmarks.machine import Cores, ProcessTree, free_port, stop, wait_for_200
from benchmarks.targets import MODEL, TargetFailed

PRINTED = re.compile(r"http://127\.0\.0\.1:(\d+)")
"""What a peer that chooses its own port prints."""
START_S = 60.0
VENDOR_KEY = "sk-benchmark-0123456789"
FERROGW_KEY = "fgw_0123456789abcdef0123456789abcdef"
LITELLM_KEY = f"sk-{'0123456789abcdef' * 4}"
PLAIN_CHAT = "/v1/chat/completions"


class Start(NamedTuple):
    """How to start a peer: the command, and the environment variables that it adds."""

    command: Sequence[str | Path]
    environment: Mapping[str, str]


class Peer(msgspec.Struct, frozen=True):
    """Another gateway.

    `start(home, folder, port, upstream)` writes the configuration into `folder` and returns how to start the peer,
    which is installed in the venv `home`, so that it listens on `port` and calls the vendor at port `upstream`.
    """

    name: str
    requirement: str
    about: str
    start: Callable[[Path, Path, int, int], Start]
    ready: str
    """Path that answers 200 once it serves; empty for one that serves once it has printed its address."""
    path: str = PLAIN_CHAT
    model: str = MODEL
    key: str = VENDOR_KEY
    """What callers send as `Authorization: Bearer …`."""
    chooses_port: bool = False
    """True if it listens on a port of its own choice, and prints the address."""
    most_per_second: int = 100_000
    """Arrival rate above which it is left out, since it would only queue."""

    def job(self, port: int) -> Job:
        """Return a job of chat completions for it."""
        job = calls.vendor(port)
        body = json.dumps({**json.loads(job.body), "model": self.model})
        headers = {**job.headers, "authorization": f"Bearer {self.key}"}
        return msgspec.structs.replace(job, path=self.path, body=body, headers=headers)


def _start_smg(home: Path, folder: Path, port: int, upstream: int) -> Start:
    options = {
        "backend": "openai",
        "worker-urls": f"http://127.0.0.1:{upstream}",
        "host": "127.0.0.1",
        "port": str(port),
        "prometheus-host": "127.0.0.1",
        "prometheus-port": str(free_port()),
        "history-backend": "none",
        "log-level": "error",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    return Start([home / "bin" / "smg", "launch", "--disable-health-check", *words], {})


def _start_ferrogw(home: Path, folder: Path, port: int, upstream: int) -> Start:
    config = folder / "config.yaml"
    config.write_text("strategy:\n  mode: fallback\ntargets:\n  - virtual_key: openai\n")
    environment = {
        "GATEWAY_CONFIG": str(config),
        "PORT": str(port),
        "MASTER_KEY": FERROGW_KEY,
        "OPENAI_API_KEY": VENDOR_KEY,
        "OPENAI_BASE_URL": f"http://127.0.0.1:{upstream}",
        "LOG_LEVEL": "error",
        "RATE_LIMIT_RPS": "0",
    }
    return Start([home / "bin" / "ferrogw", "serve"], environment)


_TENSORZERO = """
[gateway]
observability.enabled = false
disable_pseudonymous_usage_analytics = true

[models.bench]
routing = ["mock"]

[models.bench.providers.mock]
type = "openai"
model_name = "{model}"
api_base = "http://127.0.0.1:{upstream}/v1/"
api_key_location = "none"
"""
_RUN_TENSORZERO = """
import asyncio, sys
from tensorzero import tensorzero

async def main():
    gateway = await tensorzero._start_http_gateway(
        config_file=sys.argv[1], clickhouse_url=None, postgres_url=None, valkey_url=None, async_setup=True
    )
    print(gateway.base_url, flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""
"""The package has the gateway as a library, which its own `patch_openai_client` starts in this way."""


def _start_tensorzero(home: Path, folder: Path, port: int, upstream: int) -> Start:
    config = folder / "tensorzero.toml"
    config.write_text(_TENSORZERO.format(model=MODEL, upstream=upstream))
    return Start([home / "bin" / "python", "-c", _RUN_TENSORZERO, config], {"RUST_LOG": "error"})


def _start_litellm(home: Path, folder: Path, port: int, upstream: int) -> Start:
    parameters = {
        "model": f"openai/{MODEL}",
        "api_base": f"http://127.0.0.1:{upstream}/v1",
        "api_key": VENDOR_KEY,
    }
    config = folder / "config.yaml"  # JSON is YAML
    config.write_text(json.dumps({"model_list": [{"model_name": MODEL, "litellm_params": parameters}]}))
    command: list[str | Path] = [
        home / "bin" / "litellm",
        "--config",
        config,
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    environment = {
        "LITELLM_MASTER_KEY": LITELLM_KEY,
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_LOG": "ERROR",
    }
    return Start(command, environment)


SMG = Peer("smg", "smg==1.13.0", "Rust", _start_smg, "/health")
PEERS = (
    SMG,
    Peer("ferrogw", "ferrogw==1.5.10", "Go", _start_ferrogw, "/readyz", key=FERROGW_KEY),
    Peer(
        "tensorzero",
        "tensorzero==2026.6.0",
        "Rust",
        _start_tensorzero,
        "",
        path="/openai/v1/chat/completions",
        model="tensorzero::model_name::bench",
        chooses_port=True,
    ),
    Peer(
        "litellm",
        "litellm[proxy]==1.106.12",
        "Python",
        _start_litellm,
        "/health/liveliness",
        key=LITELLM_KEY,
        most_per_second=50,
    ),
)


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


class RunningPeer:
    """A peer that runs on the measured core, and listens on `port`."""

    def __init__(self, peer: Peer, folder: Path, upstream: int, cores: Cores) -> None:
        """Install the peer if it is not installed yet, and start it.

        Raises:
            TargetFailed: it could not be installed, or did not start; the message ends with its log.
        """
        home = installed(peer.requirement, peers_folder())
        folder.mkdir()
        self.port = free_port()
        self._log = folder / "peer.log"
        start = peer.start(home, folder, self.port, upstream)
        environment = {**os.environ, **start.environment, "PATH": f"{home / 'bin'}:{os.environ['PATH']}"}
        with cores.for_measured(), self._log.open("wb") as output:
            self._process = subprocess.Popen(
                start.command, cwd=folder, env=environment, stdout=output, stderr=output, stdin=subprocess.DEVNULL
            )
        self.tree = ProcessTree(self._process.pid)
        try:
            if peer.chooses_port:
                self.port = self._printed_port()
            if peer.ready:
                wait_for_200(self.port, peer.ready, self._process, START_S)
        except RuntimeError as error:
            self.stop()
            words = self._log.read_text(errors="replace")[-2000:]
            raise TargetFailed(f"{peer.name} did not start. {error}:\n{words}") from None

    def stop(self) -> None:
        """Stop it."""
        stop(self._process, seconds=5.0)

    def _printed_port(self) -> int:
        """Wait for the address that the peer prints, and return its port.

        Raises:
            RuntimeError: the peer ended, or printed no address in time.
        """
        deadline = monotonic() + START_S
        while monotonic() < deadline and self._process.poll() is None:
            if found := PRINTED.search(self._log.read_text(errors="replace")):
                return int(found[1])
            sleep(0.02)
        raise RuntimeError("It printed no address")
