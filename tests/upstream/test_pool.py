"""Connection pool of one provider: reuse, closing, malformed responses, TLS, and cancellation."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from llm_gateway.upstream.pool import (
    CONNECT_S,
    IDLE_S,
    CancelledBeforeSend,
    Pool,
    RequestNotSent,
    UnsendableHeader,
    tls_context,
)
from llm_gateway.upstream.response import IncompleteResponse
from tests.waiting import until

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi"


class Server:
    """A server that sends the next of `answers` to each request, the last one repeatedly; an empty one closes."""

    def __init__(self) -> None:
        self.answers = [OK]
        self.heads: list[bytes] = []
        self.made = 0
        self.open = 0
        self.port = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.made += 1
        self.open += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = [line for line in head.split(b"\r\n") if line.startswith(b"content-length:")]
                await reader.readexactly(int(length[0][15:]) if length else 0)
                self.heads.append(head)
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                writer.write(answer)
                if not answer or b"connection: close" in answer or b"HTTP/1.0" in answer:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.open -= 1
            writer.close()


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    made = Server()
    async with await asyncio.start_server(made, "127.0.0.1", 0) as listener:
        made.port = listener.sockets[0].getsockname()[1]
        yield made


def pool_of(server: Server, root: str = "http://127.0.0.1:{}", **changes: object) -> Pool:
    given = {"headers": {"x-key": "k"}, "tls": None, "pinned": None, "max_body_bytes": 1000} | changes
    return Pool(root.format(server.port), **given)  # type: ignore[arg-type]


async def test_requests_have_the_expected_bytes(server: Server) -> None:
    pool = pool_of(server, 'http://127.0.0.1:{}/a b/é"?q=1')
    await pool.post("", b"{}", 5)
    await pool.get(5)

    host = f"host: 127.0.0.1:{server.port}\r\nuser-agent: llm-gateway\r\nx-key: k\r\n".encode()
    target = b"/a%20b/%C3%A9%22?q=1 HTTP/1.1\r\n"
    assert server.heads == [b"POST " + target + host + b"content-length: 2\r\n\r\n", b"GET " + target + host + b"\r\n"]
    pool.close()


@pytest.mark.parametrize("value", ["a\nb", "a\rb", "a\0b", "\u2603"])
async def test_an_unsendable_header_is_not_quoted(server: Server, value: str) -> None:
    with pytest.raises(UnsendableHeader) as refused:
        pool_of(server, headers={"authorization": f"Bearer canary{value}"})

    assert "canary" not in str(refused.value)


async def test_interim_responses_are_skipped(server: Server) -> None:
    server.answers = [b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" + OK]
    pool = pool_of(server)

    response = await pool.post("/", b"{}", 5)

    assert (response.status, response.body, response.header(b"link")) == (200, b"hi", None)
    assert (await pool.post("/", b"{}", 5)).status == 200
    assert server.made == 1
    pool.close()


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nuntil the end", b"until the end"),
        (b"HTTP/1.0 200 OK\r\n\r\nold", b"old"),
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi", b"hi"),
        (b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n", b""),
    ],
    ids=["no length", "HTTP/1.0", "with length", "no content"],
)
async def test_a_response_can_end_its_connection(server: Server, answer: bytes, body: bytes) -> None:
    server.answers = [answer]
    pool = pool_of(server)

    assert [(await pool.post("/", b"{}", 5)).body for _ in range(2)] == [body, body]
    assert server.made == 2
    pool.close()


@pytest.mark.parametrize(
    ("answer", "says"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\nhi", "compressed (gzip)"),
        (
            b"HTTP/1.1 200 OK\r\ncontent-encoding: identity\r\ncontent-encoding: br\r\ncontent-length: 2\r\n\r\nhi",
            "compressed (br)",
        ),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n", "another protocol"),
        (b"HTTP/1.1 200 OK\r\nx: " + b"y" * 300_000 + b"\r\n\r\n", "head is larger than 262144 bytes"),
        (b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n" + b"y" * 1001, "larger than 1000 bytes"),
        (b"", "closed too early"),
    ],
    ids=["compressed", "compressed by a second line", "upgrade", "huge head", "huge body", "nothing"],
)
async def test_a_malformed_or_too_large_response_is_incomplete(server: Server, answer: bytes, says: str) -> None:
    server.answers = [answer]
    pool = pool_of(server)

    with pytest.raises(IncompleteResponse) as broken:
        await pool.post("/", b"{}", 5)

    assert says in str(broken.value)
    await until(lambda: server.open == 0)
    pool.close()


async def test_content_encoding_identity_is_accepted(server: Server) -> None:
    server.answers = [b"HTTP/1.1 200 OK\r\nContent-Encoding: Identity\r\ncontent-length: 2\r\n\r\nhi"]
    pool = pool_of(server)

    assert (await pool.post("/", b"{}", 5)).body == b"hi"
    pool.close()


@pytest.mark.parametrize("more", [b"HTTP/1.1 408 Late\r\ncontent-length: 0\r\n\r\n", b"HTTP/1.1 4", OK])
async def test_a_second_response_is_dropped_and_ends_the_connection(server: Server, more: bytes) -> None:
    server.answers = [OK + more, OK]
    pool = pool_of(server)

    statuses = [(await pool.post("/", b"{}", 5)).status for _ in range(3)]

    assert statuses == [200, 200, 200]
    assert server.made == 2
    pool.close()


async def test_a_connection_that_the_provider_closed_while_idle_is_not_used(server: Server) -> None:
    pool = pool_of(server)
    writers: list[asyncio.StreamWriter] = []

    async def once(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        await reader.readuntil(b"{}")
        writer.write(OK)

    async with await asyncio.start_server(once, "127.0.0.1", 0) as listener:
        server.port = listener.sockets[0].getsockname()[1]
        pool = pool_of(server)
        for _ in range(2):
            assert (await pool.post("/", b"{}", 5)).status == 200
            writers[-1].close()
            await until(lambda: not pool._idle[-1].is_reusable)
        assert len(writers) == 2
        pool.close()


async def test_a_timeout_or_cancellation_closes_the_connection(server: Server) -> None:
    server.answers = [b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nhalf"]
    pool = pool_of(server)

    with pytest.raises(TimeoutError):
        await pool.post("/", b"{}", 0.05)
    await until(lambda: server.made == 1 and server.open == 0)
    task = asyncio.create_task(pool.post("/", b"{}", 5))
    await until(lambda: server.open == 1)
    task.cancel()
    await asyncio.wait([task])

    assert task.cancelled()
    await until(lambda: server.open == 0)
    pool.close()


async def test_the_last_used_connection_is_reused_and_the_others_expire(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = pool_of(server)
    await asyncio.gather(*(pool.post("/", b"{}", 5) for _ in range(3)))
    assert (server.made, server.open) == (3, 3)
    later = asyncio.get_running_loop().time() + IDLE_S / 2
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: later)
    await pool.post("/", b"{}", 5)
    later += IDLE_S / 2 + 1
    pool.expire()
    monkeypatch.undo()

    await until(lambda: server.open == 1)
    assert len(pool._idle) == 1
    pool.close()
    await until(lambda: server.open == 0)


async def test_a_closed_pool_keeps_no_connection(server: Server) -> None:
    pool = pool_of(server)
    task = asyncio.create_task(pool.post("/", b"{}", 5))
    await asyncio.sleep(0)
    await asyncio.to_thread(pool.close_soon)

    assert (await task).status == 200
    await until(lambda: server.made == 1 and server.open == 0)


async def test_a_response_before_the_request_was_read_ends_the_connection(server: Server) -> None:
    seen, closed = asyncio.Event(), asyncio.Event()

    async def early(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 2\r\n\r\nno")
        await seen.wait()
        writer.close()
        closed.set()

    async with await asyncio.start_server(early, "127.0.0.1", 0) as listener:
        server.port = listener.sockets[0].getsockname()[1]
        pool = pool_of(server)
        response = await pool.post("/", b"x" * 50_000_000, 5)

        seen.set()
        await closed.wait()
        assert response.status == 413
        assert pool._idle == []


async def test_a_connect_timeout_cut_short_by_the_deadline_is_not_the_providers_fault(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def never(*_: object, **__: object) -> None:
        await asyncio.sleep(60)

    pool = pool_of(server)
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", never)

    with pytest.raises(RequestNotSent, match="No connection: timed out") as refused:
        await pool.post("/", b"{}", 0.05)
    assert refused.value.is_ours
    assert CONNECT_S == 3.0


class TestTls:
    @pytest.fixture
    def files(self, tmp_path: Path) -> tuple[Path, Path]:
        if shutil.which("openssl") is None:
            pytest.skip("there is no openssl to make a certificate with")
        key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
        names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
        made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names]
        subprocess.run([*made, "-keyout", key, "-out", certificate], check=True, capture_output=True)
        return key, certificate

    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
    async def test_a_certificate_must_be_trusted_and_match_the_host(
        self, server: Server, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, host: str
    ) -> None:
        key, certificate = files
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
        async with await asyncio.start_server(server, "127.0.0.1", 0, ssl=context) as listener:
            server.port = listener.sockets[0].getsockname()[1]
            root = f"https://{host}:{server.port}"
            stranger = pool_of(server, root, tls=tls_context(), pinned="127.0.0.1")
            with pytest.raises(RequestNotSent, match=r"(?i)certificate"):
                await stranger.post("/", b"{}", 5)

            monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
            known = pool_of(server, root, tls=tls_context(), pinned="127.0.0.1")
            if host == "localhost":
                assert (await known.post("/", b"{}", 5)).body == b"hi"
                assert (await known.post("/", b"{}", 5)).body == b"hi"
                assert server.made == 1
            else:
                with pytest.raises(RequestNotSent, match=r"(?i)certificate"):
                    await known.post("/", b"{}", 5)
            known.close()


async def test_a_call_cancelled_while_connecting_was_not_sent(server: Server) -> None:
    shaking = 0

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal shaking
        shaking += bool(await reader.read(1))
        await reader.read()  # it never answers the handshake
        writer.close()

    async with await asyncio.start_server(silent, "127.0.0.1", 0) as listener:
        port = listener.sockets[0].getsockname()[1]
        pool = pool_of(server, f"https://127.0.0.1:{port}", tls=tls_context())
        for asking in (pool.post("/x", b"{}", 5), pool.open("/x", b"{}", 5)):
            task = asyncio.create_task(asking)
            begun = shaking
            await until(lambda: shaking > begun)  # noqa: B023 - it is waited for here
            task.cancel()
            with pytest.raises(CancelledBeforeSend):
                await task
        pool.close()


@pytest.mark.parametrize("how", ["post", "open"])
async def test_a_call_that_is_called_off_before_it_is_sent_leaves_no_connection_open(server: Server, how: str) -> None:
    def call_off() -> None:
        raise CancelledBeforeSend

    pool = pool_of(server)
    with pytest.raises(CancelledBeforeSend):
        await (pool.post if how == "post" else pool.open)("/", b"{}", 5, b"", call_off)
    await until(lambda: server.made == 1 and server.open == 0)
    assert server.heads == []
    pool.close()


async def test_a_call_cancelled_after_connecting_was_sent(server: Server) -> None:
    server.answers = [b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n"]
    pool = pool_of(server)
    task = asyncio.create_task(pool.post("/x", b"{}", 5))
    await until(lambda: server.heads)
    task.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await task
    assert not isinstance(caught.value, CancelledBeforeSend)
    pool.close()
