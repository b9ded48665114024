"""The client of Redis: log in, lose the server, find it again; it never raises, never waits for long, stays bounded."""

from __future__ import annotations

import asyncio
import datetime as dt
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from llm_gateway.redis_client import connection
from llm_gateway.redis_client.address import RedisAddress, parse_address
from llm_gateway.redis_client.client import RedisClient
from llm_gateway.redis_client.connection import LOST, ReplyError
from llm_gateway.redis_client.script import Script
from tests.redis_server import RedisServer, running
from tests.waiting import until

ADD = Script("return tonumber(ARGV[1]) + 1")


class Log:
    def __init__(self) -> None:
        self.lines: list[tuple[str, dict[str, Any]]] = []

    def __call__(self, event: str, **fields: Any) -> None:
        self.lines.append((event, fields))

    @property
    def events(self) -> list[str]:
        return [event for event, _ in self.lines]


@asynccontextmanager
async def connected(
    address: RedisAddress, log: Log | None = None, timeout_s: float = 5.0
) -> AsyncIterator[RedisClient]:
    client = RedisClient(address, log or Log(), timeout_s=timeout_s)
    client.start()
    assert await client.connected(5.0), log and log.lines
    try:
        yield client
    finally:
        await client.close()


async def refusal(address: RedisAddress) -> str:
    """Return the reason for which the server cannot be used."""
    log = Log()
    client = RedisClient(address, log)
    client.start()
    assert not await client.connected(5.0)
    await client.close()
    assert log.events == ["redis cannot be used"], "one line, however often it is tried"
    return str(log.lines[0][1]["reason"])


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server of the test's own, which it may harm."""
    with running() as started:
        yield started


def path_of(server: RedisServer) -> RedisAddress:
    return parse_address(server.url)


async def test_all_commands_of_a_turn_go_out_in_one_write_and_get_their_own_replies(redis_server: RedisServer) -> None:
    async with connected(path_of(redis_server)) as client:
        assert await client.call_packed(ADD.call([], [0]), ADD) == 1, "which the server did not know"
        trips = client.counters.trips
        asked = [client.call_packed(ADD.call([], [number]), ADD) for number in range(500)]
        assert [await each for each in asked] == list(range(1, 501))
        assert client.counters.trips - trips == 1
        assert isinstance(await client.call("NONSENSE"), ReplyError)
        assert client.counters.errors == 1
        await client.call("SCRIPT", "FLUSH")
        assert await client.call_packed(ADD.call([], [41]), ADD) == 42


async def test_what_composes_at_the_end_of_a_turn_is_called_also_if_another_one_raises(
    redis_server: RedisServer,
) -> None:
    async with connected(path_of(redis_server)) as client:
        raised: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context["exception"]))
        asked: list[asyncio.Future[Any]] = []

        def fail() -> None:
            raise KeyError("a defect")

        for compose in (fail, lambda: asked.append(client.call("PING")), fail):
            assert client.before_write(compose)
        await asyncio.sleep(0)
        assert [await each for each in asked] == [b"PONG"]
        assert [type(each) for each in raised] == [KeyError]


async def test_it_logs_in_with_an_acl_user_and_chooses_the_database(server: RedisServer) -> None:
    server.ask(b"ACL SETUSER me on >a-secret-word ~{llmg}* +@all -info")
    server.ask(b"CONFIG SET requirepass another-word")
    address = path_of(server)._replace(user="me", password="a-secret-word", database=3)
    async with connected(address) as client:
        assert await client.call("SET", "{llmg}:x", "1") == b"OK"
        assert isinstance(await client.call("SET", "x", "1"), ReplyError)
        assert client.run_id == "", "it may not ask for it"
    async with connected(path_of(server)._replace(password="another-word")) as client:
        assert await client.call("EXISTS", "{llmg}:x") == 0, "another database"
    for wrong, says in (
        (address._replace(password="wrong-secret"), "it refuses AUTH: WRONGPASS"),
        (path_of(server), "it refuses EVAL: NOAUTH"),
        (address._replace(database=99), "it refuses SELECT: "),
    ):
        reason = await refusal(wrong)
        assert reason.startswith(says)
        assert "secret" not in reason


