"""Durable state: configuration and usage, in SQLite or Postgres; the only home of SQL."""
