"""Unwritable log: the gateway serves without delay, stops in time, and counts lost lines."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.e2e.process import COMMAND, GatewayProcess, until
from tests.fork_server import ForkedProcess, Surroundings
from tests.upstream import UpstreamProcess

STOP_S = 3.0
"""Maximum seconds of a stop. It took 5 s when it waited for the log; without a faulty log it takes 0.2 s."""
ANSWERS = 10


@dataclass
class Fault:
    """A kind of unwritable log: the descriptor to pass to the gateway, None to close it."""

    descriptor: int | None
    others: list[int] = field(default_factory=list)


def fill(descriptor: int, size: int) -> None:
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(descriptor, b"x" * size)


def full_pipe() -> Fault:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    for size in (4096, 1):
        fill(writing, size)
    os.set_blocking(writing, True)
    return Fault(writing, [reading])


def reader_gone() -> Fault:
    reading, writing = os.pipe()
    os.close(reading)
    return Fault(writing)


def full_socket() -> Fault:
    ours, its = (end.detach() for end in socket.socketpair())
    os.set_blocking(its, False)
    fill(its, 1)
    os.set_blocking(its, True)
    return Fault(its, [ours])


FAULTS: dict[str, Callable[[], Fault]] = {
    "closed": lambda: Fault(None),
    "full pipe": full_pipe,
    "reader gone": reader_gone,
    "full socket": full_socket,
    "full disk": lambda: Fault(os.open("/dev/full", os.O_WRONLY)),
    "read only": lambda: Fault(os.open(os.devnull, os.O_RDONLY)),
}


STREAMS = {"stdout": (1,), "stderr": (2,), "all": (0, 1, 2)}
"""Descriptors that are faulty."""


class FaultyLog(GatewayProcess):
    """A gateway whose standard output or error, or both, cannot be written."""

    def __init__(self, directory: Path, fault: Fault, streams: str, **settings: object) -> None:
        super().__init__(directory, **settings)
        self._fault, self._streams = fault, streams
        if fault.descriptor is None:
            self.surroundings = Surroundings(closed=STREAMS[streams])

    def _start(self, *descriptors: int) -> ForkedProcess | subprocess.Popen[bytes]:
        """Start as `GatewayProcess` does; if all descriptors are closed, by a shell, imports included."""
        faulty, descriptor = STREAMS[self._streams], self._fault.descriptor
        if descriptor is not None:
            given = [descriptor if number in faulty and number else usual for number, usual in enumerate(descriptors)]
            return super()._start(*given)
        if self._streams != "all":
            return super()._start(*descriptors)
        stdin, stdout, stderr = descriptors
        command = f"exec {COMMAND} serve {' '.join(f'{number}>&-' for number in faulty)}"
        return subprocess.Popen(
            ["/bin/sh", "-c", command],
            env=self._environment,
            cwd=self.directory,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
        )


class CompleteEnd(FaultyLog):
    """A gateway with a faulty log, whose interpreter destroys its modules at the end."""

    surroundings = Surroundings(finalize=True)


@pytest.fixture(params=FAULTS)
def fault(request: pytest.FixtureRequest) -> Iterator[Fault]:
    made = FAULTS[request.param]()
    yield made
    for descriptor in (made.descriptor, *made.others):
        if descriptor is not None:
            os.close(descriptor)


@pytest.mark.parametrize(
    ("fault", "streams"),
    [*itertools.product(FAULTS, ["stdout", "all"]), ("closed", "stderr"), ("full pipe", "stderr")],
    indirect=["fault"],
)
def test_an_unwritable_log_stops_no_request(tmp_path: Path, mock: UpstreamProcess, fault: Fault, streams: str) -> None:
    with FaultyLog(tmp_path, fault, streams) as gateway:
        gateway.provider("p", mock.base_url, "ok")
        assert [gateway.ask(f"Question {number}").status for number in range(ANSWERS)] == [200] * ANSWERS
        assert [gateway.call("GET", "/api/v1/providers/none").status for _ in range(ANSWERS)] == [404] * ANSWERS
        assert gateway.summary()["total_requests"] == ANSWERS
        taken = [Path(f"/proc/{gateway.process.pid}/fd/{number}").readlink().as_posix() for number in range(3)]
        if fault.descriptor is None:
            assert not [target for target in taken if target.startswith("socket:") or "data" in target], taken
        asked = time.monotonic()
        assert gateway.stop() == 0
        assert time.monotonic() - asked < STOP_S
    for file in (tmp_path / "data").rglob("*"):
        assert not file.is_file() or b'"event": "ready"' not in file.read_bytes(), f"log lines in {file}"


def test_the_exit_code_of_a_failed_start_does_not_depend_on_stderr(tmp_path: Path, fault: Fault) -> None:
    gateway = FaultyLog(tmp_path, fault, "all", drain_seconds="soon")
    gateway.launch()
    assert gateway.ended() == 78
    assert "Traceback" not in gateway.log


def dropped(gateway: GatewayProcess) -> float:
    text = gateway.call("GET", "/metrics").body.decode()
    return float(text.split("\nllm_gateway_log_lines_dropped_total ", 1)[1].split("\n", 1)[0])


def test_lost_log_lines_are_counted(tmp_path: Path) -> None:
    with FaultyLog(tmp_path, reader_gone(), "stdout") as gateway:
        until(lambda: dropped(gateway) > 0)


def test_lost_log_lines_of_the_supervisor_are_counted(tmp_path: Path) -> None:
    """At level `error` the other processes write none."""
    settings = tmp_path / "more.env"
    settings.write_text("LLM_GATEWAY_LOG_LEVEL=error\n")
    with FaultyLog(tmp_path, reader_gone(), "all", env_file=settings) as gateway:
        assert dropped(gateway) == 0
        settings.write_text("LLM_GATEWAY_LOG_LEVEL=loud\n")
        gateway.process.send_signal(signal.SIGHUP)
        until(lambda: dropped(gateway) == 1)


def test_a_log_reader_that_resumes_during_the_stop_causes_no_crash(tmp_path: Path) -> None:
    """The writer's thread can return from its blocked write at any time of the interpreter's shutdown."""
    for wait_s in (0.9, 1.1, 1.3):
        fault = full_pipe()
        assert fault.descriptor is not None
        with CompleteEnd(tmp_path, fault, "all") as gateway:
            reader = threading.Timer(wait_s, lambda reading=fault.others[0]: os.read(reading, 1 << 20))
            gateway.process.terminate()
            reader.start()
            assert gateway.ended() == 0
            reader.join()
        os.close(fault.descriptor)
        os.close(fault.others[0])
