"""Find out whether the process at the other end of a Unix connection is stopped, as by SIGSTOP or a debugger.

A process that is merely late, since the machine is busy, is not: it still waits for a processor. Linux only; elsewhere,
and where `/proc` hides other processes, no process counts as stopped.
"""

from __future__ import annotations

import socket
import struct
from pathlib import Path

PEER_CREDENTIALS: int | None = getattr(socket, "SO_PEERCRED", None)
UCRED = struct.Struct("3i")  # unix(7): process, user and group
STOPPED = (b"T", b"t")
"""States of a process that a signal or a debugger has stopped (proc_pid_stat(5))."""


def listener_of(sock: socket.socket) -> int | None:
    """Return the id of the process that listened for this Unix connection; None if the system does not tell."""
    if PEER_CREDENTIALS is None:
        return None
    try:
        process, _, _ = UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, PEER_CREDENTIALS, UCRED.size))
    except (OSError, struct.error):  # a sandbox that does not know the option
        return None
    return int(process) or None


def is_stopped(process: int | None, proc: Path = Path("/proc")) -> bool:
    """Return whether a process is stopped; False if it is None, or cannot be seen."""
    if process is None:
        return False
    try:
        stat = (proc / str(process) / "stat").read_bytes()
    except OSError:
        return False
    return stat.rpartition(b")")[2].strip()[:1] in STOPPED  # a process's name, in parentheses, can hold any character
