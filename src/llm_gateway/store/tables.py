"""The tables of the database, as SQLAlchemy describes them. Migrations lead to the same tables."""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy import BigInteger, Boolean, Column, Float, Integer, LargeBinary, SmallInteger, Text

import llm_gateway.store.budget_tables  # noqa: F401 - its tables are a part of the metadata
from llm_gateway.domain.usage import Usage
from llm_gateway.store.cube import DIMENSIONS
from llm_gateway.store.rollups import COUNTERS
from llm_gateway.store.table_base import SORTED_BY_BYTES
from llm_gateway.store.table_base import metadata as metadata  # noqa: PLC0414 - complete with this module

NUMBERED = BigInteger().with_variant(sa.Integer, "sqlite")
"""Type of a key that the database numbers itself."""

SHORT = BigInteger().with_variant(sa.Integer, "postgresql")
TINY = BigInteger().with_variant(sa.SmallInteger, "postgresql")
"""Integers of 4 and 2 bytes on Postgres; SQLite stores each in as few bytes as it needs."""

ADDED_COUNTERS = frozenset({"saved_cost_nanos"})
"""Counters that tables got later: rows that an older gateway inserts have 0."""


def _counter(name: str) -> Column[int]:
    return Column(name, BigInteger, nullable=False, server_default=sa.text("0") if name in ADDED_COUNTERS else None)


providers = sa.Table(
    "providers",
    metadata,
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
    Column("protocols", Text),
    Column("model_aliases", Text),  # JSON object
    Column("context_window", Text),  # JSON integer or object, as the next one
    Column("max_output_tokens", Text),
    Column("trace", Boolean, nullable=False, server_default=sa.false()),
    sa.UniqueConstraint("name", name="providers_name"),
)

