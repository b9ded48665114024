"""Try an installed gateway: it has to tell its version, check, start, answer one call through a provider, and stop.

    python -m tools.smoke .venv/bin/llm-gateway

It runs in a temporary folder, on a free port, with a provider that this program plays; nothing is left behind.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

DEV_KEY = "dev-gateway-key"
SECONDS = 30
REPLY = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "trial",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "It works."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 3, "total_tokens": 6},
}
ACCOUNT = {"name": "trial", "display_name": "Trial", "kind": "openai", "api_key": "none", "models": ["trial"]}


class Provider(BaseHTTPRequestHandler):
    """Answers every POST as OpenAI's chat completions would."""

    def do_POST(self) -> None:
        """Read the request and answer it."""
        self.rfile.read(int(self.headers["content-length"]))
        body = json.dumps(REPLY).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Write no access log."""


@contextmanager
def listening() -> Iterator[HTTPServer]:
    """Serve `Provider` on a free port."""
    with HTTPServer(("127.0.0.1", 0), Provider) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def call(url: str, document: object = None) -> Any:
    """POST a document, or GET without one, bypassing any proxy; return the decoded answer."""
    body = None if document is None else json.dumps(document).encode()
    headers = {"X-Service-Key": DEV_KEY, "Content-Type": "application/json"}
    request = urllib.request.Request(url, body, headers)  # noqa: S310 - ours
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=SECONDS) as response:
        return json.load(response)


def wait_until_ready(root: str, gateway: subprocess.Popen[bytes]) -> None:
    """Return as soon as the gateway is ready."""
    deadline = time.monotonic() + SECONDS
    while True:
        try:
            call(f"{root}/readyz")
            return
        except OSError:
            assert gateway.poll() is None, f"serve ended with {gateway.returncode} before it was ready"
            assert time.monotonic() < deadline, f"serve was not ready after {SECONDS} seconds"
            time.sleep(0.1)


def smoke(command: Path, folder: Path) -> None:
    """Try the command in an empty folder; raises at the first thing that is not as it must be."""
    with HTTPServer(("127.0.0.1", 0), Provider) as unused:
        port = unused.server_port
    settings = {"LLM_GATEWAY_PORT": str(port), "LLM_GATEWAY_LOCAL_MODEL": "false", "LLM_GATEWAY_ACCEPT_SECONDS": "0"}
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("LLM_GATEWAY_", "PYTHON"))}
    environment = clean | settings
    subprocess.run([command, "--version"], cwd=folder, env=environment, check=True)
    subprocess.run([command, "check"], cwd=folder, env=environment, check=True)
    with listening() as provider, subprocess.Popen([command, "serve"], cwd=folder, env=environment) as gateway:
        try:
            root = f"http://127.0.0.1:{port}"
            wait_until_ready(root, gateway)
            base_url = f"http://127.0.0.1:{provider.server_port}/v1"
            call(f"{root}/api/v1/providers", ACCOUNT | {"base_url": base_url})
            answer = call(f"{root}/api/v1/generate", {"user_id": "trial", "service": "smoke", "prompt": "Do you work?"})
            assert answer["content"] == "It works.", answer
            gateway.terminate()
            assert gateway.wait(SECONDS) == 0, f"serve ended with {gateway.returncode} after SIGTERM"
        finally:
            gateway.kill()


def main(command: Path) -> None:
    """Try the command in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="smoke-") as name:
        smoke(command.absolute(), Path(name))
    print("The installed gateway works.")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
