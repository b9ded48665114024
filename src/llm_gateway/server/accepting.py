"""Stop accepting on a listening socket without resetting connections just made, and accept again."""

from __future__ import annotations

import contextlib
import ctypes
import socket
import struct
import sys

SO_ATTACH_FILTER, SO_DETACH_FILTER = 26, 27  # Linux: asm-generic/socket.h
TCP_FLAGS, SYN = 13, 0x02  # RFC 9293 3.1: the byte with the flags; SYN begins a connection
# Classic BPF (code, jump if true, jump if false, operand): load the flags; SYN? drop; else pass.
DROP_SYN = ((0x30, 0, 0, TCP_FLAGS), (0x45, 0, 1, SYN), (0x06, 0, 0, 0), (0x06, 0, 0, 0xFFFFFFFF))


def refuse_new_connections(sock: socket.socket) -> None:
    """Drop new connection attempts (SYN), while handshakes under way complete and are accepted.

    Closing a listening socket resets every connection that waits to be accepted, and under load there always are some.
    Call this first, accept those, then close. A client whose SYN is dropped sends it again, and is refused once the
    socket is closed. On systems other than Linux this does nothing.
    """
    if sys.platform == "linux":
        steps = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in DROP_SYN))
        with contextlib.suppress(OSError):
            sock.setsockopt(
                socket.SOL_SOCKET, SO_ATTACH_FILTER, struct.pack("HP", len(DROP_SYN), ctypes.addressof(steps))
            )


def accept_new_connections(sock: socket.socket) -> None:
    """Undo `refuse_new_connections`, which a process that shares the socket may have called before it ended."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):  # there is no filter
            sock.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)