overrides = sa.Table(
    "overrides",
    metadata,
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

teams = sa.Table(
    "teams",
    metadata,
    Column("id", SORTED_BY_BYTES, primary_key=True),
    Column("name", SORTED_BY_BYTES, nullable=False),
    Column("description", Text, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("updated_at_ms", BigInteger, nullable=False),
    sa.UniqueConstraint("name", name="teams_name"),
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    Column("id", SORTED_BY_BYTES, primary_key=True),
    Column("name", SORTED_BY_BYTES, nullable=False),
    Column("scopes", Text, nullable=False, comment="JSON array"),
    Column("settings", Text, nullable=False, comment="JSON object"),
    Column("team_id", SORTED_BY_BYTES),
    Column("parent_id", SORTED_BY_BYTES),
    Column("owner", Text),
    Column("disabled", Boolean, nullable=False),
    Column("expires_at_ms", BigInteger),
    Column("last4", Text, nullable=False),
    Column("last_used_at_ms", BigInteger),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("updated_at_ms", BigInteger, nullable=False),
    sa.UniqueConstraint("name", name="api_keys_name"),
)
sa.Index("api_keys_team", api_keys.c.team_id)
sa.Index("api_keys_parent", api_keys.c.parent_id)

# A key that was rotated has more than one secret until the overlap ends.
api_key_secrets = sa.Table(
    "api_key_secrets",
    metadata,
    Column("public_id", SORTED_BY_BYTES, primary_key=True),
    Column("key_id", SORTED_BY_BYTES, nullable=False),
    Column("digest", LargeBinary, nullable=False),
    Column("pepper", BigInteger, nullable=False),
    Column("until_ms", BigInteger),
)
sa.Index("api_key_secrets_key", api_key_secrets.c.key_id)

# `password` is an argon2id hash (`passwords.py`).
people = sa.Table(
    "people",
    metadata,
    Column("id", SORTED_BY_BYTES, primary_key=True),
    Column("name", SORTED_BY_BYTES, nullable=False),
    Column("role", Text, nullable=False),
    Column("team_id", SORTED_BY_BYTES),
    Column("customer", Text),
    Column("password", Text, nullable=False),
    Column("disabled", Boolean, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("updated_at_ms", BigInteger, nullable=False),
    sa.UniqueConstraint("name", name="people_name"),
)

# Sessions of the dashboard; `digest` is the SHA-256 of the secret in the browser's cookie, in hexadecimal digits. A
# session is that of a key, a row of `people`, or whom an identity provider named; `key_name` is the name of any.
sessions = sa.Table(
    "sessions",
    metadata,
    Column("id", SORTED_BY_BYTES, primary_key=True),
    Column("digest", SORTED_BY_BYTES, nullable=False),
    Column("key_name", Text, nullable=False),
    Column("key_id", Text),
    Column("timezone", Text, nullable=False),
    Column("client", Text, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("used_at_ms", BigInteger, nullable=False),
    Column("ends_at_ms", BigInteger, nullable=False),
    Column("person_id", SORTED_BY_BYTES),
    Column("identity", Text, comment="JSON object"),
    Column("address", Text, nullable=False, server_default=sa.text("''")),
    sa.UniqueConstraint("digest", name="sessions_digest"),
)

# Messages about events, and their way to the webhook of the settings. Delivered ones stay for a while, so that the same
# event is not told twice.
webhook_messages = sa.Table(
    "webhook_messages",
    metadata,
    Column("id", SORTED_BY_BYTES, primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("body", Text, nullable=False, comment="JSON object"),
    Column("attempts", BigInteger, nullable=False),
    Column("next_attempt_ms", BigInteger, comment="null: delivered or given up"),
)

# Who gets alerts. `sealed` is an encrypted JSON object: URL, secret, password. `host` is what is shown of them.
alert_targets = sa.Table(
    "alert_targets",
    metadata,
    Column("id", SORTED_BY_BYTES, primary_key=True),
    Column("name", SORTED_BY_BYTES, nullable=False),
    Column("kind", Text, nullable=False),
    Column("events", Text, nullable=False, comment="JSON array"),
    Column("is_enabled", Boolean, nullable=False),
    Column("host", Text, nullable=False),
    Column("mailbox", Text, comment="JSON object"),
    Column("has_secret", Boolean, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
    Column("created_at_ms", BigInteger, nullable=False),
    Column("updated_at_ms", BigInteger, nullable=False),
    Column("delivered_ms", BigInteger),
    Column("failed_ms", BigInteger),
    Column("error", Text),
    sa.UniqueConstraint("name", name="alert_targets_name"),
)

# Messages of webhook_messages that wait for a target. Delivered ones have no row.
alert_deliveries = sa.Table(
    "alert_deliveries",
    metadata,
    Column("target_id", SORTED_BY_BYTES, primary_key=True),
    Column("message_id", SORTED_BY_BYTES, primary_key=True),
    Column("attempts", BigInteger, nullable=False),
    Column("next_attempt_ms", BigInteger, nullable=False),
    sqlite_with_rowid=False,
)

# `instance_id` is a number of usage_names; `instance` is empty then. Records of version 1 have the name itself.
# Ids are UUIDv7, so a range of time is a range of ids: the primary key serves queries by time.
usage_records = sa.Table(
    "usage_records",
    metadata,
    Column("id", SORTED_BY_BYTES, primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("last_attempt_ms", BigInteger, comment="when the last attempt started; null without attempts"),
    Column("version", BigInteger, nullable=False),
    Column("instance", Text, nullable=False),
    Column("key_name", Text, nullable=False),
    Column("user_id", Text, nullable=False),
    Column("service", Text, nullable=False),
    Column("task_type", Text, nullable=False),
    Column("surface", Text, nullable=False),
    Column("client_request_id", Text),
    Column("session", Text),
    Column("agent", Text),
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
    *(Column(kind, BigInteger, nullable=False) for kind in Usage.__struct_fields__),
    Column("cost_nanos", BigInteger, nullable=False),
    Column("cost_status", Text, nullable=False),
    Column("latency_ms", BigInteger, nullable=False),
    Column("first_token_ms", BigInteger),
    Column("attempts", Text, comment="JSON array of attempt records"),
    Column("queued_ms", BigInteger),
    Column("route", Text),
    Column("key_id", Text),
    Column("team_id", Text),
    Column("instance_id", BigInteger),
    Column("traceparent", Text),
    Column("refused_by", Text),
    sqlite_with_rowid=False,
)

# Numbers for texts that repeat in millions of rows (`numbered_texts.py`).
usage_names, usage_origins, usage_customers = (
    sa.Table(
        name,
        metadata,
        Column("id", NUMBERED, primary_key=True),
        Column(text, SORTED_BY_BYTES, nullable=False),
        sa.UniqueConstraint(text, name=f"{name}_{text}"),
    )
    for name, text in (("usage_names", "name"), ("usage_origins", "origin"), ("usage_customers", "name"))
)

# `dimension` and `name` are numbers (`rollup_table.py`), and `bucket` counts from 1970, so that a row is short.
# The bucket comes before the name in the key: a batch of records then touches a few neighbouring pages, not one per
# customer. `minutes` has bits: the minutes of the hour in which a customer called, -1 if they are not known.
usage_rollups = sa.Table(
    "usage_rollups",
    metadata,
    Column("dimension", SmallInteger, primary_key=True, autoincrement=False),
    Column("hours", SmallInteger, primary_key=True, autoincrement=False),
    Column("bucket", Integer, primary_key=True, autoincrement=False),
    Column("name", BigInteger, primary_key=True, autoincrement=False),
    *map(_counter, COUNTERS),
    Column("minutes", BigInteger, nullable=False, server_default=sa.text("-1")),
    sqlite_with_rowid=False,
)

# Each dimension is a number of usage_names, so that a row of integers is short.
usage_cube = sa.Table(
    "usage_cube",
    metadata,
    Column("hours", TINY, primary_key=True, autoincrement=False),
    Column("bucket", SHORT, primary_key=True, autoincrement=False),
    *(Column(dimension.name, SHORT, primary_key=True, autoincrement=False) for dimension in DIMENSIONS),
    *map(_counter, COUNTERS),
    sqlite_with_rowid=False,
)

# One row: records whose id is greater than `filled`, but not than `until`, are not in the cube yet (`cube_fill.py`).
usage_cube_fill = sa.Table(
    "usage_cube_fill",
    metadata,
    Column("until", SORTED_BY_BYTES, primary_key=True),
    Column("filled", SORTED_BY_BYTES, nullable=False),
)

# What management writes changed (`audit.py`). `before` and `after` are JSON objects.
audit_entries = sa.Table(
    "audit_entries",
    metadata,
    Column("chain", SORTED_BY_BYTES, primary_key=True),
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("at_ms", BigInteger, nullable=False),
    Column("actor", Text, nullable=False),
    Column("key_id", Text),
    Column("address", Text, nullable=False),
    Column("request_id", Text),
    Column("action", Text, nullable=False),
    Column("resource_id", Text),
    Column("resource_name", Text),
    Column("before", Text),
    Column("after", Text),
    Column("hash", Text, nullable=False),
    sqlite_with_rowid=False,
)
sa.Index("audit_entries_at", audit_entries.c.at_ms, audit_entries.c.number, audit_entries.c.chain)
sa.Index("audit_entries_resource", audit_entries.c.resource_id, audit_entries.c.at_ms)

# The number and hash of the last entry of each chain. Its row is locked while an entry is added.
audit_chains = sa.Table(
    "audit_chains",
    metadata,
    Column("chain", SORTED_BY_BYTES, primary_key=True),
    Column("number", BigInteger, nullable=False),
    Column("hash", Text, nullable=False),
)

# Gateways on this database, one for each data directory (`hosts.py`). `run` and `place` tell a copy of the directory
# from the directory itself, `tables` is the version of the tables that the code was made for, `secrets` names its keys.
hosts = sa.Table(
    "hosts",
    metadata,
    Column("id", SORTED_BY_BYTES, primary_key=True),
    Column("name", Text, nullable=False),
    Column("version", Text, nullable=False),
    Column("tables", Text, nullable=False),
    Column("run", Text, nullable=False),
    Column("place", Text, nullable=False),
    Column("secrets", Text, nullable=False, comment="JSON object"),
    Column("started_at_ms", BigInteger, nullable=False),
    Column("beat_at_ms", BigInteger, nullable=False),
)

NOW_MS = {
    "sqlite": "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)",
    "postgresql": "(extract(epoch FROM clock_timestamp()) * 1000)::bigint",
}
"""SQL for the database's time in milliseconds UTC, by dialect."""

# Forms whose session had ended, while their senders are at an identity provider (`kept_forms.py`).
kept_forms = sa.Table(
    "kept_forms",
    metadata,
    Column("state", SORTED_BY_BYTES, primary_key=True),
    Column("at_ms", BigInteger, nullable=False),
    Column("sealed", LargeBinary, nullable=False),
)

LIVING_S = 15.0
"""Seconds after its last beat for which a host counts as living."""

# One row: the oldest version of the tables whose code can use these, too (`migrations/__init__.py`).
compatibility = sa.Table("compatibility", metadata, Column("oldest", SORTED_BY_BYTES, primary_key=True))
