"""Measure processes (CPU time, memory), pin them to cores, and describe the machine (CPU, kernel, disk)."""

from __future__ import annotations

import contextlib
import os
import platform
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import clock_gettime, perf_counter, sleep

TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
SYNCS = 200


class Cores:
    """Division of the machine: one core for the measured process, the others for load and mock (the same if only one).

    Create it once, before the first pinning: it divides the cores that this process may use at that moment.
    """

    def __init__(self) -> None:
        allowed = sorted(os.sched_getaffinity(0))
        self.measured = {allowed[-1]}
        self.others = set(allowed[:-1]) or self.measured

    def leave_measured(self) -> None:
        """Move this process, and processes it starts later, off the measured core."""
        os.sched_setaffinity(0, self.others)

    def __str__(self) -> str:
        """Describe the division for the facts below a table."""
        others = " and ".join(map(str, sorted(self.others)))
        return f"what is measured on core {min(self.measured)}, load and mock on {others}"

    @contextlib.contextmanager
    def for_measured(self) -> Iterator[None]:
        """Run processes that are started within the block on the measured core."""
        os.sched_setaffinity(0, self.measured)
        try:
            yield
        finally:
            self.leave_measured()

    def measured_seconds(self) -> float:
        """Return the seconds that the measured core has been busy since boot, with any process."""
        [core] = self.measured
        for line in Path("/proc/stat").read_text().splitlines():
            name, *times = line.split()
            if name == f"cpu{core}":
                user, nice, system, _idle, _waiting, *others = map(int, times[:8])
                return (user + nice + system + sum(others)) / TICK
        return 0.0


class ProcessTree:
    """A process and its descendants."""

    def __init__(self, pid: int) -> None:
        self.pid = pid

    def cpu_seconds(self) -> float:
        """Return user plus system time in seconds since the start, including that of children that have ended."""
        stats = self._stats()
        ended = sum(int(field) for stat in stats.values() for field in stat[13:15]) / TICK
        return ended + sum(map(cpu_seconds_of, stats))

    def resident_mb(self) -> float:
        """Return the resident memory in MB (10^6 bytes)."""
        return sum(int(stat[21]) for stat in self._stats().values()) * PAGE / 1e6

    def processes(self) -> list[int]:
        """Return the process ids."""
        return list(self._stats())

    def _stats(self) -> dict[int, list[str]]:
        names = (path.name for path in Path("/proc").iterdir())
        everyone = {int(name): stat for name in names if name.isdigit() and (stat := _stat(name))}
        family = [self.pid]
        for pid in family:  # the list grows while it is iterated
            family += [child for child, stat in everyone.items() if int(stat[1]) == pid]
        return {pid: everyone[pid] for pid in family if pid in everyone}


def cpu_seconds_of(pid: int) -> float:
    """Read the process's CPU-time clock (clock_getcpuclockid(3)); /proc counts ticks of 10 ms. 0 if it has ended."""
    try:
        return clock_gettime(~pid << 3 | 2)
    except OSError:
        return 0.0


def _stat(pid: str) -> list[str]:
    """Return the fields of /proc/<pid>/stat from the third on; an empty list if the process has ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def wait_for_200(port: int, path: str, process: subprocess.Popen[bytes], seconds: float = 30.0) -> float:
    """Request `path` until it answers 200. Returns the seconds that took.

    Raises:
        RuntimeError: the process ended, or did not answer 200 within `seconds`.
    """
    start = perf_counter()
    request = f"GET {path} HTTP/1.1\r\nhost: 127.0.0.1:{port}\r\nconnection: close\r\n\r\n".encode()
    while perf_counter() - start < seconds:
        if process.poll() is not None:
            raise RuntimeError(f"It ended with code {process.returncode} before it was ready")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(request)
            if connection.recv(64)[9:12] == b"200":
                return perf_counter() - start
        sleep(0.002)
    raise RuntimeError(f"It was not ready within {seconds:.0f} s")


def stop(process: subprocess.Popen[bytes], seconds: float = 30.0) -> None:
    """Terminate a child process (SIGTERM); kill it if it does not end within `seconds`."""
    process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def sync_ms(folder: Path) -> float:
    """Measure an append with fdatasync on the disk under `folder`. Returns the median in milliseconds."""
    took = []
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(SYNCS):
            start = perf_counter()
            file.write(b"x" * 400)
            os.fdatasync(file.fileno())
            took.append(perf_counter() - start)
    return median(took) * 1000


def file_system(folder: Path) -> str:
    """Return the type of the file system that contains `folder`."""
    at = folder.resolve()
    mounts = [line.split()[1:3] for line in Path("/proc/mounts").read_text().splitlines()]
    return max((mount, kind) for mount, kind in mounts if at.is_relative_to(mount))[1]


def facts(folder: Path) -> list[str]:
    """Describe the machine, one fact per line, for a table."""
    model = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    system = f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    return [
        f"{model}, {os.cpu_count()} cores, {system}",
        f"journal on {file_system(folder)}, where an append with fdatasync takes {sync_ms(folder):.2f} ms",
    ]
