"""Mails over SMTP: plain, STARTTLS and TLS, with a password, and servers that are away, slow, wrong or endless."""

from __future__ import annotations

import ssl
import time
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import msgspec
import pytest

from llm_gateway.domain.alert_target import Mailbox, Sent
from llm_gateway.provider_calls.mail import MOST_REPLY_BYTES, send_mail
from llm_gateway.upstream.egress import Egress
from tests.e2e.process import free_port
from tests.e2e.test_behind_nginx import write_certificate
from tests.provider_calls.mail_server import MailServer

BOX = Mailbox(
    host="127.0.0.1", port=0, security="none", sender="gateway@example.com", recipients=("ann@example.com", "bob@x.org")
)
LOOSE = Egress(strict=False)


def mail() -> EmailMessage:
    made = EmailMessage()
    made["Subject"], made["From"], made["To"] = "Zoë", BOX.sender, ", ".join(BOX.recipients)
    made.set_content("A text.\n.\nAfter a dot.\n")
    return made


async def send(
    server: MailServer, password: str | None = None, egress: Egress = LOOSE, timeout_s: float = 5.0, **changes: Any
) -> Sent:
    box = msgspec.structs.replace(BOX, port=server.port, **changes)
    return await send_mail(box, password, mail(), egress, timeout_s)


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, ssl.SSLContext]:
    path, key = write_certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(path, key)
    return path, context


async def test_a_mail_arrives_as_it_was_written() -> None:
    async with MailServer().running() as server:
        assert await send(server) == Sent(True, f"127.0.0.1:{server.port} took the mail.")
        [got] = server.mails
        assert (got["subject"], got["to"]) == ("Zoë", "ann@example.com, bob@x.org")
        assert got.get_content().replace("\r\n", "\n") == "A text.\n.\nAfter a dot.\n"
        [(sender, recipients)] = server.envelopes
        assert "<gateway@example.com>" in sender
        assert recipients == ["TO:<ann@example.com>", "TO:<bob@x.org>"]
        server.replies["RCPT"] = b"550 nobody here\r\n"
        refused = await send(server)
        assert refused == Sent(False, f"127.0.0.1:{server.port} refused the recipients (550): nobody here")


async def test_the_certificate_must_be_trusted_before_a_password_is_sent(
    certificate: tuple[Path, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, context = certificate
    for starts_with_tls in (False, True):
        server = MailServer(context, starts_with_tls=starts_with_tls)
        server.user, server.password = "gateway", "secret-password"
        security = "tls" if starts_with_tls else "starttls"
        async with server.running():
            stranger = await send(server, "secret-password", user="gateway", security=security)
            assert (stranger.success, "certificate" in stranger.sentence) == (False, True), stranger
            assert "AUTH" not in server.commands
            with monkeypatch.context() as patch:
                patch.setenv("SSL_CERT_FILE", str(path))
                known = await send(server, "secret-password", user="gateway", security=security)
                assert known.success, known
                wrong = await send(server, "wrong", user="gateway", security=security)
            assert "refused user and password (535): 5.7.8 wrong password, café" in wrong.sentence
            assert len(server.mails) == 1
    async with MailServer().running() as server:
        found = await send(server, security="starttls")
        assert "does not support what is needed" in found.sentence
        assert server.mails == []


async def test_servers_that_are_away_slow_or_wrong_end_in_a_sentence() -> None:
    server = MailServer()
    server.port = free_port()
    assert (await send(server)).sentence.endswith("cannot be reached (Connection refused): check host and port.")
    rows: list[tuple[str, bytes, str]] = [
        ("CONNECT", b"554 go away\x1b[31m\r\n", "did not take the mail (554): go away [31m"),
        ("MAIL", b"553 not you\r\n", "refused the sender (553): not you"),
        ("CONTENT", b"552 too large\r\n", "did not take the mail (552): too large"),
        ("EHLO", b"HTTP/1.1 400 Bad Request\r\n\r\n", "did not take the mail"),
        ("CONNECT", b"220-" + b"x" * 500 + b"\r\n", "did not take the mail within"),
        ("CONNECT", b"220-more\r\n" * (MOST_REPLY_BYTES // 8), "ended the connection"),
        ("CONNECT", b"", "did not take the mail within"),
        ("CONTENT", b"", "did not take the mail within"),
    ]
    for command, reply, words in rows:
        async with MailServer().running() as wrong:
            wrong.replies[command] = reply
            started = time.monotonic()
            found = await send(wrong, timeout_s=0.3)
            assert not found.success, command
            assert words in found.sentence, (command, found)
            assert time.monotonic() - started < 3
            assert found.sentence.isprintable()


async def test_production_sends_no_mail_to_private_addresses_or_without_tls() -> None:
    async with MailServer().running() as server:
        private = await send(server, egress=Egress(strict=True))
        assert "not a public address" in private.sentence
        public = Egress(strict=True, resolve=lambda _host, _port: ["93.184.216.34"])
        plain = await send(server, egress=public)
        assert "is sent mail over TLS in production" in plain.sentence
        own = await send(server, egress=Egress(strict=True, private_hosts=frozenset({"127.0.0.1"})))
        assert own.success
        assert len(server.mails) == 1
