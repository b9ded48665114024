"""The command line's HTTP client: address, key, and the message and exit code of each failure."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from llm_gateway.cli.client import Address, Client, connect, is_loopback
from llm_gateway.cli.exits import CommandFailed
from tests.cli.command import COMMAND, SetUp, call, execute
from tests.cli.conftest import READER_KEY
from tests.e2e.process import free_port, until


@contextmanager
def answering(status: int, body: bytes, **headers: str) -> Iterator[tuple[str, list[str]]]:
    """Serve the same response to all requests. Yields the server's URL and the paths and keys it saw."""
    seen: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(f"{self.path} {self.headers['x-service-key']}")
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_without_a_gateway_a_command_ends_with_3_and_names_the_url(capsys: pytest.CaptureFixture[str]) -> None:
    url = f"http://localhost:{free_port()}"
    ended = call(capsys, "providers", "list", "--url", url)
    assert ended.code == 3
    assert ended.sentence.startswith(f"No gateway answers at {url} (Connection refused")
    assert "llm-gateway serve" in ended.sentence
    ended = call(capsys, "providers", "list", "--url", "http://gateway.invalid", "--key", "k")
    assert ended.code == 3
    assert "http://gateway.invalid" in ended.sentence


def test_a_refused_connection_ends_cleanly_every_time() -> None:
    url = f"http://localhost:{free_port()}"
    assert {execute("providers", "list", "--url", url).code for _ in range(10)} == {3}


def test_a_wrong_key_ends_with_1_and_names_the_variable(set_up: SetUp, capsys: pytest.CaptureFixture[str]) -> None:
    ended = call(capsys, "providers", "list", "--key", "wrong")
    assert (ended.code, "GATEWAY_KEY" in ended.sentence, "wrong" in ended.sentence) == (1, True, False)


def test_a_missing_scope_is_named(set_up: SetUp, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(capsys, "providers", "list", "--key", READER_KEY).code == 0
    ended = call(capsys, "overrides", "remove", "x", "--key", READER_KEY)
    assert (ended.code, "x" in ended.sentence) == (1, True)
    set_up.gateway.provider("acme", set_up.vendor.base_url)
    ended = call(capsys, "providers", "disable", "acme", "--key", READER_KEY)
    assert ended.code == 1
    assert "'admin'" in ended.sentence
    assert "GATEWAY_KEY" in ended.sentence


def test_the_development_key_is_sent_to_loopback_only(capsys: pytest.CaptureFixture[str]) -> None:
    with answering(200, b"[]") as (url, seen):
        assert call(capsys, "providers", "list", "--url", url).code == 0
        assert call(capsys, "providers", "list", "--url", f"{url}/api/v1/", "--key", "own").code == 0
        assert seen == ["/api/v1/providers dev-gateway-key", "/api/v1/providers own"]
    ended = call(capsys, "providers", "list", "--url", "https://gateway.example.com")
    assert (ended.code, ended.sentence) == (
        2,
        "Set GATEWAY_KEY to a service key of the gateway at https://gateway.example.com.",
    )
    with answering(401, json.dumps({"detail": "No."}).encode()) as (url, _):
        assert "does not accept the development key" in call(capsys, "providers", "list", "--url", url).sentence


def test_the_key_comes_from_the_variable_a_file_or_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("key").write_text("of-the-file\n")
    with answering(200, b"[]") as (url, seen):
        given = {"GATEWAY_KEY": "of-the-variable", "GATEWAY_URL": url}
        for arguments in ([], ["--key-file", "key"], ["--key-file", "-"], ["--key", "of-the-flag"]):
            assert execute("providers", "list", *arguments, stdin="of-stdin\n", **given).code == 0
        assert execute("providers", "list", GATEWAY_KEY="", GATEWAY_URL=url).code == 0
    keys = [line.split()[1] for line in seen]
    assert keys == ["of-the-variable", "of-the-file", "of-stdin", "of-the-flag", "dev-gateway-key"]


@pytest.mark.parametrize(
    "address",
    [
        Address(key_file="nowhere"),
        Address(key="two\nlines"),
        Address(key="schlüssel"),
        *(Address(url=url) for url in ("localhost:8200", "ftp://x", "http://", "http://me:pw@x", "http://x:y", "x")),
    ],
)
def test_an_invalid_url_ends_with_2(address: Address) -> None:
    with pytest.raises(CommandFailed) as ended:
        connect(address)
    assert ended.value.code == 2
    assert not {"two", "schlüssel", "pw"} & set(str(ended.value).split())


def test_the_repr_of_an_address_does_not_show_its_key() -> None:
    assert "secret" not in repr(Address(key="secret"))


@pytest.mark.parametrize(
    ("status", "body"), [(404, b"<h1>Not here</h1>"), (200, b"<h1>Hello</h1>"), (502, b"{}"), (307, b"")]
)
def test_a_server_that_is_not_a_gateway_ends_with_3(
    capsys: pytest.CaptureFixture[str], status: int, body: bytes
) -> None:
    with answering(status, body, Location="http://127.0.0.1:1/") as (url, seen):
        ended = call(capsys, "providers", "list", "--url", url)
        assert len(seen) == 1
    assert ended.code == 3
    assert ended.sentence == (
        f"The server at {url} is not an LLM Gateway (status {status}): check --url or GATEWAY_URL."
    )


def test_a_lost_connection_after_a_write_advises_to_check_first() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()

        def cut() -> None:
            for _ in range(2):
                connection, _ = listening.accept()
                connection.recv(65536)
                connection.close()

        cutting = threading.Thread(target=cut)
        cutting.start()
        client = Client(f"http://127.0.0.1:{listening.getsockname()[1]}", "key")
        with pytest.raises(CommandFailed, match=r"broke the connection .*: try again\.") as read:
            client.get("/providers")
        with pytest.raises(CommandFailed, match="check whether the change was made") as written:
            client.post("/providers", {})
        cutting.join()
    assert (read.value.code, written.value.code) == (3, 3)


def test_ctrl_c_ends_a_call_at_once_with_130() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        restored = ("env", "--default-signal=INT")  # a shell lets its background jobs ignore Ctrl-C
        process = subprocess.Popen([*restored, COMMAND, "usage", "--url", url], stderr=subprocess.PIPE)
        connection, _ = listening.accept()
        with connection:
            until(lambda: b"x-service-key" in connection.recv(65536).lower())
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=10)
    assert (process.returncode, said) == (130, b"")


@pytest.mark.parametrize(
    ("url", "is_ours"),
    [
        ("http://localhost:1", True),
        ("http://127.0.0.2", True),
        ("http://[::1]:80/x", True),
        ("http://localhost.example.com", False),
        ("http://10.0.0.1", False),
    ],
)
def test_only_addresses_of_this_machine_are_loopback(url: str, is_ours: bool) -> None:
    assert is_loopback(url) == is_ours
