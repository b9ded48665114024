"""Connections that break, and peers that send or read what they should not."""

from __future__ import annotations

import asyncio
import os
import struct
import sys
from pathlib import Path

import msgspec
import pytest

from llm_gateway.channel.messages import MAX_FRAME_BYTES, NAME, Applied, End, WorkerBeat, encode
from llm_gateway.channel.worker_connection import MAX_WAITING
from llm_gateway.forwarding.control_socket import ControlSocket
from tests.channel.harness import configuration, control, raw_worker, worker
from tests.temporary_folders import open_to_others
from tests.waiting import until

MALFORMED = {
    "no MessagePack": struct.pack(">I", 1) + b"\xc1",
    "empty": struct.pack(">I", 0),
    "no map": struct.pack(">I", 1) + msgspec.msgpack.encode(1),
    "a wrong field": encode(Applied(version=1)).replace(b"version\x01", b"version\xc0"),
    "another wrong field": encode(End(version=1)).replace(b"version\x01", b"version\xc0"),
    "too long": struct.pack(">I", MAX_FRAME_BYTES + 1),
}


def unknown() -> bytes:
    """Return a message of a type that only a later version knows."""
    payload = msgspec.msgpack.encode({"type": "news", "version": None})
    return struct.pack(">I", len(payload)) + payload


@pytest.mark.parametrize("frame", [MALFORMED[name] for name in MALFORMED if name != "another wrong field"])
async def test_a_malformed_message_of_a_worker_ends_its_connection_alone(tmp_path: Path, frame: bytes) -> None:
    async with control(tmp_path) as own, worker(tmp_path) as running, raw_worker(tmp_path) as (reader, writer):
        writer.write(frame)
        async with asyncio.timeout(5):
            with pytest.raises((EOFError, OSError)):  # noqa: PT012 - beats come before
                while True:
                    await reader.readexactly(1)
        assert own.logged() == ["channel: worker sent a malformed message"]
        own.server.publish(configuration("a"))
        await until(running.providers)


@pytest.mark.parametrize("frame", [MALFORMED[name] for name in MALFORMED if name != "a wrong field"])
async def test_a_worker_connects_again_after_a_malformed_message(tmp_path: Path, frame: bytes) -> None:
    connections = []

    async def send(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connections.append(writer)
        writer.write(frame)

    address = ControlSocket(tmp_path, name=NAME)
    server = await asyncio.start_unix_server(send, sock=address.bind())
    try:
        async with worker(tmp_path) as running:
            await until(lambda: len(connections) == 2)
            assert running.events[0][0] == "channel: control sent a malformed message"
    finally:
        for writer in connections:
            writer.transport.abort()
        server.close()
        address.close()


async def test_a_first_message_other_than_hello_ends_the_connection(tmp_path: Path) -> None:
    async with control(tmp_path) as own, raw_worker(tmp_path, greets=False) as (reader, writer):
        writer.write(encode(WorkerBeat()))
        assert await reader.read() == b""
        assert own.logged() == ["channel: worker sent a malformed message"]
        assert own.server.workers == []


async def test_messages_of_an_unknown_type_are_skipped_by_both_sides(tmp_path: Path) -> None:
    async with control(tmp_path) as own, worker(tmp_path) as running, raw_worker(tmp_path) as (_, writer):
        writer.write(unknown() + encode(Applied(version=5)))
        await until(lambda: [each.version for each in own.server.workers if each.number == 9] == [5])
        for connection in own.server._connections:
            connection.put(unknown())
        own.server.publish(configuration("a"))
        await until(running.providers)
        assert (own.events, running.events) == ([], [])


async def test_a_worker_that_does_not_read_is_disconnected_and_costs_no_memory(tmp_path: Path) -> None:
    big = configuration("a", users=20_000)
    async with control(tmp_path) as own, raw_worker(tmp_path) as (reader, _):
        reader._transport.pause_reading()
        await until(lambda: own.server.workers)
        [connection] = own.server._connections
        for _number in range(20):
            own.server.publish(big)
            await asyncio.sleep(0.01)
        assert connection._writer.transport.get_write_buffer_size() < 500_000  # a message, and what flow control allows
        for number in range(MAX_WAITING + 1):
            own.server.passed(f"provider {number}")
        await until(lambda: not own.server._connections)


async def test_a_socket_whose_file_was_deleted_is_bound_again(tmp_path: Path) -> None:
    async with control(tmp_path) as own, worker(tmp_path, 1) as before:
        own.server.publish(configuration("a"))
        await until(before.providers)
        (tmp_path / NAME).unlink()
        async with worker(tmp_path, 2) as after:
            await until(after.providers)
            own.server.publish(configuration("b"))
            await until(lambda: before.providers() == after.providers() == ["b"])
        assert own.events == [
            ("control socket bound again: its file was deleted", {"level": "warning", "file": "channel.sock"})
        ]


async def test_a_defect_in_a_handler_is_logged_and_the_worker_connects_again(tmp_path: Path) -> None:
    async with control(tmp_path) as own, worker(tmp_path) as running:

        def fail(_provider_id: str) -> None:
            raise ValueError("secret")

        own.server.publish(configuration("a"))
        await until(running.providers)
        running.client._handlers = running.client._handlers._replace(on_passed=fail)
        own.server.passed("p")
        await until(lambda: len(running.configurations) == 2)
        assert running.events == [("channel: worker failed", {"level": "error", "problem": "ValueError"})]


async def test_a_worker_starts_without_the_recent_calls_if_they_cannot_be_read(tmp_path: Path) -> None:
    async with control(tmp_path, calls=ValueError("secret")) as own, worker(tmp_path) as running:
        own.server.publish(configuration("a"))
        await until(running.providers)
        assert own.events == [
            ("channel: rate limits of a worker start empty", {"level": "warning", "problem": "ValueError"})
        ]


async def test_a_defect_while_a_worker_is_served_is_logged_and_the_worker_connects_again(tmp_path: Path) -> None:
    def fail(_key: str, _report: object) -> None:
        raise ValueError("secret")

    async with control(tmp_path, on_report=fail) as own, worker(tmp_path) as running:
        own.server.publish(configuration("a"))
        await until(running.providers)
        await own.server.ask_reports(5)
        await until(lambda: len(running.configurations) == 2)
        assert own.events == [("channel: worker cannot be served", {"level": "error", "problem": "ValueError"})]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_a_process_of_another_user_gets_nothing_over_the_channel(tmp_path: Path) -> None:
    async with control(tmp_path) as own:
        own.server.publish(configuration("a"))
        path = tmp_path / NAME
        path.chmod(0o666)
        open_to_others(tmp_path)
        program = (
            "import os, socket, sys\n"
            "os.setgid(65534); os.setuid(65534)\n"
            "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.settimeout(5)\n"
            "try:\n"
            "    print(s.recv(1000))\n"
            "except ConnectionError: print(b'')\n"
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, str(path), stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
        assert output == b"b''\n"
        assert own.events == [("channel: connection of another user refused", {"level": "warning", "user_id": 65534})]