async def test_what_is_no_usable_server_is_refused_with_its_reason(server: RedisServer, tmp_path: Path) -> None:
    assert "No such file" in await refusal(RedisAddress(path=str(tmp_path / "none")))
    assert "127.0.0.1" in await refusal(RedisAddress("127.0.0.1", 1))

    async def speak_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        with suppress(OSError):
            await reader.read()
        writer.close()

    async with await asyncio.start_unix_server(speak_http, tmp_path / "http"):
        assert await refusal(RedisAddress(path=str(tmp_path / "http"))) == "it does not speak the protocol of Redis"
    server.ask(b"REPLICAOF 127.0.0.1 1")
    assert "READONLY" in await refusal(path_of(server))


async def test_a_server_that_is_killed_is_found_again_and_both_is_said_once(server: RedisServer) -> None:
    log = Log()
    async with connected(path_of(server), log) as client:
        seen: list[bool] = []
        client.watchers.append(seen.append)
        first = client.run_id
        waiting = [client.call("BLPOP", "nothing", 0), client.call("GET", "x")]
        await asyncio.sleep(0)
        server.kill()
        assert [await each for each in waiting] == [LOST, LOST]
        await until(lambda: not client.is_up)
        assert await client.call("GET", "x") is LOST, "at once"
        await asyncio.sleep(0.2)  # attempts that fail
        server.start()
        await until(lambda: client.is_up)
        assert await client.call("GET", "x") is None
        assert seen == [False, True]
        assert client.run_id != first
        assert log.events == ["redis cannot be used", "redis is back"]
        assert client.counters.reconnects == 1


async def test_a_frozen_server_costs_the_first_requests_50_ms_and_later_ones_nothing(server: RedisServer) -> None:
    log = Log()
    async with connected(path_of(server), log, timeout_s=0.05) as client:
        late: list[object] = []
        server.freeze()
        began = time.monotonic()
        asked = [client.call_packed(ADD.call([], [number]), ADD, late.append) for number in range(3)]
        assert [await each for each in asked] == [LOST] * 3
        assert 0.04 < time.monotonic() - began < 1
        assert client.counters.timeouts == 3
        trips = client.counters.trips
        assert [await client.call("GET", "x") for _ in range(100)] == [LOST] * 100
        assert client.counters.trips == trips
        server.thaw()
        await until(lambda: client.is_up)
        assert late == [1, 2, 3], "replies that came too late are told"
        assert log.events == ["redis cannot be used", "redis is back"]
        server.freeze()
        await client.call("GET", "x")
        await until(lambda: client._connection is None, 10)  # it looks for another connection in the end
        server.thaw()
        await until(lambda: client.is_up, 10)


async def test_what_waits_for_a_server_is_bounded(server: RedisServer) -> None:
    async with connected(path_of(server), timeout_s=0.5) as client:
        server.freeze()
        large = "x" * 1_000_000
        sent = [client.call("SET", "x", large) for _ in range(30)]
        assert sum(not each.done() for each in sent) == connection.MOST_UNSENT_BYTES // 1_000_000
        assert client.counters.refused == 30 - connection.MOST_UNSENT_BYTES // 1_000_000
        await asyncio.sleep(0)
        small = [client.call("GET", "x") for _ in range(connection.MOST_PENDING + 5)]
        assert sum(not each.done() for each in small) <= connection.MOST_PENDING
        assert {type(await each) for each in [*sent, *small]} == {type(LOST)}
        server.thaw()


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a file with a key and a certificate for localhost, which is its own authority."""
    key, now = ec.generate_private_key(ec.SECP256R1()), dt.datetime.now(dt.UTC)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    forms = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_bytes(key.private_bytes(*forms) + made.public_bytes(serialization.Encoding.PEM))
    return path


def relay(path: Path) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]:
    """Return a handler that passes on what it gets to a Unix socket, and back."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                writer.write(data)
        writer.close()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(path)
        await asyncio.gather(copy(reader, inner_writer), copy(inner_reader, writer))

    return handle


async def test_tls_checks_the_certificate(redis_server: RedisServer, certificate: Path) -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    async with await asyncio.start_server(relay(redis_server.path), "127.0.0.1", 0, ssl=context) as front:
        port = front.sockets[0].getsockname()[1]
        async with connected(parse_address(f"rediss://localhost:{port}?ca_file={certificate}")) as client:
            assert await client.call("PING") == b"PONG"
        assert "certificate verify failed" in await refusal(parse_address(f"rediss://localhost:{port}"))
        assert "certificate verify failed" in await refusal(
            parse_address(f"rediss://127.0.0.1:{port}?ca_file={certificate}")
        )
