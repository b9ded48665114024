"""A database of Postgres that is away for a while."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import sqlalchemy as sa


@contextmanager
def without_postgres(url: str) -> Iterator[None]:
    """End all connections to a database, and let none in meanwhile."""
    where = sa.make_url(url).set(drivername="postgresql+psycopg")
    engine = sa.create_engine(where.set(database="postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"ALTER DATABASE {where.database} ALLOW_CONNECTIONS false"))
        ended = sa.text("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name")
        connection.execute(ended, {"name": where.database})
        yield
        connection.execute(sa.text(f"ALTER DATABASE {where.database} ALLOW_CONNECTIONS true"))
    engine.dispose()
