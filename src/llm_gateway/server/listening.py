"""Listening socket: bind it with helpful errors, and stop accepting without resetting connections just made."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import socket
import struct
import sys

from llm_gateway.errors import ConfigurationError

SO_ATTACH_FILTER = 26  # Linux: asm-generic/socket.h
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


def bind(host: str, port: int) -> socket.socket:
    """Return a TCP socket bound to the first address of `host` that this machine has, IPv4 or IPv6.

    Raises:
        ConfigurationError: no address can be bound; the message says what to set.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, ValueError) as error:  # ValueError: not a valid host name, or a port out of range
        raise cannot_listen(error, host, port) from error
    problem: OSError | None = None
    for family, kind, protocol, _, address in found:
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as error:
            problem = error
            continue
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind(address)
        except OSError as error:
            sock.close()
            problem = error
            if error.errno == errno.EADDRNOTAVAIL:
                continue
            break
        sock.setblocking(False)
        return sock
    raise cannot_listen(problem or OSError("no address"), host, port) from problem


def cannot_listen(error: OSError | ValueError, host: str, port: int) -> ConfigurationError:
    """Return the error for an address that cannot be bound; its message says what to set."""
    if isinstance(error, ValueError):
        return ConfigurationError(f"{host[:100]!r} is not a host name or IP address: set LLM_GATEWAY_HOST.")
    match error.errno:
        case errno.EADDRINUSE:
            return ConfigurationError(
                f"Port {port} on {host} is in use: stop the other process or set LLM_GATEWAY_PORT."
            )
        case errno.EACCES:
            return ConfigurationError(f"Port {port} may not be opened by this user: set LLM_GATEWAY_PORT above 1023.")
    return ConfigurationError(
        f"The gateway cannot listen on {host!r} ({error.strerror or error}): set LLM_GATEWAY_HOST."
    )
