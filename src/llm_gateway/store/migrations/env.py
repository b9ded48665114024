"""Alembic entry point: run migrations over the connection passed to `configuration`, in its transaction."""

from __future__ import annotations

from alembic import context

from llm_gateway.store.tables import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata)
with context.begin_transaction():
    context.run_migrations()
