"""A small mail server (RFC 5321) with STARTTLS, TLS and a password, which keeps what it gets and fails on command."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from typing import Any


class MailServer:
    """The server. `replies` are said in place of its own, by the command's first word; an empty one never comes."""

    def __init__(self, certificate: ssl.SSLContext | None = None, *, starts_with_tls: bool = False) -> None:
        self.certificate = certificate
        self.starts_with_tls = starts_with_tls
        self.replies: dict[str, bytes] = {}
        self.user, self.password = "", ""
        self.mails: list[EmailMessage] = []
        self.envelopes: list[tuple[str, list[str]]] = []
        self.commands: list[str] = []
        self.port = 0

    @asynccontextmanager
    async def running(self) -> AsyncIterator[MailServer]:
        served: list[asyncio.Task[Any] | None] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            served.append(asyncio.current_task())
            try:
                await self._serve(reader, writer)
            except (OSError, asyncio.IncompleteReadError):
                pass
            finally:
                writer.transport.abort()

        context = self.certificate if self.starts_with_tls else None
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self
            for task in filter(None, served):
                task.cancel()
            await asyncio.gather(*filter(None, served), return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        sender, recipients, command = "", list[str](), ""
        writer.write(await self._reply("CONNECT", b"220 mail.example ready\r\n"))
        while command != "QUIT" and (line := await reader.readline()):
            command, _, rest = line.decode().strip().partition(" ")
            self.commands.append(command := command.upper())
            if command == "MAIL":
                sender, recipients = rest, []
            elif command == "RCPT":
                recipients.append(rest)
            answer = await self._reply(command, self._usual(command, rest))
            writer.write(answer)
            if command == "STARTTLS" and answer.startswith(b"220") and self.certificate is not None:
                await writer.drain()
                await writer.start_tls(self.certificate)
            elif command == "DATA" and answer.startswith(b"354"):
                content = (await reader.readuntil(b"\r\n.\r\n"))[:-3].replace(b"\r\n..", b"\r\n.")
                answer = await self._reply("CONTENT", b"250 queued as 42\r\n")
                if answer.startswith(b"250"):
                    self.envelopes.append((sender, recipients))
                    self.mails.append(message_from_bytes(content, policy=policy.default))
                writer.write(answer)

    def _usual(self, command: str, rest: str) -> bytes:
        if command == "EHLO":
            more = b"250-STARTTLS\r\n" if self.certificate is not None and not self.starts_with_tls else b""
            login = b"250-AUTH PLAIN\r\n" if self.user else b""
            return b"250-mail.example\r\n" + more + login + b"250 8BITMIME\r\n"
        if command == "AUTH":
            _, user, password = base64.b64decode(rest.partition(" ")[2]).decode().split("\0")
            fits = (user, password) == (self.user, self.password)
            return b"235 welcome\r\n" if fits else b"535 5.7.8 wrong password, caf\xc3\xa9\r\n"
        usual = {"STARTTLS": b"220 go ahead\r\n", "DATA": b"354 go ahead\r\n", "QUIT": b"221 bye\r\n"}
        return usual.get(command, b"250 ok\r\n")

    async def _reply(self, command: str, usual: bytes) -> bytes:
        reply = self.replies.get(command, usual)
        if not reply:
            await asyncio.Event().wait()
        return reply
