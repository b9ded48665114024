"""Store providers, overrides and usage records in SQLite or Postgres; the only package that contains SQL."""
