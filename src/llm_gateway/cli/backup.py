"""Commands `backup`, `restore` and `compact`, which work on the file of a SQLite database."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeAlias

from cyclopts import Parameter
from rich.console import Console

from llm_gateway.cli.database import KEY_FILE, current_database, encryption_keys
from llm_gateway.cli.env_files import EnvFiles
from llm_gateway.cli.output import Flag, Json, note, print_json, printable
from llm_gateway.data_dir import DataDir
from llm_gateway.errors import ConfigurationError
from llm_gateway.settings import Settings
from llm_gateway.settings_reader import load_settings
from llm_gateway.store.backup import Contents, back_up, inspect, put_back
from llm_gateway.store.backup import compact as compact_file
from llm_gateway.store.database import Database, sqlite_file
from llm_gateway.store.providers import ProviderStore
from llm_gateway.store.secrets import SecretBox

File: TypeAlias = Annotated[Path, Parameter(help="the backup's file")]


def backup(file: File, /, *, env_file: EnvFiles = None, json: Json = False) -> None:
    """Write a copy of the database to a new file that only its owner can read.

    The gateway can go on running. The copy is the database at one moment: configuration and usage. It does not hold
    the encryption keys, without which the providers' keys cannot be read, nor the settings, nor usage that is still in
    the journal.

    ```sh
    llm-gateway backup /backup/gateway.db
    ```
    """
    settings = load_settings(env_files=env_file)
    database = _file_of(settings, "pg_dump --format=custom --file=FILE")
    if not database.exists():
        raise ConfigurationError(f"There is no database at {database}: check LLM_GATEWAY_DATA_DIR.")
    with _working("Copying the database"):
        held = back_up(database, file.absolute())
    if json:
        print_json(_document(held) | {"file": str(file.absolute()), "bytes": file.stat().st_size})
        return
    megabytes = f"{file.stat().st_size / 1e6:,.1f} MB"
    print(printable(f"{file} holds {_sentence(held)}: {megabytes}, readable by you alone."))
    key = "LLM_GATEWAY_ENCRYPTION_KEYS" if settings.encryption_keys else str(settings.data_dir.absolute() / KEY_FILE)
    note(
        f"The encryption keys ({key}), the settings with the service keys, and usage still in the journal are not in "
        "it. Keep the encryption keys elsewhere: without them the providers' keys cannot be read. Keep the peppers, "
        "too (key.peppers, LLM_GATEWAY_KEY_PEPPERS): without them stored service keys are refused."
    )


def restore(
    file: File,
    /,
    *,
    replace: Annotated[Flag, Parameter(help="keep the present database beside it, and put the backup there")] = False,
    env_file: EnvFiles = None,
    json: Json = False,
) -> None:
    """Put a backup in the place of the database. No gateway may be running on the data directory.

    The journal stays as it is: the next start moves what it still holds to the database, and counts nothing twice.

    ```sh
    llm-gateway restore /backup/gateway.db --replace
    ```
    """
    settings = load_settings(env_files=env_file)
    database = _file_of(
        settings,
        "pg_restore --exit-on-error --no-owner --dbname=DATABASE FILE, into an empty database, while no gateway runs",
    )
    with closing(DataDir(settings.data_dir)), _working("Restoring the database"):
        held = inspect(file)
        if database.exists() and not replace:
            raise ConfigurationError(
                f"There is a database at {database}: add --replace to put the backup in its place. The present one is "
                "kept beside it."
            )
        kept = put_back(file, database)
        unreadable = _unreadable_keys(settings)
    if json:
        print_json(_document(held) | {"kept": kept and str(kept), "unreadable_keys": unreadable})
        return
    print(printable(f"{database} holds {_sentence(held)}."))
    if kept:
        print(printable(f"The former database is {kept}: delete it when you are sure."))
    if unreadable:
        print(
            f"The keys of these providers cannot be read with the present encryption keys: {', '.join(unreadable)}. "
            "Set LLM_GATEWAY_ENCRYPTION_KEYS to those in force when the backup was made, or give the providers their "
            "keys."
        )


def compact(*, env_file: EnvFiles = None, json: Json = False) -> None:
    """Give the disk space of deleted usage back.

    The database file is rewritten without its empty pages. The gateway can go on running and answers calls. Changes of
    the configuration fail meanwhile, and usage waits in the journal. It takes some seconds for each gigabyte, and up to
    twice the file's size of free space.

    ```sh
    llm-gateway compact
    ```
    """
    settings = load_settings(env_files=env_file)
    database = _file_of(settings, "vacuumdb --full")
    with current_database(settings), _working("Compacting the database"):
        before, after = compact_file(database)
    if json:
        print_json({"file": str(database), "bytes_before": before, "bytes": after})
    else:
        print(printable(f"{database} takes {after / 1e6:,.1f} MB now, {(before - after) / 1e6:,.1f} MB less."))


def _file_of(settings: Settings, on_postgres: str) -> Path:
    """Return the SQLite file.

    Raises:
        ConfigurationError: the database is Postgres; the message names its own command.
    """
    file = sqlite_file(settings.url)
    if file is None:
        raise ConfigurationError(f"This command works on SQLite files only. On Postgres use: {on_postgres}")
    return file.absolute()


def _unreadable_keys(settings: Settings) -> list[str]:
    """Return the names of the providers whose stored keys the encryption keys of the settings do not open."""
    database = Database.open(settings.url)
    try:
        if not database.is_current():
            return []  # the next start migrates it; until then its columns are others
        store = ProviderStore(database, SecretBox(encryption_keys(settings) or [bytes(32)]))
        return [provider.name for provider, sealed in store.load() if not _opens(store, provider.id, sealed)]
    finally:
        database.close()


def _opens(store: ProviderStore, provider_id: str, sealed: bytes) -> bool:
    try:
        store.unseal(provider_id, sealed)
    except ConfigurationError:
        return False
    return True


def _document(held: Contents) -> dict[str, object]:
    newest = held.newest_ms
    return {
        "version": held.version,
        "providers": held.providers,
        "overrides": held.overrides,
        "usage_records": held.records,
        "newest_record": None if newest is None else _time(newest),
    }


def _sentence(held: Contents) -> str:
    parts = ((held.providers, "provider"), (held.overrides, "override"), (held.records, "usage record"))
    counted = [f"{count:,} {what}{'' if count == 1 else 's'}" for count, what in parts]
    newest = f", the newest of {_time(held.newest_ms)}" if held.newest_ms is not None else ""
    return f"{', '.join(counted[:-1])} and {counted[-1]}{newest}"


def _time(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@contextmanager
def _working(what: str) -> Iterator[None]:
    """Show that long work goes on, on standard error if that is a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    with Console(stderr=True).status(f"{what} …"):
        yield
