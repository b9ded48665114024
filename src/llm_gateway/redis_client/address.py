"""The address of a Redis server, read from a URL. The password appears in no repr and in no message."""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

FORM = "redis://[user:password@]host[:port][/database], rediss:// for TLS, or unix://[user:password@]/path?db=database"
PORT = 6379
MOST_DATABASE = 2**31 - 1


class InvalidAddress(ValueError):
    """The URL is not the address of a server; the message says what is wrong, without any text of the URL."""


class RedisAddress(NamedTuple):
    """Address of a server and the login there. `path` is that of a Unix socket; without one, host and port hold.

    `ca_file` holds the certificates of the authorities that a server with TLS is checked against; None: the system's.
    """

    host: str = "localhost"
    port: int = PORT
    path: str = ""
    is_tls: bool = False
    user: str = ""
    password: str = ""
    database: int = 0
    ca_file: str | None = None

    @property
    def shown(self) -> str:
        """The address for messages: without user, password and options."""
        if self.path:
            return f"unix://{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'rediss' if self.is_tls else 'redis'}://{host}:{self.port}"

    def __repr__(self) -> str:
        return f"RedisAddress({self.shown!r}, database={self.database})"


def parse_address(url: str) -> RedisAddress:
    """Return the address in a URL.

    Raises:
        InvalidAddress: it is not a URL of the form `FORM`.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise InvalidAddress("host or port cannot be read") from None
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise InvalidAddress("it does not begin with redis://, rediss:// or unix://")
    if parts.fragment:
        raise InvalidAddress("it has a # (in a user name or password, write %23)")
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    known = {"db"} if parts.scheme == "unix" else {"ca_file"} if parts.scheme == "rediss" else set()
    if options.keys() - known:
        raise InvalidAddress("an option behind ? is unknown: unix:// takes db, rediss:// takes ca_file")
    address = RedisAddress(
        user=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
        is_tls=parts.scheme == "rediss",
        ca_file=options.get("ca_file"),
    )
    if address.user and not address.password:
        raise InvalidAddress("it has a user name and no password (a password alone is written :password@)")
    if parts.scheme == "unix":
        if host or not parts.path.strip("/"):
            raise InvalidAddress("unix:// needs the absolute path of a socket, such as unix:///run/valkey.sock")
        return address._replace(path=unquote(parts.path), database=_database(options.get("db", "0")))
    if not host:
        raise InvalidAddress("it names no host")
    if port == 0:
        raise InvalidAddress("the port is 0")
    return address._replace(host=host, port=port or PORT, database=_database(parts.path.removeprefix("/") or "0"))


def _database(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and int(text) <= MOST_DATABASE):
        raise InvalidAddress("the database is not a number")
    return int(text)
