"""HTTP client of a running gateway's management API. Failures become one sentence and an exit code."""

from __future__ import annotations

import ipaddress
import json
import os
import sys
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from threading import Thread
from typing import Annotated, Any, TypeAlias
from urllib.parse import urlencode, urlsplit

from cyclopts import Group, Parameter

from llm_gateway.cli.exits import FAILED, INTERRUPTED, UNREACHABLE, USAGE, CommandFailed

Answer: TypeAlias = tuple[int, bytes]
"""Status and body of a response."""

URL_VARIABLE, KEY_VARIABLE = "GATEWAY_URL", "GATEWAY_KEY"
"""Names without the settings' prefix: the gateway rejects `LLM_GATEWAY_*` variables that are not its settings."""

DEFAULT_URL = "http://localhost:8200"
DEVELOPMENT_KEY = "dev-gateway-key"
CONNECT_TIMEOUT_S = 3.0
TIMEOUT_S = 30.0


@Parameter(name="*", group=Group("Gateway", sort_key=9))
@dataclass(frozen=True)
class Address:
    """The options of management commands that name the gateway's URL and the service key for it."""

    url: Annotated[str, Parameter(env_var=URL_VARIABLE, help="where the gateway listens")] = DEFAULT_URL
    key: Annotated[
        str | None,
        Parameter(
            env_var=KEY_VARIABLE,
            help="a service key; the variable is better, since flags can be read in the list of processes. "
            "On this machine the development key is the default",
        ),
    ] = field(default=None, repr=False)
    key_file: Annotated[
        str | None, Parameter(allow_leading_hyphen=True, help="a file with the service key; - is standard input")
    ] = None

    @property
    def key_is_on_stdin(self) -> bool:
        """True if the service key is read from standard input."""
        return self.key_file == "-"


HERE = Address()


class Refused(CommandFailed):
    """Rejection by the gateway. `errors` lists its mistakes (`loc`, `msg`), empty if the gateway names none."""

    def __init__(self, sentence: str, errors: list[Any]) -> None:
        super().__init__(sentence, FAILED)
        self.errors = errors


class Client:
    """A client of one gateway. `base_url` ends neither in a slash nor in /api/v1."""

    def __init__(self, base_url: str, key: str) -> None:
        self.base_url = base_url
        self._key = key

    def get(self, path: str, **query: Any) -> Any:
        """Send GET and return the decoded response; query values that are None are omitted."""
        given = {name: value for name, value in query.items() if value is not None}
        return self._call("GET", f"{path}?{urlencode(given)}" if given else path)

    def get_text(self, path: str, **query: Any) -> str:
        """Send GET and return the response as it is, such as CSV; otherwise as `get`."""
        given = {name: value for name, value in query.items() if value is not None}
        status, text = self._send("GET", f"{self.base_url}/api/v1{path}?{urlencode(given)}", None)
        if not 200 <= status < 300:
            self._decoded(status, text)
        return text.decode()

    def post(self, path: str, body: object = None) -> Any:
        """Send POST and return the decoded response."""
        return self._call("POST", path, body)

    def patch(self, path: str, body: object) -> Any:
        """Send PATCH and return the decoded response."""
        return self._call("PATCH", path, body)

    def put(self, path: str, body: object) -> Any:
        """Send PUT and return the decoded response."""
        return self._call("PUT", path, body)

    def delete(self, path: str) -> Any:
        """Send DELETE and return the decoded response, None if it has no body."""
        return self._call("DELETE", path)

    def _call(self, method: str, path: str, body: object = None) -> Any:
        """Send one request to `path` below /api/v1. Returns the decoded response, None for 204.

        Raises:
            CommandFailed: the gateway cannot be reached, rejects the request, or the server is not an LLM Gateway.
        """
        return self._decoded(*self._send(method, f"{self.base_url}/api/v1{path}", body))

    def _decoded(self, status: int, text: bytes) -> Any:
        if status == 204:
            return None
        try:
            answer = json.loads(text)
        except ValueError:
            answer = None
        if 200 <= status < 300 and answer is not None:
            return answer
        if isinstance(answer, dict) and isinstance(answer.get("detail"), str):
            raise Refused(self._advice(status, answer["detail"]), answer.get("errors") or [])
        raise CommandFailed(
            f"The server at {self.base_url} is not an LLM Gateway (status {status}): check --url or {URL_VARIABLE}.",
            UNREACHABLE,
        )

    def _advice(self, status: int, detail: str) -> str:
        if status == 401 and self._key == DEVELOPMENT_KEY:
            return f"The gateway does not accept the development key: set {KEY_VARIABLE} to one of its service keys."
        if status == 401:
            return f"The gateway does not know this key: set {KEY_VARIABLE} to one of its service keys."
        if status == 403 and "scope" in detail:
            return f"{detail} Set {KEY_VARIABLE} to a key that has it."
        return detail

    def _send(self, method: str, url: str, body: object) -> Answer:
        """Send one request on a new connection. Proxies from the environment are not used for loopback.

        Raises:
            CommandFailed: the connection failed or broke, or no response came in time.
        """
        from datetime import timedelta  # noqa: PLC0415 - 20 ms that help and local commands save

        from pyreqwest.client import SyncClientBuilder  # noqa: PLC0415 - as above
        from pyreqwest.exceptions import DetailedPyreqwestError  # noqa: PLC0415 - as above

        builder = (
            SyncClientBuilder()
            .user_agent("llm-gateway-cli")
            .connect_timeout(timedelta(seconds=CONNECT_TIMEOUT_S))
            .timeout(timedelta(seconds=TIMEOUT_S))
            .follow_redirects(False)  # a redirect could send the key to another host
        )
        if is_loopback(url):
            builder = builder.no_proxy()

        def send() -> Answer:
            with builder.build() as client:
                request = client.request(method, url).header("x-service-key", self._key, is_sensitive=True)
                if body is not None:
                    request = request.header("content-type", "application/json").body_text(json.dumps(body))
                response = request.build().send()
                return response.status, bytes(response.bytes())

        try:
            return _interruptibly(send)
        except DetailedPyreqwestError as error:
            causes = [cause["message"] for cause in error.details["causes"] or ()]
            raise self._unreachable(method, causes, is_timeout=isinstance(error, TimeoutError)) from None

    def _unreachable(self, method: str, causes: list[str], *, is_timeout: bool) -> CommandFailed:
        reason = causes[-1] if causes else "no reason given"
        if "client error (Connect)" in causes:
            return CommandFailed(
                f"No gateway answers at {self.base_url} ({reason}): start one with `llm-gateway serve`, or set "
                f"its address with --url or {URL_VARIABLE}.",
                UNREACHABLE,
            )
        what = f"gave no answer within {TIMEOUT_S:.0f} s" if is_timeout else f"broke the connection ({reason})"
        then = "try again." if method == "GET" else "check whether the change was made before you try again."
        return CommandFailed(f"The gateway at {self.base_url} {what}: {then}", UNREACHABLE)


