"""Translate database driver errors at startup into one sentence that says what is wrong and what to do."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import DBAPIError, OperationalError

from llm_gateway.errors import ConfigurationError, StoreUnavailable

_WRITING = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR})
_READING = frozenset({sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT})
_LOCKED = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_OPENING = frozenset({sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH})

SETTING = "LLM_GATEWAY_DATABASE_URL"


@contextmanager
def explained(place: str) -> Iterator[None]:
    """Translate errors of the block, the first use of a database, into messages for the operator.

    `place` names the database in messages, without a password: "The database file /var/lib/llm-gateway/gateway.db".

    Raises:
        ConfigurationError: the database cannot be used as it is.
        StoreUnavailable: the database does not answer now; starting again later may help.
    """
    try:
        yield
    except StoreUnavailable as error:
        raise _explanation(error.__cause__, place) from error
    except DBAPIError as error:
        raise _explanation(error, place) from error


def _explanation(error: BaseException | None, place: str) -> ConfigurationError | StoreUnavailable:
    driver_error = error.orig if isinstance(error, DBAPIError) else error
    reason = _first_line(driver_error)
    if not isinstance(driver_error, sqlite3.Error):
        if isinstance(error, OperationalError):
            return StoreUnavailable(f"{place} does not answer ({reason}): start it, or set {SETTING}.")
        return _foreign(place, reason)
    # The low byte is the primary result code (sqlite.org/rescode.html).
    code = getattr(driver_error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
    if code in _LOCKED:
        return StoreUnavailable(f"{place} is locked by another process: stop that one first.")
    if code in _READING:
        return ConfigurationError(f"{place} is damaged or not a SQLite database: restore a backup, or set {SETTING}.")
    if code in _WRITING:
        return ConfigurationError(f"{place} cannot be written ({reason}): free space, or set {SETTING}.")
    if code in _OPENING:
        return ConfigurationError(
            f"{place} cannot be opened ({reason}): "
            f"give the gateway write access to it and its directory, or set {SETTING}."
        )
    return _foreign(place, reason)


def _foreign(place: str, reason: str) -> ConfigurationError:
    return ConfigurationError(f"{place} does not accept the gateway's tables ({reason}): set {SETTING} to another one.")


def _first_line(error: BaseException | None) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
