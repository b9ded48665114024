"""Migrate the database schema with Alembic.

Alembic is imported only if the database is not at `HEAD`: the import costs time and memory at every start.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from llm_gateway.errors import ConfigurationError
from llm_gateway.store.tables import LIVING_S, NOW_MS, compatibility, hosts

if TYPE_CHECKING:
    from alembic.config import Config

Log: TypeAlias = Callable[..., None]
"""Takes lines about the progress of a long migration."""

HEAD = "0026"
"""Schema version of this code; `versions/` must end with it."""
OLDEST = "0025"
"""Oldest version of the tables whose code can use these, too. A release sets it to the `HEAD` of the release before, so
that hosts of both can run on one database: a migration only adds, and what nobody uses goes one release later.
Hosts from before 0017 would each spend the whole limit of a budget, and those before 0025 write other sums."""
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


def is_usable(connection: Connection) -> bool:
    """Return whether this code can use the tables as they are: at `HEAD`, or at a newer version that says so."""
    current = version(connection)
    if current is None or current <= HEAD:
        return current == HEAD
    if not sa.inspect(connection).has_table(compatibility.name):
        return False
    oldest = connection.execute(sa.select(compatibility.c.oldest)).scalar()
    return oldest is not None and oldest <= HEAD


def upgrade(connection: Connection, log: Log | None = None) -> None:
    """Migrate the database to `HEAD` within the connection's transaction.

    Raises:
        ConfigurationError: the database is at a version that this code does not know, or hosts run on it that cannot
            use its tables afterwards.
    """
    if is_usable(connection):
        return
    refuse_newer(version(connection))
    refuse_older_hosts(connection)
    from alembic import command  # noqa: PLC0415 - most starts do not need it

    config = configuration(connection)
    if log is not None:
        config.attributes["log"] = log
    command.upgrade(config, HEAD)
    connection.execute(sa.update(compatibility).values(oldest=OLDEST))


def refuse_older_hosts(connection: Connection) -> None:
    """Raise if a host that lives was made for tables that are older than those that the new ones are usable for.

    Raises:
        ConfigurationError: there is one.
    """
    if not sa.inspect(connection).has_table(hosts.name):
        return
    now_ms = sa.literal_column(NOW_MS[connection.dialect.name], sa.BigInteger)
    living = hosts.c.beat_at_ms > now_ms - round(LIVING_S * 1000)
    query = sa.select(hosts.c.name, hosts.c.version).where(living, hosts.c.tables < OLDEST).limit(1)
    found = connection.execute(query).first()
    if found is not None:
        raise ConfigurationError(
            f"The host {found.name} runs llm-gateway {found.version} on this database, and could not use its tables "
            f"after this upgrade: upgrade all hosts to the version before this one first, or stop them and wait "
            f"{LIVING_S:.0f} seconds."
        )


def refuse_newer(current: str | None) -> None:
    """Raise if the version `current` is unknown, so that `upgrade` cannot start from it. None is an empty database's.

    Raises:
        ConfigurationError: this code does not know the version.
    """
    if current is None:
        return
    from alembic.script import ScriptDirectory  # noqa: PLC0415 - most starts do not need it

    known = {script.revision for script in ScriptDirectory(str(Path(__file__).parent)).walk_revisions()}
    if current not in known:
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
