"""Send a mail over SMTP (RFC 5321), by the rules for calls to providers: addresses are checked, and time is bounded.

`smtplib` blocks, so it runs in a thread. Its timeouts are those of single reads, and a server that answers a byte at a
time would never reach one: at the deadline the connection is shut down, which ends the thread, too.
"""

from __future__ import annotations

import asyncio
import smtplib
import socket
import ssl
from contextlib import suppress
from email.message import EmailMessage
from typing import BinaryIO

from llm_gateway.domain.alert_target import Mailbox, Sent
from llm_gateway.upstream.egress import AddressRefused, Egress
from llm_gateway.upstream.pool import tls_context

SAID_CHARACTERS = 200
"""Characters of the server's own words that are quoted."""
READY = 220
"""Reply of a server that takes mails (RFC 5321, section 4.2.3)."""
MOST_REPLY_BYTES = 64 * 1024
"""Bytes of a connection's replies that are read before TLS, and again after STARTTLS."""


async def send_mail(
    mailbox: Mailbox, password: str | None, message: EmailMessage, egress: Egress, timeout_s: float
) -> Sent:
    """Send a mail over a new connection. Never raises for what the network or the server does."""
    connection = _Connection(mailbox, password, egress, timeout_s)
    try:
        async with asyncio.timeout(timeout_s):
            return await asyncio.to_thread(connection.deliver, message)
    except TimeoutError:
        return Sent(False, f"{mailbox.host}:{mailbox.port} did not take the mail within {timeout_s:.0f} s.")
    finally:
        connection.shut_down()


class _Connection(smtplib.SMTP):
    """A connection that goes to the address that egress has checked. `shut_down` may be called in another thread."""

    def __init__(self, mailbox: Mailbox, password: str | None, egress: Egress, timeout_s: float) -> None:
        super().__init__(local_hostname=socket.gethostname(), timeout=timeout_s)  # the default asks DNS
        self._mailbox = mailbox
        self._password = password
        self._egress = egress
        self._tls: ssl.SSLContext | None = None
        self._pinned: str | None = None
        self._handle: socket.socket | None = None
        self._is_over = False

    def deliver(self, message: EmailMessage) -> Sent:
        """Connect and send."""
        box = self._mailbox
        where = f"{box.host}:{box.port}"
        try:
            self._check()
            if box.security != "none":
                self._tls = tls_context()
                self._tls.set_alpn_protocols([])
            self._host = box.host  # of the certificate
            code, said = self.connect(box.host, box.port)
            if code != READY:
                raise smtplib.SMTPConnectError(code, said)
            if box.security == "starttls":
                self.starttls(context=self._tls)
            if box.user is not None and self._password is not None:
                self.login(box.user, self._password)
            refused = self.send_message(message, box.sender, list(box.recipients))
            with suppress(OSError, smtplib.SMTPException):
                self.quit()
        except AddressRefused as error:
            return Sent(False, str(error))
        except smtplib.SMTPException as error:
            return Sent(False, _sentence(error, where))
        except ssl.SSLError as error:
            reason = getattr(error, "verify_message", "") or error.reason or "no TLS"
            return Sent(False, f"{where} speaks no TLS that is trusted ({reason}): check port and security.")
        except (OSError, UnicodeError) as error:
            return Sent(False, f"{where} cannot be reached ({_reason(error)}): check host and port.")
        finally:
            self.close()
        if refused:
            return Sent(True, f"{where} took the mail, but not for {', '.join(sorted(refused))}.")
        return Sent(True, f"{where} took the mail.")

    def shut_down(self) -> None:
        """End the connection, so that a thread that waits for it goes on."""
        self._is_over = True
        handle, self._handle = self._handle, None
        if handle is not None:
            with handle, suppress(OSError):
                handle.shutdown(socket.SHUT_RDWR)

    def getreply(self) -> tuple[int, bytes]:
        """Read a reply, as `smtplib` does, but of bounded length."""
        if self.file is None and self.sock is not None:
            self.file = _Bounded(self.sock.makefile("rb"))
        return super().getreply()

    def _check(self) -> None:
        """Ask egress for the address to connect to.

        Raises:
            AddressRefused: the host must not be called, or not without TLS.
        """
        box = self._mailbox
        host = f"[{box.host}]" if ":" in box.host else box.host
        self._pinned = self._egress.check(f"https://{host}:{box.port}")
        if self._pinned is not None and box.security == "none":
            raise AddressRefused(
                f"{box.host} is sent mail over TLS in production: set security to starttls or tls, or name the host in "
                "LLM_GATEWAY_ALLOWED_PRIVATE_HOSTS if it is one of your own network."
            )

    def _get_socket(self, host: str, port: int, timeout: float | None) -> socket.socket:
        """Connect; `smtplib` calls this, as its own class for TLS overrides it."""
        opened = socket.create_connection((self._pinned or host, port), timeout)
        self._handle = opened.dup()  # TLS takes the socket itself away
        if self._is_over:
            self.shut_down()
        if self._mailbox.security == "tls" and self._tls is not None:
            return self._tls.wrap_socket(opened, server_hostname=self._mailbox.host)
        return opened


class _Bounded:
    """Lines of a server's replies, up to a limit: replies can have any number of lines."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = MOST_REPLY_BYTES

    def readline(self, limit: int) -> bytes:
        """Return the next line.

        Raises:
            OSError: the connection broke, or the server sent too much.
        """
        line = self._file.readline(limit)
        self._left -= len(line)
        if self._left < 0:
            raise OSError("more replies than any mail needs")
        return line

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _sentence(error: smtplib.SMTPException, where: str) -> str:
    if isinstance(error, smtplib.SMTPAuthenticationError):
        advice = "refused user and password"
    elif isinstance(error, smtplib.SMTPRecipientsRefused):
        code, said = next(iter(error.recipients.values()))
        return f"{where} refused the recipients ({code}): {_plain(said)}"
    elif isinstance(error, smtplib.SMTPSenderRefused):
        advice = "refused the sender"
    elif isinstance(error, smtplib.SMTPNotSupportedError):
        return f"{where} does not support what is needed ({_plain(str(error))}): check security, user and password."
    elif isinstance(error, smtplib.SMTPServerDisconnected):
        return f"{where} ended the connection: check port and security, or try again."
    else:
        advice = "did not take the mail"
    if isinstance(error, smtplib.SMTPResponseException):
        return f"{where} {advice} ({error.smtp_code}): {_plain(error.smtp_error)}"
    return f"{where} {advice}: {_plain(str(error))}"


def _plain(said: bytes | str) -> str:
    """Return what a server said in one line of printable characters."""
    text = said.decode("utf-8", "replace") if isinstance(said, bytes) else said
    return (
        "".join(each if each.isprintable() else " " for each in text)[:SAID_CHARACTERS].strip() or "it did not say why"
    )


def _reason(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
