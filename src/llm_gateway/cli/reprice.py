"""Command `reprice`: recalculate the cost of stored usage records with the current prices."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from llm_gateway import wall_clock
from llm_gateway.cli.database import command_actor, current_database
from llm_gateway.cli.env_files import EnvFiles
from llm_gateway.cli.exits import USAGE, CommandFailed
from llm_gateway.cli.output import Column, Flag, Json, is_terminal, print_json, print_rows
from llm_gateway.control.offline import reprice_once
from llm_gateway.domain.audit import acting
from llm_gateway.domain.usage import NANOS_PER_USD
from llm_gateway.settings_reader import load_settings
from llm_gateway.store.repricing import ModelDifference, RepriceReport

COLUMNS = (
    Column("provider", "Provider"),
    Column("model", "Model"),
    Column("attempts", "Attempts", "count"),
    Column("changed", "Changed", "count"),
    Column("unknown", "No price", "count", on_terminal=False),
    Column("gone", "No provider", "count", on_terminal=False),
    Column("cost_before_usd", "Before", "money"),
    Column("cost_after_usd", "After", "money"),
    Column("difference_usd", "Difference", "money"),
)
COUNTS = ("attempts", "changed", "unknown", "gone")


def reprice(
    *,
    since: Annotated[datetime, Parameter(help="requests from this day or time on, UTC unless it says otherwise")],
    until: Annotated[datetime | None, Parameter(help="requests before this day or time; without it up to now")] = None,
    provider: Annotated[str | None, Parameter(help="only attempts at this provider")] = None,
    model: Annotated[str | None, Parameter(help="only attempts at this model")] = None,
    dry_run: Annotated[Flag, Parameter(help="say what would change, and change nothing")] = False,
    env_file: EnvFiles = None,
    json: Json = False,
) -> None:
    """Give stored usage the prices in force now.

    Use it for prices that were wrong or missing when the usage was recorded. It works on the settings' database in
    small steps, while a gateway can keep running. An interrupted run can be repeated.

    ```sh
    llm-gateway reprice --since 2026-11-01 --dry-run
    llm-gateway reprice --since 2026-11-01 --until 2026-12-01 --provider openai --model gpt-4o-mini
    ```
    """
    since_ms = _milliseconds(since)
    settings = load_settings(env_files=env_file)
    with ExitStack() as stack:
        stack.enter_context(current_database(settings))
        until_ms = _milliseconds(until or wall_clock.now())  # by the database's clock
        if since_ms >= until_ms:
            raise CommandFailed("--since must be before --until, and not in the future.", USAGE)
        stack.enter_context(acting(command_actor("reprice")))
        progress = stack.enter_context(_progress(since_ms, until_ms))
        report = reprice_once(
            settings,
            since_ms=since_ms,
            until_ms=until_ms,
            provider=provider,
            model=model,
            dry_run=dry_run,
            progress=progress,
        )
    rows = [_row(each) for each in report.models]
    if json:
        print_json(_document(report, rows))
        return
    print_rows(rows, COLUMNS, total=_total(report, rows), empty="Nothing was bought in that time.")
    if is_terminal():
        print(_sentence(report))


def _milliseconds(moment: datetime) -> int:
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return round(aware.timestamp() * 1000)


@contextmanager
def _progress(since_ms: int, until_ms: int) -> Iterator[Callable[[RepriceReport], None]]:
    """Show a progress bar on standard error if that is a terminal; the yielded function updates it."""
    if not sys.stderr.isatty():
        yield lambda _report: None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[records]:,} records"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("Repricing", total=until_ms - since_ms, records=0)
        yield lambda report: bar.update(task, completed=report.at_ms - since_ms, records=report.records)


def _row(each: ModelDifference) -> dict[str, Any]:
    difference = each.cost_after_nanos - each.cost_before_nanos
    return {
        "provider": each.provider,
        "model": each.model,
        **{name: getattr(each, name) for name in COUNTS},
        **_money(each.cost_before_nanos, each.cost_after_nanos, difference),
    }


def _total(report: RepriceReport, rows: list[dict[str, Any]]) -> dict[str, Any]:
    before, after = report.cost_before_nanos, report.cost_after_nanos
    counts = {name: sum(row[name] for row in rows) for name in COUNTS}
    return {"provider": "Total", **counts, **_money(before, after, after - before)}


def _money(before: int, after: int, difference: int) -> dict[str, float]:
    names = ("cost_before_usd", "cost_after_usd", "difference_usd")
    return {name: nanos / NANOS_PER_USD for name, nanos in zip(names, (before, after, difference), strict=True)}


def _document(report: RepriceReport, rows: list[dict[str, Any]]) -> dict[str, Any]:
    total = _total(report, rows)
    total.pop("provider")
    counts = {name: getattr(report, name) for name in ("dry_run", "records", "pruned")}
    return counts | {"records_changed": report.changed, "total": total, "models": rows}


def _sentence(report: RepriceReport) -> str:
    did = "would change" if report.dry_run else "changed"
    sentence = f"{report.changed:,} of {report.records:,} requests {did}."
    if report.unknown:
        sentence += f" {report.unknown:,} attempts have no known price and keep theirs."
    if report.gone:
        sentence += f" {report.gone:,} attempts keep their price, since their provider is gone."
    if report.pruned:
        sentence += f" {report.pruned:,} requests keep their cost, since their records are deleted."
    return sentence
