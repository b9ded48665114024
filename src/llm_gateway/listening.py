"""Bind the socket that the gateway listens on; errors say which setting to change."""

from __future__ import annotations

import errno
import socket

from llm_gateway.configuration_error import ConfigurationError

SETTINGS, ADMIN_SETTINGS = "LLM_GATEWAY_", "LLM_GATEWAY_ADMIN_"
"""What the names of the settings begin with that an address is from."""


def bind(host: str, port: int, setting: str = SETTINGS) -> socket.socket:
    """Return a TCP socket bound to the first address of `host` that this machine has, IPv4 or IPv6.

    `setting` is what the names of the settings with the address begin with.

    Raises:
        ConfigurationError: no address can be bound; the message says what to set.
    """
    try:
        # As bytes, an ASCII name needs no Unicode tables, which take a megabyte of the supervisor's memory.
        name = host.encode() if host.isascii() else host
        found = socket.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (OSError, ValueError) as error:  # ValueError: not a valid host name, or a port out of range
        raise cannot_listen(error, host, port, setting) from error
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
    raise cannot_listen(problem or OSError("no address"), host, port, setting) from problem


def cannot_listen(error: OSError | ValueError, host: str, port: int, setting: str = SETTINGS) -> ConfigurationError:
    """Return the error for an address that cannot be bound; its message says what to set."""
    if isinstance(error, ValueError):
        return ConfigurationError(f"{host[:100]!r} is not a host name or IP address: set {setting}HOST.")
    match error.errno:
        case errno.EADDRINUSE:
            return ConfigurationError(f"Port {port} on {host} is in use: stop the other process or set {setting}PORT.")
        case errno.EACCES:
            return ConfigurationError(f"Port {port} may not be opened by this user: set {setting}PORT above 1023.")
    return ConfigurationError(f"The gateway cannot listen on {host!r} ({error.strerror or error}): set {setting}HOST.")
