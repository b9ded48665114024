"""Migrations lead to the tables of `tables.py`, from any version, run any number of times."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from llm_gateway.errors import ConfigurationError
from llm_gateway.store import migrations
from llm_gateway.store.cube import MARGINS, WHOLE
from llm_gateway.store.database import Database
from llm_gateway.store.providers import list_providers
from llm_gateway.store.tables import NOW_MS as NOW_MS_OF
from llm_gateway.store.tables import metadata
from llm_gateway.store.usage import UsageStore
from tests.store.histories import DAY_MS, HOUR_MS, NOW_MS, check_margins, cube_rows, record, rollup_rows

MIGRATE = """
import sys
from llm_gateway.store.database import Database
database = Database.open(sys.argv[1])
database.migrate()
assert database.check()
database.close()
print("alembic" in sys.modules)
"""


def start_migration(url: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-W", "error", "-c", MIGRATE, url], stdout=subprocess.PIPE, text=True)


ON_SQLITE = "SELECT name, sql FROM sqlite_master WHERE type = 'table'"
ON_POSTGRES = """
SELECT relname, relname || '(' || (
    SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod) || ' ' || attnotnull || ' '
        || coalesce((SELECT collname FROM pg_collation c WHERE c.oid = attcollation), '') || ' '
        || attidentity::text || ' ' || coalesce(pg_get_expr(adbin, adrelid), ''), ', ' ORDER BY attnum)
    FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE attrelid = t.oid AND attnum > 0 AND NOT attisdropped
) || coalesce((SELECT string_agg(', ' || pg_get_constraintdef(c.oid), '' ORDER BY conname)
    FROM pg_constraint c WHERE conrelid = t.oid AND contype IN ('p', 'u')), '') || ')'
FROM pg_class t WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace
"""


def table_texts(database: Database) -> dict[str, str]:
    with database.read() as connection:
        rows = connection.exec_driver_sql(ON_SQLITE if database.is_sqlite else ON_POSTGRES).all()
    return {name: text for name, text in rows if name != "alembic_version"}


def definitions(database: Database) -> dict[str, tuple[list[str], set[str], str]]:
    """Return each table's columns in order, the parts of its definition, and its options.

    The SQL texts themselves differ: SQLite appends a column that is added later after the table's constraints.
    """
    found = {}
    for name, text in table_texts(database).items():
        with database.read() as connection:
            columns = [column["name"] for column in sa.inspect(connection).get_columns(name)]
        body, _, options = text.partition("(")[2].rpartition(")")
        found[name] = (columns, {part.strip() for part in re.split(r",(?![^()]*\))", body)}, options)
    return found


def test_head_is_the_newest_version(database: Database) -> None:
    with database.write() as connection:
        script = ScriptDirectory.from_config(migrations.configuration(connection))
        assert script.get_current_head() == migrations.HEAD
        assert migrations.version(connection) == migrations.HEAD


def is_no_index(_object: object, _name: str | None, kind: str, *_: object) -> bool:
    return kind != "index"


@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index")
def test_migrated_tables_are_those_of_the_code(database: Database, empty_url: str) -> None:
    """Indexes are shown by the queries that use them: tests/store/test_record_search.py."""
    opts = {"compare_type": True, "compare_server_default": True, "include_object": is_no_index}
    with database.write() as connection:
        context = MigrationContext.configure(connection, opts=opts)
        assert compare_metadata(context, metadata) == []
    plain = Database.open(empty_url)
    with plain.write() as connection:
        metadata.create_all(connection)
    assert definitions(database) == definitions(plain)
    plain.close()


def test_a_downgrade_leaves_no_tables_and_an_upgrade_restores_them(database: Database) -> None:
    before = table_texts(database)
    with database.write() as connection:
        command.downgrade(migrations.configuration(connection), "base")
    assert table_texts(database) == {}
    assert database.check() is False
    database.migrate()
    assert table_texts(database) == before


def for_database(database: Database, statement: str) -> str:
    """Return the statement with its bytes as the database spells them."""
    return statement if database.is_sqlite else statement.replace("x'00ff'", r"'\x00ff'")


FIRST = """
INSERT INTO providers VALUES ('01890a5d-ac96-774b-bcce-b302099a8057', 'acme', 'Acme', 'openai', 'https://acme.test/v1',
    '["m"]', TRUE, 60, 100000, 10, 60.0, '{"m": {"input": 1.0, "output": 2.0}}', x'00ff', 1000, 2000);
