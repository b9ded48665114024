"""Workers of pytest-xdist, forked from a process that has collected all tests once.

A worker imports the test modules and the vendors' SDKs and collects the tests: 9 s of CPU time. A forked one takes the
tests over (`tests/collected_once.py`). Forked workers also share a fork server of gateways (`tests/fork_server.py`).

This file is two programs. xdist starts "worker" in the place of `python -c …`: it passes its descriptors to "server",
which forks. If the server did not collect all tests without an error, "worker" goes on as that Python.
"""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

TYPE_CHECKING = False  # the import of `typing` takes as long as all others of a "worker"
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Never

ROOT = Path(__file__).resolve().parents[1]
FORKED = b"forked"
LONGEST_ADDRESS = 107
"""Bytes of a socket's path, unix(7)."""


def start_server(folder: Path, options: Sequence[str]) -> str:
    """Start the server, which ends with this process, its socket in `folder`. Returns the command of a worker.

    The server collects tests with pytest's `options`. The command is Python itself if the folder's path is too long for
    a socket.
    """
    import atexit
    import shlex
    import subprocess

    address = str(folder / "workers")
    if len(os.fsencode(address)) > LONGEST_ADDRESS:
        return shlex.quote(sys.executable)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(address)
    listener.listen(64)
    server = subprocess.Popen(
        [sys.executable, "-P", __file__, "server", str(listener.fileno()), *options],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        pass_fds=[listener.fileno()],
    )
    listener.close()
    atexit.register(server.communicate)  # ends its standard input
    return worker_command(address)


def worker_command(address: str) -> str:
    """Return what takes the place of `python`, for a shell."""
    import shlex

    return shlex.join([sys.executable, "-IS", __file__, "worker", address])


def be_worker(address: str, arguments: Sequence[str]) -> None:
    """Let the server fork a process with this one's descriptors, directory and environment, and wait for its end."""
    import json

    job = {"arguments": arguments, "cwd": str(Path.cwd()), "env": dict(os.environ)}
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(address)
            socket.send_fds(connection, [json.dumps(job).encode() + b"\n"], [0, 1, 2])
            if connection.recv(len(FORKED)) == FORKED:
                connection.recv(1)
                return
    except ConnectionError:
        pass
    os.execv(sys.executable, [sys.executable, *arguments])


def be_server(listener: socket.socket, options: Sequence[str]) -> None:
    """Collect all tests, and start a fork server of gateways beside that; then fork workers."""
    import gc

    sys.path.insert(0, str(ROOT))
    from tests.e2e.process import migrated_database
    from tests.fork_server import fork_server
    from tests.prepared import prepare

    fork_server()
    if collects_all(options):
        prepare()
        migrated_database()
        gc.freeze()
        serve(listener)


def collects_all(options: Sequence[str]) -> bool:
    """Collect the tests of a run with these options, for the workers. Returns False if there was an error."""
    import contextlib

    import pytest

    from tests.collected_once import collected_tests

    plain = ("--collect-only", "-qqq", "-n", "0", "-p", "no:cacheprovider")
    with (
        Path(os.devnull).open("w") as nothing,
        contextlib.redirect_stdout(nothing),
        contextlib.redirect_stderr(nothing),
    ):
        return pytest.main([*options, *plain], [collected_tests()]) == pytest.ExitCode.OK


def serve(listener: socket.socket) -> None:
    """Fork a worker for each connection until standard input ends."""
    import select
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C pytest ends, and with it standard input
    signal.signal(signal.SIGCHLD, lambda *_: reap())
    awaited: list[int] = [0, listener.fileno()]
    while 0 not in select.select(awaited, [], [])[0]:
        connection, _ = listener.accept()
        if not os.fork():
            listener.close()
            be_forked(connection)
        connection.close()


def reap() -> None:
    """Take note of the children that have ended, so that their CPU time is counted with this process's."""
    import contextlib

    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def be_forked(connection: socket.socket) -> Never:
    """Run the program for `python -c` which the connection brings, as a new process would."""
    import json
    import random
    import traceback
    from types import ModuleType

    from tests.fork_server import become_another, end_child

    data, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, 3)
    while data[-1:] not in (b"\n", b""):
        data += connection.recv(1 << 20)
    job = json.loads(data)
    become_another(descriptors, ())
    random.seed()
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["env"])
    sys.argv = ["-c"]
    sys.modules["__main__"] = main = ModuleType("__main__")
    connection.sendall(FORKED)
    try:
        exec(job["arguments"][-1], main.__dict__)
    except BaseException:
        traceback.print_exc()
    finally:
        end_child(0)
    raise AssertionError("unreachable")


if __name__ == "__main__":
    if sys.argv[1] == "server":
        be_server(socket.socket(fileno=int(sys.argv[2])), sys.argv[3:])
    else:
        be_worker(sys.argv[2], sys.argv[3:])