def connect(address: Address) -> Client:
    """Return the client for an address, without sending anything.

    Raises:
        CommandFailed: the URL is not valid, or the key is missing or not printable ASCII.
    """
    base_url = _base_url(address.url or DEFAULT_URL)
    key = _key_in(address.key_file) if address.key_file else (address.key or "").strip()
    if not key and is_loopback(base_url):
        key = DEVELOPMENT_KEY
    if not key:
        raise CommandFailed(f"Set {KEY_VARIABLE} to a service key of the gateway at {base_url}.", USAGE)
    if not (key.isascii() and key.isprintable()):
        raise CommandFailed(
            f"The service key is not one line of printable ASCII: copy it to {KEY_VARIABLE} again.", USAGE
        )
    return Client(base_url, key)


def is_loopback(url: str) -> bool:
    """Return True if the URL's host is this machine."""
    host = urlsplit(url).hostname or ""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _interruptibly(send: Callable[[], Answer]) -> Answer:
    """Call `send` in a thread, and exit at once on Ctrl-C: the HTTP client does not react to it by itself."""
    done: Future[Answer] = Future()

    def work() -> None:
        try:
            done.set_result(send())
        except BaseException as error:  # edge: raised again in the waiting thread
            done.set_exception(error)

    thread = Thread(target=work, daemon=True)
    thread.start()
    try:
        thread.join()
    except KeyboardInterrupt:
        os._exit(INTERRUPTED)  # a normal exit is not safe while the client's thread runs
    return done.result()


def _base_url(url: str) -> str:
    unfit = CommandFailed(f"The gateway's URL is http(s)://host[:port][/path]: set --url or {URL_VARIABLE}.", USAGE)
    try:
        parts = urlsplit(url.strip())
        _ = parts.port
    except ValueError:
        raise unfit from None
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc or parts.query:
        raise unfit
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/api/v1')}"


def _key_in(place: str) -> str:
    try:
        if place == "-":
            return sys.stdin.readline().strip()
        with open(place, encoding="utf-8") as file:  # noqa: PTH123 - errors quote the path as typed
            return file.read().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(f"The service key cannot be read from {place}: {error}.", USAGE) from None
