"""Fork server that starts processes of gateway, command line and mock vendor with all imports already done.

Imports take 1.3 s of CPU time, the rest of a start 0.2 s. Everything but the imports is as in a new process:
environment, directory, descriptors, signals, memory, exit code. Only the interpreter's last step is left out (unless
`Surroundings.finalize`): it destroys all modules, for which the system copies the memory that the fork shares.
Run as a program, this module is the server.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import functools
import gc
import importlib
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import termios
import threading
import traceback
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

GATEWAY = "llm_gateway.__main__"
COMMAND_LINE = "llm_gateway.cli"
MOCK = "tests.upstream.__main__"
BENCH = "tests.forked_bench"
"""The modules whose `main` a forked process can run."""
CHILDREN = {
    "llm_gateway.settings_child": "llm_gateway.settings_child",
    "llm_gateway.control": "llm_gateway.control.__main__",
    "llm_gateway.worker": "llm_gateway.worker.__main__",
}
"""The modules that the gateway's supervisor starts, and where their `main` is."""
ROOT = Path(__file__).resolve().parents[1]
STANDARD = (0, 1, 2)
PATIENCE_S = 60.0


@dataclass(frozen=True)
class Surroundings:
    """Terminal, limits, privileges and end of a process."""

    terminal: bool = False
    """Standard input becomes the controlling terminal of a new session."""
    file_size: int | None = None
    """Maximum bytes of a file that the process writes."""
    privileged: bool = True
    """False drops root's capabilities, so that file modes and privileged ports apply."""
    closed: tuple[int, ...] = ()
    """Standard descriptors that are closed, as a shell's `>&-` leaves them."""
    finalize: bool = False
    """The interpreter destroys its modules at the end, which takes 0.1 s of CPU time."""


USUAL = Surroundings()


