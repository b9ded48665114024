"""Commands `usage quarantined` and `usage reimport`: usage records that the database refused."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from rich.console import Console

from llm_gateway.cli.database import current_database
from llm_gateway.cli.env_files import EnvFiles
from llm_gateway.cli.output import Column, Json, note, print_json, print_rows
from llm_gateway.errors import ConfigurationError
from llm_gateway.journal.quarantined import QuarantinedRecord, list_quarantined
from llm_gateway.journal.quarantined import reimport as offer_again
from llm_gateway.journal.record_delivery import quarantine_file
from llm_gateway.settings_reader import load_settings
from llm_gateway.store.usage import UsageStore

COLUMNS = (
    Column("request_id", "Request"),
    Column("at", "Time", missing="-"),
    Column("user_id", "Customer", missing="-"),
    Column("service", "Service", missing="-"),
    Column("reason", "Reason"),
)


def quarantined(*, env_file: EnvFiles = None, json: Json = False) -> None:
    """List the usage records that the database refused. No report counts them.

    They are lines of journal/quarantine.jsonl in the data directory.

    ```sh
    llm-gateway usage quarantined
    ```
    """
    data_dir = load_settings(env_files=env_file).data_dir.absolute()
    if not quarantine_file(data_dir).parent.is_dir():
        raise ConfigurationError(f"There is no journal in {data_dir}: check LLM_GATEWAY_DATA_DIR, or give --env-file.")
    rows = [_row(found) for found in list_quarantined(data_dir)]
    if json:
        print_json(rows)
        return
    print_rows(rows, COLUMNS, empty="No usage record is in the quarantine.")
    if rows:
        note("When the cause is mended, move them to the database with: llm-gateway usage reimport")


def reimport(*, env_file: EnvFiles = None, json: Json = False) -> None:
    """Offer the usage records that the database refused to it again. The gateway can go on running.

    A record that the database refuses again stays in the quarantine. A record that is stored already is not counted
    a second time.

    ```sh
    llm-gateway usage reimport
    ```
    """
    settings = load_settings(env_files=env_file)
    with current_database(settings) as database, _progress() as progress:
        done = offer_again(settings.data_dir.absolute(), UsageStore(database).write, progress)
    if json:
        print_json(done._asdict())
        return
    print(f"{done.stored:,} usage records were stored, {done.refused:,} were refused again.")
    if done.unreadable:
        print(f"{done.unreadable:,} entries hold no usage record that this version reads. They stay in the quarantine.")


def _row(found: QuarantinedRecord) -> dict[str, Any]:
    record = found.record
    return {
        "request_id": found.request_id,
        "at": record and datetime.fromtimestamp(record.at_ms / 1000, UTC).isoformat(timespec="milliseconds"),
        "user_id": record and record.user_id,
        "service": record and record.service,
        "reason": found.reason,
    }


@contextmanager
def _progress() -> Iterator[Callable[[int], None]]:
    """Show the number of records done on standard error if that is a terminal."""
    if not sys.stderr.isatty():
        yield lambda _done: None
        return
    with Console(stderr=True).status("Reimporting …") as status:
        yield lambda done: status.update(f"Reimporting: {done:,} records done …") if done % 100 == 0 else None