INSERT INTO overrides VALUES ('01890a5d-ac96-774b-bcce-b302099a8058', 'alice', '', 'acme', 'm', TRUE, 1000, 1000);
"""


def test_providers_of_version_0001_keep_their_fields_and_get_default_protocols(empty_url: str) -> None:
    database = Database.open(empty_url)
    with database.write() as connection:
        command.upgrade(migrations.configuration(connection), "0001")
        for statement in filter(str.strip, FIRST.split(";")):
            connection.exec_driver_sql(for_database(database, statement))
        before = connection.exec_driver_sql("SELECT * FROM providers").one()
    assert not database.is_current()

    database.migrate()

    with database.read() as connection:
        assert connection.exec_driver_sql("SELECT * FROM providers").one() == (*before, None, None, None, None, 0)
        assert connection.exec_driver_sql("SELECT count(*) FROM overrides").scalar() == 1
    [provider] = list_providers(database)
    assert (provider.name, provider.models, provider.protocols) == ("acme", ("m",), None)
    assert (provider.model_aliases, provider.context_window, provider.max_output_tokens) == (None, None, None)
    assert provider.trace is False
    with database.write() as connection:
        command.downgrade(migrations.configuration(connection), "0001")
        assert connection.exec_driver_sql("SELECT * FROM providers").one() == before
    database.close()


STORED = (
    "INSERT INTO providers (id, name, display_name, kind, models, is_enabled, rate_limit_rpm, rate_limit_tpm, "
    "priority, timeout_s, api_key, created_at_ms, updated_at_ms) "
    "VALUES ('{id}', '{name}', 'Acme', 'openai', '[\"m\"]', TRUE, 60, 100000, 10, 60.0, x'00ff', 1000, 2000)"
)


def test_providers_of_version_0003_get_no_aliases_and_no_limits(empty_url: str) -> None:
    database = Database.open(empty_url)
    with database.write() as connection:
        command.upgrade(migrations.configuration(connection), "0003")
        stored = for_database(database, STORED)
        connection.exec_driver_sql(stored.format(id="01890a5d-ac96-774b-bcce-b302099a8057", name="before"))

    database.migrate()

    with database.write() as connection:  # a gateway of the older version that still runs inserts without new columns
        connection.exec_driver_sql(stored.format(id="01890a5d-ac96-774b-bcce-b302099a8058", name="later"))
    for provider in list_providers(database):
        assert (provider.model_aliases, provider.context_window, provider.max_output_tokens) == (None, None, None)
        assert provider.trace is False
    with database.write() as connection:
        command.downgrade(migrations.configuration(connection), "0003")
        assert connection.exec_driver_sql("SELECT count(*) FROM providers").scalar() == 2
    database.close()


def test_days_of_the_cube_are_summed_to_eight_days(database: Database) -> None:
    history = [record(NOW_MS - day * DAY_MS, service=f"s{day % 2}", outcome="ok", latency_ms=day) for day in range(20)]
    UsageStore(database).write(history)
    before = cube_rows(database)
    with database.write() as connection:
        command.downgrade(migrations.configuration(connection), "0008")
    with database.read() as connection:  # a column of a later version is not there
        assert set(connection.exec_driver_sql("SELECT DISTINCT hours FROM usage_cube").scalars()) == {1, 24}
    database.migrate()
    assert cube_rows(database) == before


def test_what_hits_of_the_cache_saved_is_filled_into_the_sums(database: Database) -> None:
    """Hits of the cache of two days, at several combinations, one with a name beyond the cube's length."""
    names = [("ann", "shop", "m"), ("bob", "shop", None), ("ann", "s" * 300, "m")]
    hits = [
        record(
            NOW_MS - number * DAY_MS // 3,
            outcome="cached",
            saved_cost_nanos=10**number,
            key_id=None if number % 2 else "key",
            **dict(zip(("user_id", "service", "model"), names[number % 3], strict=True)),
        )
        for number in range(6)
    ]
    UsageStore(database).write(hits)
    UsageStore(database).write([record(NOW_MS, outcome="cached", user_id="ann"), record(NOW_MS, outcome="failed")])
    rollups, cube = rollup_rows(database), cube_rows(database)
    assert sum(row[-1] for row in cube) == 3 * 111_111
    downgraded(database, "0010")
    database.migrate()
    assert (rollup_rows(database), cube_rows(database)) == (rollups, cube)
    check_margins(database)

    with database.write() as connection:  # the records are still to be added to the cube
        connection.exec_driver_sql("UPDATE usage_cube_fill SET filled = '', until = 'z'")
    downgraded(database, "0010")
    database.migrate()
    assert rollup_rows(database) == rollups
    assert [row[-1] for row in cube_rows(database)] == [0] * len(cube)
    check_margins(database)


