"""Serve a Unix socket's connections only if the peer process runs as the same user."""

from __future__ import annotations

import asyncio
import os
import socket
import struct

from llm_gateway.server.connection import ClientConnection
from llm_gateway.server.held_connection import CLOSING

PEER_CREDENTIALS: int | None = getattr(socket, "SO_PEERCRED", None)
"""Linux's socket option for the process at the other end; elsewhere the mode of the socket's file has to do."""
UCRED = struct.Struct("3i")  # unix(7): process, user and group


class SameUserConnection(ClientConnection):
    """A client's connection over a Unix socket. It is closed at once if the client is a process of another user."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Wait for the first request if the client is of the same user (called by asyncio)."""
        super().connection_made(transport)
        user = user_of(transport.get_extra_info("socket"))
        if user not in (None, os.geteuid()):
            self.phase = CLOSING
            self.shared.log("connection of another user refused", level="warning", user_id=user)
            self.transport.abort()


def user_of(sock: socket.socket) -> int | None:
    """Return the effective user id of the process that made this Unix connection; None if the system does not tell."""
    if PEER_CREDENTIALS is None:
        return None
    _, user, _ = UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, PEER_CREDENTIALS, UCRED.size))
    return int(user)
