"""The database's versions: an Alembic environment, and when to wake it.

Alembic is imported only when a database is not at `HEAD`, since it costs every start time and memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from llm_gateway.errors import ConfigurationError

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0002"

_version_table = sa.table("alembic_version", sa.column("version_num", sa.Text))


def version(connection: Connection) -> str | None:
    """The version the database is at, None when it has no tables yet."""
    if not sa.inspect(connection).has_table(_version_table.name):
        return None
    return connection.execute(sa.select(_version_table.c.version_num)).scalar()


def upgrade(connection: Connection) -> None:
    """Bring the database to `HEAD` within the connection's transaction.

    Raises:
        ConfigurationError: the database is at a version this code does not know.
    """
    current = version(connection)
    if current == HEAD:
        return
    refuse_newer(current)
    from alembic import command  # noqa: PLC0415 - most starts do not need it

    command.upgrade(configuration(connection), HEAD)


def refuse_newer(current: str | None) -> None:
    """Whether `upgrade` could begin at that version.

    Raises:
        ConfigurationError: this code does not know it.
    """
    from alembic.script import ScriptDirectory  # noqa: PLC0415 - most starts do not need it

    known = {script.revision for script in ScriptDirectory(str(Path(__file__).parent)).walk_revisions()}
    if current is not None and current not in known:
        raise ConfigurationError(
            f"The database is at version {current!r}, which a newer llm-gateway made: install that version again, or "
            "set LLM_GATEWAY_DATABASE_URL to another database."
        )


def configuration(connection: Connection) -> Config:
    """Alembic's configuration for commands over an open connection."""
    from alembic.config import Config  # noqa: PLC0415 - most starts do not need it

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
