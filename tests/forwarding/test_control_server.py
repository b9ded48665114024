"""Control's server and its socket's file: who may connect, and what happens when file or process goes away."""

from __future__ import annotations

import asyncio
import base64
import os
import signal
import socket
import stat
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from llm_gateway.forwarding.control_socket import NAME, WATCH_S, ControlSocket
from tests.forwarding.harness import Worker, control, never, until, worker
from tests.server.harness import Client
from tests.temporary_folders import open_to_others

REPOSITORY = Path(__file__).parents[2]
HEARTBEAT_S = 1.0


class ControlProcess:
    """Control in a process of its own, and when its last heartbeat came."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.heard = -10.0

    def is_alive(self) -> bool:
        return asyncio.get_running_loop().time() - self.heard < HEARTBEAT_S

    async def listen(self) -> None:
        assert self.process.stdout is not None
        while await self.process.stdout.readline():
            self.heard = asyncio.get_running_loop().time()


@asynccontextmanager
async def control_process(data_dir: Path) -> AsyncIterator[ControlProcess]:
    arguments = (sys.executable, "-m", "tests.forwarding.served", str(data_dir))
    process = await asyncio.create_subprocess_exec(*arguments, cwd=REPOSITORY, stdout=asyncio.subprocess.PIPE)
    made = ControlProcess(process)
    listening = asyncio.create_task(made.listen())
    try:
        await until(made.is_alive, 30.0)
        yield made
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()
        await listening


def names(directory: Path) -> list[str]:
    return [path.name for path in directory.iterdir()]


async def status(running: Worker, method: str = "GET") -> int:
    return (await running.ask(method, "/x")).status


async def test_a_stopped_control_is_a_503_within_the_time_and_serves_again_when_it_goes_on(tmp_path: Path) -> None:
    async with control_process(tmp_path) as other, worker(tmp_path) as running:
        running.forwarder._is_alive = other.is_alive
        assert await status(running) == 200
        other.process.send_signal(signal.SIGSTOP)
        async with asyncio.timeout(HEARTBEAT_S + 1.0):
            assert [await status(running), await status(running, "POST")] == [503, 503]
        other.process.send_signal(signal.SIGCONT)
        await until(other.is_alive)
        assert [await status(running), await status(running, "POST")] == [200, 200]


async def test_a_killed_control_is_a_503_and_its_stale_file_is_replaced(tmp_path: Path) -> None:
    async with worker(tmp_path) as running:
        async with control_process(tmp_path) as other:
            assert await status(running) == 200
            other.process.kill()
            await other.process.wait()
            assert await status(running) == 503
        assert stat.S_ISSOCK((tmp_path / NAME).lstat().st_mode)
        async with control(tmp_path):
            assert await status(running) == 200


@pytest.mark.parametrize("leftover", ["file", "socket", "link"])
async def test_whatever_has_the_sockets_name_is_replaced(tmp_path: Path, leftover: str) -> None:
    path = tmp_path / NAME
    if leftover == "file":
        path.write_text("x")
    elif leftover == "socket":
        with socket.socket(socket.AF_UNIX) as old:
            old.bind(str(path))
    else:
        path.symlink_to(tmp_path / "elsewhere")
    async with control(tmp_path), worker(tmp_path) as running:
        assert await status(running) == 200
    assert not (tmp_path / "elsewhere").exists()


async def test_the_file_has_mode_0600_and_is_deleted_at_the_end(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        async with control(tmp_path):
            assert stat.S_IMODE((tmp_path / NAME).lstat().st_mode) == 0o600
            assert names(tmp_path) == [NAME]
    finally:
        os.umask(before)
    assert names(tmp_path) == []


async def test_a_data_directory_can_be_deeper_than_an_address_is_long(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*["d" * 100] * 5)
    deep.mkdir(parents=True)
    async with control(deep), worker(deep) as running:
        assert (deep / NAME).is_socket()
        assert await status(running) == 200


async def test_a_deleted_file_is_made_again_within_a_second(tmp_path: Path) -> None:
    async with control(tmp_path) as own, worker(tmp_path) as running:
        assert await status(running) == 200
        for number in (1, 2):
            (tmp_path / NAME).unlink()
            await until((tmp_path / NAME).exists, 1.0)
            await asyncio.sleep(0)  # until it listens
            assert [await status(running), await status(running, "POST")] == [200, 200]
            assert own.logged() == ["control socket bound again: its file was deleted"] * number


async def test_connections_made_before_the_file_was_deleted_stay(tmp_path: Path) -> None:
    async with control(tmp_path), worker(tmp_path) as running:
        client = await running.connect()
        waiting = asyncio.create_task(running.ask("GET", "/x"))
        await waiting
        [idle] = running.forwarder._idle
        (tmp_path / NAME).unlink()
        await asyncio.sleep(2 * WATCH_S)
        assert idle.is_reusable
        await client.close()


async def test_a_successor_takes_the_file_over_and_keeps_it(tmp_path: Path) -> None:
    async with worker(tmp_path) as running, control(tmp_path, never) as old:
        async with control(tmp_path):
            identity = (tmp_path / NAME).lstat().st_ino
            await asyncio.sleep(3 * WATCH_S)
            assert (tmp_path / NAME).lstat().st_ino == identity
            assert await status(running) == 200
            old.server.stop()
            await asyncio.sleep(0.5)
            assert await status(running) == 200
        assert not (tmp_path / NAME).exists()


async def test_a_control_takes_the_file_back_from_a_successor_that_died(tmp_path: Path) -> None:
    async with control(tmp_path), worker(tmp_path) as running:
        async with control_process(tmp_path) as successor:
            successor.process.kill()
            await successor.process.wait()
        await asyncio.sleep(2 * WATCH_S)
        assert await status(running) == 200


async def test_a_directory_that_is_gone_is_logged_once(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    async with control(data_dir) as own:
        (data_dir / NAME).unlink()
        data_dir.rmdir()
        await asyncio.sleep(4 * WATCH_S)
        assert own.logged().count("control socket cannot be bound") == 1


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
async def test_a_process_of_another_user_is_not_served(tmp_path: Path) -> None:
    async with control(tmp_path) as own:
        path = tmp_path / NAME
        path.chmod(0o666)
        open_to_others(tmp_path)
        program = (
            "import os, socket, sys\n"
            "os.setgid(65534); os.setuid(65534)\n"
            "s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]); s.settimeout(5)\n"
            "try:\n"
            "    s.sendall(b'GET / HTTP/1.1\\r\\nhost: x\\r\\n\\r\\n'); print(s.recv(1000))\n"
            "except ConnectionError: print(b'')\n"
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, str(path), stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
        assert output == b"b''\n"
        assert ("connection of another user refused", {"level": "warning", "user_id": 65534}) in own.events


@pytest.mark.parametrize("value", [None, b"", b"e30=", b"not base64", b"bnVsbA==", b"two"])
async def test_a_request_without_a_valid_identity_is_refused(tmp_path: Path, value: bytes | None) -> None:
    header = b"" if value is None else b"x-gateway-internal-identity: " + value + b"\r\n"
    if value == b"two":
        header = b"x-gateway-internal-identity: eyJuYW1lIjoiYSIsInNjb3BlcyI6W10sInJlcXVlc3RfaWQiOiJyIn0=\r\n" * 2
    async with control(tmp_path):
        client = Client(*await asyncio.open_unix_connection(str(tmp_path / NAME)))
        response = await client.ask(b"GET /x HTTP/1.1\r\nhost: x\r\n" + header + b"\r\n")
        await client.close()
    assert (response.status, response.json["code"]) == (403, "forbidden")
    assert response.headers["x-request-id"] == response.json["request_id"]


async def test_an_identity_of_a_newer_version_is_read(tmp_path: Path) -> None:
    value = base64.b64encode(b'{"name": "a", "scopes": ["read"], "request_id": "r", "new": {"er": 1}}')
    async with control(tmp_path):
        client = Client(*await asyncio.open_unix_connection(str(tmp_path / NAME)))
        head = b"GET /x HTTP/1.1\r\nhost: x\r\nx-gateway-internal-identity: " + value + b"\r\n\r\n"
        response = await client.ask(head)
        await client.close()
    assert response.status == 200
    assert b"'caller': 'a', 'scopes': ['read'], 'request_id': 'r'" in response.body


class TestWithoutProc:
    """Systems without /proc use a directory below the temporary folder."""

    @pytest.fixture(autouse=True)
    def temporary(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="t", dir="/tmp") as folder:  # tmp_path is too long for an address
            monkeypatch.setattr(tempfile, "tempdir", folder)
            yield Path(folder)

    @pytest.fixture
    def deep(self, tmp_path: Path) -> Path:
        path = tmp_path.joinpath(*["d" * 100] * 3)
        path.mkdir(parents=True)
        return path

    def test_both_sides_meet_in_a_directory_of_this_user(self, deep: Path, temporary: Path, tmp_path: Path) -> None:
        for _ in range(2):
            sides = [ControlSocket(deep, descriptors=tmp_path / "none") for _ in range(2)]
            with sides[0].bind() as listener:
                listener.listen()
                sides[1].connect().close()
                [directory] = temporary.iterdir()
                assert stat.S_IMODE(directory.stat().st_mode) == 0o700
                assert names(directory) == [NAME]
                assert sides[1].is_served()
            for side in sides:
                side.remove()
                side.close()
            assert names(directory) == []

    def test_other_data_directories_have_other_sockets(self, deep: Path, temporary: Path, tmp_path: Path) -> None:
        one, other = (ControlSocket(path, descriptors=tmp_path / "none") for path in (deep, deep.parent))
        with one.bind() as listener:
            listener.listen()
            with pytest.raises(FileNotFoundError):
                other.connect()
        one.close()
        other.close()
        assert len(list(temporary.iterdir())) == 2

    @pytest.mark.parametrize("fault", ["open to others", "a link", "another user's"])
    def test_a_directory_that_others_can_enter_is_not_used(
        self, deep: Path, temporary: Path, tmp_path: Path, fault: str
    ) -> None:
        ControlSocket(deep, descriptors=tmp_path / "none").close()
        [directory] = temporary.iterdir()
        if fault == "open to others":
            directory.chmod(0o755)
        elif fault == "a link":
            moved = directory.rename(directory.with_name("moved"))
            directory.symlink_to(moved)
        elif os.geteuid() == 0:
            os.chown(directory, 65534, 65534)
        else:
            pytest.skip("only root can give a directory away")
        with pytest.raises(PermissionError, match="must be a directory of this user with mode 0700"):
            ControlSocket(deep, descriptors=tmp_path / "none")


async def test_more_connections_than_the_system_queues_are_refused_without_waiting(tmp_path: Path) -> None:
    address = ControlSocket(tmp_path)
    with address.bind() as listener:
        listener.listen(0)
        waiting = [address.connect()]
        with pytest.raises(BlockingIOError):
            waiting += [address.connect() for _ in range(10)]
        successor = ControlSocket(tmp_path)
        assert successor.is_served()
        async with worker(tmp_path) as running:
            assert await status(running) == 503
        for sock in waiting:
            sock.close()
    assert not successor.is_served()
    successor.close()
    address.close()
