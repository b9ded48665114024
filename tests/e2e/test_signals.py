"""Signals that do not request a stop: SIGUSR1 and SIGUSR2 are ignored, SIGHUP replaces the processes in due time."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llm_gateway.local_model import find_model
from llm_gateway.model_hand_over import ModelHandOver
from tests.e2e.process import KEY, CommandProcess, GatewayProcess, free_port, until
from tests.e2e.streaming_vendor import BEGIN, DONE, Pause, StreamingVendor, delta, finish

SURVIVED = (signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
STREAMS = 5


@pytest.fixture
def streamer() -> Iterator[StreamingVendor]:
    with StreamingVendor() as running:
        yield running


def stream(gateway: GatewayProcess) -> bytes:
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
    try:
        body = {"model": "auto", "stream": True, "messages": [{"role": "user", "content": "Count"}]}
        headers = {"x-service-key": KEY, "cache-control": "no-store"}
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        return connection.getresponse().read()
    finally:
        connection.close()


def test_open_streams_survive_other_signals(tmp_path: Path, streamer: StreamingVendor) -> None:
    streamer.steps = (BEGIN, delta(content="one"), Pause(1.5), delta(content="two"), finish(), DONE)
    with GatewayProcess(tmp_path) as gateway, ThreadPoolExecutor(STREAMS) as clients:
        gateway.provider("streamer", streamer.url, "streamer-1")
        streams = [clients.submit(stream, gateway) for _ in range(STREAMS)]
        until(lambda: len(streamer.calls) == STREAMS)
        for number in SURVIVED:
            gateway.process.send_signal(number)
        bodies = [one.result() for one in streams]
        assert [(b"one" in body, b"two" in body, body.endswith(b"data: [DONE]\n\n")) for body in bodies] == [
            (True, True, True)
        ] * STREAMS


def test_start_and_stop_survive_other_signals(tmp_path: Path) -> None:
    gateway = CommandProcess(tmp_path, accept_seconds=1)
    gateway.launch()
    status = Path(f"/proc/{gateway.process.pid}/status")
    until(lambda: survives(status))  # before the interpreter runs it cannot
    while not (gateway.directory / "data" / "gateway.db").exists():
        signal_all(gateway)
    gateway.wait_until_ready()
    gateway.process.terminate()
    ends = time.monotonic() + 0.8
    while time.monotonic() < ends:
        signal_all(gateway)
    assert gateway.ended() == 0
    assert '"event": "stopped"' in gateway.log


def survives(status: Path) -> bool:
    """Return True if the process ignores or handles each of these signals."""
    lines = [line.split()[1] for line in status.read_text().splitlines() if line.startswith(("SigIgn:", "SigCgt:"))]
    ignored, handled = (int(mask, 16) for mask in lines)
    return all((ignored | handled) >> (number - 1) & 1 for number in SURVIVED)


def signal_all(gateway: GatewayProcess) -> None:
    assert gateway.process.poll() is None, gateway.log
    for number in SURVIVED:
        os.kill(gateway.process.pid, number)
    time.sleep(0.005)


def test_the_local_models_process_survives_other_signals(tmp_path: Path) -> None:
    """It has a session of its own, and goes on when the control process that started it is replaced."""
    description = ModelHandOver.create()
    description.write({"key": "key"})
    numbers = (free_port(), 1, 1, description.file)
    command = [sys.executable, "-P", "-m", "llm_gateway.local_model", str(find_model()), *map(str, numbers)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, cwd=tmp_path, pass_fds=[description.file]) as child:
        until(lambda: survives(Path(f"/proc/{child.pid}/status")))
        for number in SURVIVED:
            child.send_signal(number)
        child.communicate(b"", timeout=20)
    assert child.returncode == 0
