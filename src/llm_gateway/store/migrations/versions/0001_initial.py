"""Create the first tables: providers, overrides, usage records and their rollups."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op
from sqlalchemy import BigInteger, Boolean, Column, Float, LargeBinary, Text

revision = "0001"
down_revision = None

SORTED_BY_BYTES = Text().with_variant(Text(collation="C"), "postgresql")


def upgrade() -> None:
    """Create the tables."""
    _create_configuration()
    _create_usage_records()
    _create_usage_rollups()


def downgrade() -> None:
    """Drop the tables with all their rows."""
    for table in ("usage_rollups", "usage_records", "overrides", "providers"):
        op.drop_table(table)


def _create_configuration() -> None:
    op.create_table(
        "providers",
        Column("id", SORTED_BY_BYTES, primary_key=True),
        Column("name", SORTED_BY_BYTES, nullable=False),
        Column("display_name", Text, nullable=False),
        Column("kind", Text, nullable=False),
        Column("base_url", Text),
        Column("models", Text, nullable=False),
        Column("is_enabled", Boolean, nullable=False),
        Column("rate_limit_rpm", BigInteger, nullable=False),
        Column("rate_limit_tpm", BigInteger, nullable=False),
        Column("priority", BigInteger, nullable=False),
        Column("timeout_s", Float, nullable=False),
        Column("prices", Text),
        Column("api_key", LargeBinary, nullable=False),
        Column("created_at_ms", BigInteger, nullable=False),
        Column("updated_at_ms", BigInteger, nullable=False),
        sa.UniqueConstraint("name", name="providers_name"),
    )
    op.create_table(
        "overrides",
        Column("id", SORTED_BY_BYTES, primary_key=True),
        Column("user_id", SORTED_BY_BYTES, nullable=False),
        Column("service_name", SORTED_BY_BYTES, nullable=False, comment="empty: all services"),
        Column("provider_name", SORTED_BY_BYTES, nullable=False),
        Column("model_name", Text, nullable=False),
        Column("allow_fallback", Boolean, nullable=False),
        Column("created_at_ms", BigInteger, nullable=False),
        Column("updated_at_ms", BigInteger, nullable=False),
        sa.UniqueConstraint("user_id", "service_name", name="overrides_user_service"),
    )


def _create_usage_records() -> None:
    op.create_table(
        "usage_records",
        Column("id", SORTED_BY_BYTES, primary_key=True),
        Column("at_ms", BigInteger, nullable=False),
        Column("last_attempt_ms", BigInteger, comment="when the last attempt started; null without attempts"),
        Column("version", BigInteger, nullable=False),
        *(Column(name, Text, nullable=False) for name in ("instance", "key_name", "user_id", "service", "task_type")),
        Column("surface", Text, nullable=False),
        *(Column(name, Text) for name in ("client_request_id", "organization", "project")),
        Column("tags", Text, comment="JSON object"),
        Column("stream", Boolean, nullable=False),
        Column("requested_model", Text),
        Column("override_id", Text),
        Column("outcome", Text, nullable=False),
        Column("error_code", Text),
        Column("status", BigInteger, nullable=False),
        Column("cache", Text, nullable=False),
        Column("saved_input_tokens", BigInteger, nullable=False),
        Column("saved_output_tokens", BigInteger, nullable=False),
        Column("saved_cost_nanos", BigInteger, nullable=False),
        Column("provider", Text),
        Column("model", Text),
        Column("input_tokens", BigInteger, nullable=False),
        Column("output_tokens", BigInteger, nullable=False),
        Column("cache_read_tokens", BigInteger, nullable=False),
        Column("cache_write_tokens", BigInteger, nullable=False),
        Column("cache_write_1h_tokens", BigInteger, nullable=False),
        Column("reasoning_tokens", BigInteger, nullable=False),
        Column("audio_input_tokens", BigInteger, nullable=False),
        Column("audio_output_tokens", BigInteger, nullable=False),
        Column("cost_nanos", BigInteger, nullable=False),
        Column("cost_status", Text, nullable=False),
        Column("latency_ms", BigInteger, nullable=False),
        Column("first_token_ms", BigInteger),
        Column("attempts", Text, comment="JSON array of attempt records"),
        sqlite_with_rowid=False,
    )


def _create_usage_rollups() -> None:
    op.create_table(
        "usage_rollups",
        Column("dimension", SORTED_BY_BYTES, primary_key=True),
        Column("grain", SORTED_BY_BYTES, primary_key=True),
        Column("bucket_ms", BigInteger, primary_key=True, autoincrement=False),
        Column("name", SORTED_BY_BYTES, primary_key=True),
        Column("requests", BigInteger, nullable=False),
        Column("cached_requests", BigInteger, nullable=False),
        Column("error_requests", BigInteger, nullable=False),
        Column("ok_requests", BigInteger, nullable=False),
        Column("estimated_requests", BigInteger, nullable=False),
        Column("unpriced_requests", BigInteger, nullable=False),
        Column("input_tokens", BigInteger, nullable=False),
        Column("output_tokens", BigInteger, nullable=False),
        Column("cost_nanos", BigInteger, nullable=False),
        Column("latency_ms", BigInteger, nullable=False),
        sqlite_with_rowid=False,
    )
