"""Migrate the database schema with Alembic.

Alembic is imported only if the database is not at `HEAD`: the import costs time and memory at every start.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from llm_gateway.errors import ConfigurationError

if TYPE_CHECKING:
    from alembic.config import Config

HEAD = "0016"
"""Schema version of this code; `versions/` must end with it."""
OTHER_VERSION = (
    "The tables of the database are not those of this version of llm-gateway: run llm-gateway migrate, then this "
    "command again."
)
"""Error message of a command that does not migrate."""

_version_table = sa.table("alembic_version", sa.column("version_num", sa.Text))


def version(connection: Connection) -> str | None:
    """Return the schema version of the database, None if it has no tables yet."""
    if not sa.inspect(connection).has_table(_version_table.name):
        return None
    return connection.execute(sa.select(_version_table.c.version_num)).scalar()


def upgrade(connection: Connection) -> None:
    """Migrate the database to `HEAD` within the connection's transaction.

    Raises:
        ConfigurationError: the database is at a version that this code does not know.
    """
    current = version(connection)
    if current == HEAD:
        return
    refuse_newer(current)
    from alembic import command  # noqa: PLC0415 - most starts do not need it

    command.upgrade(configuration(connection), HEAD)


def refuse_newer(current: str | None) -> None:
    """Raise if the version `current` is unknown, so that `upgrade` cannot start from it.

    Raises:
        ConfigurationError: this code does not know the version.
    """
    from alembic.script import ScriptDirectory  # noqa: PLC0415 - most starts do not need it

    known = {script.revision for script in ScriptDirectory(str(Path(__file__).parent)).walk_revisions()}
    if current is not None and current not in known:
        raise ConfigurationError(
            f"The database is at version {current!r}, which a newer llm-gateway made: install that version again, "
            "restore a backup of before the upgrade, or set LLM_GATEWAY_DATABASE_URL to another database."
        )


def configuration(connection: Connection) -> Config:
    """Return Alembic's configuration for commands over an open connection."""
    from alembic.config import Config  # noqa: PLC0415 - most starts do not need it

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.attributes["connection"] = connection
    return config