class ForkedProcess:
    """A process that `ForkServer` started; a small `subprocess.Popen`."""

    def __init__(self, report: int) -> None:
        self._report = open(report, "rb")  # noqa: SIM115 - closed when the process ended
        self.pid = int(self._report.readline())
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, None while the process runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end. Returns the exit code, or the negative number of the signal that ended the process.

        Raises:
            subprocess.TimeoutExpired: the process still runs after `timeout` seconds.
        """
        if self.returncode is None:
            if not select.select([self._report], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            with self._report:
                self.returncode = int(self._report.readline())
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send the process a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class ForkServer:
    """Client of the fork server, which ends with the process that created this object and its forks.

    Forks of that process can use it at the same time: each job is one message of the socket.
    """

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
        # Nothing waits for the server process: it ends by itself when the socket is closed.
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
        )
        theirs.close()

    def start(
        self,
        module: str,
        arguments: Sequence[str],
        descriptors: Sequence[int],
        cwd: Path,
        env: Mapping[str, str],
        surroundings: Surroundings = USUAL,
    ) -> ForkedProcess:
        """Run `main` of a module as `python -m` would, with these descriptors as stdin, stdout and stderr."""
        ours, report = os.pipe()
        job = {"module": module, "arguments": arguments, "cwd": str(cwd), "env": dict(env), **asdict(surroundings)}
        try:
            socket.send_fds(self._socket, [json.dumps(job).encode()], [*descriptors, report])
        finally:
            os.close(report)
        return ForkedProcess(ours)

    def run(
        self,
        module: str,
        arguments: Sequence[str],
        cwd: Path,
        env: Mapping[str, str],
        stdin: bytes = b"",
        surroundings: Surroundings = USUAL,
    ) -> tuple[int, str, str]:
        """Run `main` of a module to its end with pipes. Returns its exit code, standard output and standard error."""
        with TemporaryFile() as given, ThreadPoolExecutor(2) as readers:
            given.write(stdin)
            given.seek(0)
            (out, its_out), (err, its_err) = os.pipe(), os.pipe()
            try:
                process = self.start(module, arguments, (given.fileno(), its_out, its_err), cwd, env, surroundings)
            finally:
                os.close(its_out)
                os.close(its_err)
            written, errors = readers.map(_read, (out, err))
            return process.wait(PATIENCE_S), written, errors


def _read(descriptor: int) -> str:
    with open(descriptor, "rb") as file:
        return file.read().decode()


@functools.cache
def fork_server() -> ForkServer:
    """Return the fork server of this process; the first call starts it."""
    return ForkServer()


def next_job(connection: socket.socket) -> dict[str, Any]:
    """Fork a process for each job, and return the job in it. In the server itself this function never returns."""
    reports: dict[int, int] = {}

    def report_ended(*_: object) -> None:
        while reports:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            report = reports.pop(pid)
            with contextlib.suppress(BrokenPipeError):
                os.write(report, b"%d\n" % os.waitstatus_to_exitcode(status))
            os.close(report)

    signal.signal(signal.SIGCHLD, report_ended)
    while True:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])
        data, descriptors, _, _ = socket.recv_fds(connection, 1 << 20, len(STANDARD) + 1)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
        if not data:
            os._exit(0)
        *standard, report = descriptors
        job = dict(json.loads(data))
        import_once(job["module"])
        pid = os.fork()
        if not pid:
            connection.close()
            become_another(standard, {report, *reports.values()})
            return job
        reports[pid] = report
        os.write(report, b"%d\n" % pid)
        for number in standard:
            os.close(number)


def import_once(module: str) -> None:
    """Import a module for this job and those that come later. If that fails, it fails again in the forked process."""
    if module not in sys.modules:
        with contextlib.suppress(Exception):
            importlib.import_module(module)
            gc.freeze()


def become_another(standard: Sequence[int], others: Iterable[int]) -> None:
    """Make these descriptors stdin, stdout and stderr, and close those of the server."""
    for number in others:
        os.close(number)
    for number, descriptor in zip(STANDARD, standard, strict=True):
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - these three are closed with the process
    sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, buffering=1, errors="backslashreplace")  # noqa: SIM115
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGCHLD])


class EarlyEnd:
    """Ends the process, once `code` is set, after its threads and exit handlers but before its modules are destroyed.

    Handlers run in reverse order, so this one must be registered before any other.
    """

    def __init__(self) -> None:
        self.code: int | None = None
        atexit.register(self._end)

    def _end(self) -> None:
        if self.code is not None:
            with contextlib.suppress(OSError, ValueError):  # the interpreter tries again, and reports it
                for stream in filter(None, (sys.stdout, sys.stderr)):  # None if its descriptor is closed
                    stream.flush()
                os._exit(self.code)


def surround(surroundings: Mapping[str, Any]) -> None:
    """Give this process its `Surroundings`, but for the end."""
    if surroundings["terminal"]:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    if surroundings["file_size"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (surroundings["file_size"],) * 2)
    if not surroundings["privileged"]:
        drop_capabilities()
    for number in surroundings["closed"]:
        os.close(number)
        setattr(sys, ("stdin", "stdout", "stderr")[number], None)


class ForkingLauncher:
    """Forks a child (`supervisor.launcher.Launch`) from the supervisor, which has imported everything.

    `modules` says where `main` of each module is.
    """

    def __init__(self, modules: Mapping[str, str] = CHILDREN) -> None:
        self._modules = modules

    def __call__(self, module: str, arguments: Sequence[str], descriptors: Mapping[int, int]) -> int:
        # A signal that arrives before the handlers are replaced would be written to the supervisor's pipe.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
        pid = os.fork()
        if pid:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            return pid
        code = 1
        try:
            atexit._clear()  # such as the removal of a temporary folder that the supervisor still uses
            os.setpgid(0, 0)
            signal.set_wakeup_fd(-1)
            for number in (signal.SIGTERM, signal.SIGCHLD):
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            keep_descriptors(descriptors)
            sys.argv = [module, *arguments]
            Path("/proc/self/comm").write_text(module.rpartition(".")[2])  # see tests/gateway_processes.py
            code = importlib.import_module(self._modules[module]).main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except BaseException:
            traceback.print_exc()
        finally:  # never return into the supervisor's code
            end_child(code)
        raise AssertionError("unreachable")


def keep_descriptors(descriptors: Mapping[int, int]) -> None:
    """Give this process these descriptors (number here → number now), and close all but them and the standard ones."""
    for theirs, ours in descriptors.items():
        if theirs != ours:
            os.dup2(ours, theirs)
    kept = {*STANDARD, *descriptors}
    for path in list(Path("/proc/self/fd").iterdir()):
        if int(path.name) not in kept:
            with contextlib.suppress(OSError):  # the descriptor that listed the folder
                os.close(int(path.name))


def end_child(code: int) -> None:
    """End this process as the interpreter would: threads, exit handlers, streams."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, and there is no public name for it
        atexit._run_exitfuncs()  # in reverse order
        for stream in filter(None, (sys.stdout, sys.stderr)):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
    finally:
        os._exit(code)


def drop_capabilities() -> None:
    """Drop all capabilities of this process (capset(2), version 3 of its header)."""
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.capset(header, none):
        raise OSError(ctypes.get_errno(), "capset")


def serve(connection: socket.socket) -> None:
    """Import the modules, then fork a process for each job; in the forked process, run `main` to its end."""
    early_end = EarlyEnd()
    sys.path.append(str(ROOT))
    importlib.import_module("tests.prepared").prepare()
    importlib.import_module(MOCK)
    gc.freeze()
    job = next_job(connection)
    os.chdir(job["cwd"])
    os.environ.clear()
    os.environ.update(job["env"])
    sys.argv = [job["module"], *job["arguments"]]
    surround(job)
    main = importlib.import_module(job["module"]).main
    if job["module"] == GATEWAY:
        main = functools.partial(main, ForkingLauncher())
    try:
        sys.exit(main())
    except SystemExit as end:
        if isinstance(end.code, int) and not job["finalize"]:
            early_end.code = end.code
        raise


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # on Ctrl-C pytest closes the socket, which ends the server
    serve(socket.socket(fileno=int(sys.argv[1])))