def test_margins_are_built_after_the_upgrade_and_a_downgrade_restores_the_days_by_key(database: Database) -> None:
    history = [record(NOW_MS - number * 7 * HOUR_MS, key_id=f"k{number % 3}") for number in range(40)]
    store = UsageStore(database)
    store.write(history)
    while store.build_margins(NOW_MS):
        pass
    check_margins(database)
    before = [cube_rows(database, margin) for margin in (WHOLE, *MARGINS)]
    downgraded(database, "0024")
    with database.read() as connection:
        found = connection.exec_driver_sql(
            "SELECT bucket, name, model, provider, team, service, task_type, agent, requests, latency_ms "
            "FROM usage_cube JOIN usage_names ON usage_names.id = key WHERE hours < 0"
        ).all()
    days = Counter((made.at_ms // DAY_MS, made.key) for made in history)
    assert sorted(map(tuple, found)) == sorted((*key, *[0] * 6, count, 0) for key, count in days.items())
    database.migrate()
    assert [cube_rows(database, margin) for margin in (WHOLE, *MARGINS)] == [before[0], [], [], []]
    while store.build_margins(NOW_MS):
        pass
    assert [cube_rows(database, margin) for margin in (WHOLE, *MARGINS)] == before


def downgraded(database: Database, version: str) -> None:
    with database.write() as connection:
        command.downgrade(migrations.configuration(connection), version)


def test_a_failing_migration_leaves_the_database_as_it_was(empty_url: str) -> None:
    database = Database.open(empty_url)
    with database.write() as connection:
        connection.exec_driver_sql("CREATE TABLE usage_records (id TEXT)")
    with pytest.raises(Exception, match=r"(?i)database"):
        database.migrate()
    assert list(table_texts(database)) == ["usage_records"]
    database.close()


def test_migrating_again_changes_nothing(database: Database) -> None:
    before = table_texts(database)
    database.migrate()
    with database.write() as connection:
        migrations.upgrade(connection)
    assert table_texts(database) == before


def test_a_newer_database_is_refused(database: Database) -> None:
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
        connection.exec_driver_sql("UPDATE compatibility SET oldest = '9999'")
    advice = "'9999', which a newer llm-gateway made: install that version again, restore a backup of before"
    with pytest.raises(ConfigurationError, match=advice):
        database.migrate()


def test_a_newer_database_that_says_so_is_used_as_it_is(database: Database) -> None:
    """A host of the release before starts again while others have been upgraded."""
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
        connection.exec_driver_sql(f"UPDATE compatibility SET oldest = '{migrations.HEAD}'")
    assert database.is_current()
    database.migrate()
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE compatibility SET oldest = '9998'")
    assert not database.is_current()
    with pytest.raises(ConfigurationError, match="'9999', which a newer llm-gateway made"):
        database.migrate()


def test_an_upgrade_is_refused_while_hosts_run_that_are_too_old_for_it(database: Database) -> None:
    downgraded(database, "0016")
    with database.write() as connection:
        now_ms = NOW_MS_OF[connection.dialect.name]
        values = f"'0', 'old', '0.0.9', '0014', 'r', 'p', '{{}}', 1, {now_ms}"
        connection.exec_driver_sql(f"INSERT INTO hosts VALUES ({values})")
    told = r"The host old runs llm-gateway 0\.0\.9 on this database.*upgrade all hosts to the version before"
    with pytest.raises(ConfigurationError, match=told):
        database.check_upgrade()
    with pytest.raises(ConfigurationError, match=told):
        database.migrate()
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE hosts SET beat_at_ms = 1")  # it has been stopped
    database.check_upgrade()
    database.migrate()
    assert database.is_current()


@pytest.mark.usefixtures("long_on_postgres")
def test_processes_that_start_at_once_take_turns(empty_url: str) -> None:
    count = 4 if empty_url.startswith("sqlite:") else 2
    running = [start_migration(empty_url) for _ in range(count)]
    outputs = [process.communicate(timeout=30)[0].strip() for process in running]
    assert [process.returncode for process in running] == [0] * count
    assert "True" in outputs


def test_alembic_is_not_imported_when_the_schema_is_current(database_file: Path) -> None:
    process = start_migration(f"sqlite:///{database_file}")
    assert process.communicate(timeout=30)[0].strip() == "False"
    assert process.returncode == 0


def test_env_is_the_only_module_that_alembic_runs(database: Database) -> None:
    assert {path.name for path in Path(migrations.__file__).parent.rglob("*.py")} == {
        "__init__.py",
        "env.py",
        "0001_initial.py",
        "0002_protocols.py",
        "0003_record_2.py",
        "0004_model_aliases.py",
        "0005_service_keys.py",
        "0006_record_indexes.py",
        "0007_sessions.py",
        "0008_short_texts.py",
        "0009_long_buckets.py",
        "0010_audit.py",
        "0011_saved_cost.py",
        "0012_budgets.py",
        "0013_alert_targets.py",
        "0014_traceparent.py",
        "0015_people.py",
        "0016_hosts.py",
        "0017_budget_leases.py",
        "0018_short_rollups.py",
        "0019_customer_minutes.py",
        "0020_key_days.py",
        "0021_budget_corrections.py",
        "0022_budgets_of_leases.py",
        "0023_audit_resources.py",
        "0024_customer_days.py",
        "0025_margins.py",
        "0026_refused_by.py",
    }
    with database.read() as connection:
        assert sorted(sa.inspect(connection).get_table_names()) == [
            "alembic_version",
            "alert_deliveries",
            "alert_targets",
            "api_key_secrets",
            "api_keys",
            "audit_chains",
            "audit_entries",
            "budget_backfill",
            "budget_hosts",
            "budget_leases",
            "budget_spend",
            "budgets",
            "compatibility",
            "hosts",
            "kept_forms",
            "overrides",
            "people",
            "providers",
            "sessions",
            "teams",
            "usage_cube",
            "usage_cube_fill",
            "usage_customers",
            "usage_names",
            "usage_origins",
            "usage_records",
            "usage_rollups",
            "webhook_messages",
        ]
