"""Messages for driver errors at startup. Real broken files are tested in tests/e2e/test_bad_start.py."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from sqlalchemy.exc import DBAPIError, OperationalError, ProgrammingError

from llm_gateway.errors import ConfigurationError, StoreUnavailable
from llm_gateway.store.database import Database
from llm_gateway.store.diagnosis import explained


class ServerGone(Exception):
    """An error with psycopg's message for a server that is down."""


def sqlite_error(path: Path, statement: str, mode: str = "rwc") -> DBAPIError:
    """Return the error that SQLite raises for this statement."""
    connection = sqlite3.connect(f"{path.as_uri()}?mode={mode}", uri=True)
    try:
        connection.execute(statement)
    except sqlite3.Error as error:
        return DBAPIError(statement, None, error)
    finally:
        connection.close()
    raise AssertionError("It should have failed")


def said(error: DBAPIError, *, wrapped: bool) -> ConfigurationError | StoreUnavailable:
    unavailable = StoreUnavailable("away")
    unavailable.__cause__ = error
    with pytest.raises((ConfigurationError, StoreUnavailable)) as raised, explained("The database X"):
        raise unavailable if wrapped else error
    assert isinstance(raised.value, ConfigurationError | StoreUnavailable)
    text = str(raised.value)
    assert text.startswith("The database X ")
    assert text.endswith(".")
    assert "\n" not in text
    return raised.value


@pytest.mark.parametrize("wrapped", [True, False])
def test_each_sqlite_error_has_its_own_sentence(tmp_path: Path, wrapped: bool) -> None:
    path = tmp_path / "x.db"
    Database.open(f"sqlite:///{path}").close()
    error = said(sqlite_error(path, "CREATE TABLE a(b)", "ro"), wrapped=wrapped)
    assert isinstance(error, ConfigurationError)
    assert "cannot be opened (attempt to write a readonly database)" in str(error)
    path.write_text("x" * 5000)
    error = said(sqlite_error(path, "SELECT 1 FROM sqlite_master"), wrapped=wrapped)
    assert isinstance(error, ConfigurationError)
    assert "damaged or not a SQLite database" in str(error)


def test_the_postgres_servers_message_is_in_the_error() -> None:
    gone = ServerGone('connection to server at "db" failed: Connection refused\n\tIs the server running?')
    error = said(OperationalError("SELECT 1", None, gone), wrapped=True)
    assert isinstance(error, StoreUnavailable)
    assert error.detail == (
        'The database X does not answer (connection to server at "db" failed: Connection refused): start it, or set '
        "LLM_GATEWAY_DATABASE_URL."
    )
    error = said(ProgrammingError("CREATE …", None, ServerGone("permission denied for schema public.")), wrapped=False)
    assert isinstance(error, ConfigurationError)
    assert "does not accept the gateway's tables (permission denied for schema public)" in str(error)


def test_an_error_without_a_message_is_named_by_its_class() -> None:
    assert "(ServerGone)" in str(said(OperationalError("SELECT 1", None, ServerGone()), wrapped=True))
