"""Commands `usage …`: report requests, tokens and cost, in total and by one or two dimensions."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeAlias

from cyclopts import App, Parameter
from cyclopts.validators import Number

from llm_gateway.cli.client import HERE, Address, connect
from llm_gateway.cli.erasure import erase
from llm_gateway.cli.exits import USAGE, CommandFailed
from llm_gateway.cli.output import Column, Json, note, print_fields, print_json, print_rows
from llm_gateway.cli.reports import ALL_TIME, MOST_ROWS, NAMES, Calendar, CsvFlag, breakdown, prices, request, requests

DEFAULT_DAYS = 30
Days = Annotated[
    int | None,
    Parameter(
        validator=Number(gte=1, lte=365),
        help="length of the period: the last days × 24 hours, starting at a full hour; with other dimensions than "
        "provider, service and customer the last days of the calendar (UTC), by session, tag:NAME and customer with "
        f"another one at most 7 [default: {DEFAULT_DAYS}, or 7 where that is the most]",
    ),
]
if TYPE_CHECKING:
    By: TypeAlias = str
else:
    By = Literal[NAMES]
OfLastDays: TypeAlias = Literal["provider", "service", "customer"]
"""Dimensions that have a report of the last days × 24 hours."""
DEFAULT_LIMIT = 50
LOCAL_COMMANDS = (
    (
        "replay",
        "llm_gateway.cli.replay:replay",
        "Move usage records that stopped gateways left in the journal to the database.",
    ),
    ("quarantined", "llm_gateway.cli.quarantine:quarantined", "List the usage records that the database refused."),
    (
        "reimport",
        "llm_gateway.cli.quarantine:reimport",
        "Offer the usage records that the database refused to it again.",
    ),
)
"""Commands that import much of the gateway, as in `cli/commands.py`: name, function, summary."""

REQUESTS = Column("request_count", "Requests", "count")
TOKENS = Column("total_tokens", "Tokens", "count")
COST = Column("total_cost_usd", "Cost", "money")
COLUMNS: dict[OfLastDays, tuple[Column, ...]] = {
    "provider": (
        Column("provider_name", "Provider"),
        REQUESTS,
        TOKENS,
        Column("avg_latency_ms", "Latency (ms)", "count"),
        COST,
    ),
    "service": (Column("service_name", "Service"), REQUESTS, TOKENS, COST),
    "customer": (Column("user_id", "Customer"), REQUESTS, COST),
}
SUMMARY = (
    Column("period_days", "Days", "count"),
    Column("total_requests", "Requests", "count"),
    Column("total_cost_usd", "Cost", "money"),
    Column("total_tokens", "Tokens", "count"),
    Column("cached_requests", "Cached", "count"),
    Column("cache_hit_rate", "Hit rate", "share"),
    Column("error_requests", "Errors", "count"),
    Column("exact", "Cost exact", "count"),
    Column("estimated", "Cost estimated", "count"),
    Column("unpriced", "No price", "count"),
)


def usage_app(arguments: Collection[str] = ()) -> App:
    """Build the commands `usage …`. The summary of a local command stands for its docstring in the list of commands."""
    app = App(name="usage")
    app.default(report)
    app.command(summary)
    app.command(requests)
    app.command(request)
    app.command(prices)
    app.command(erase)
    for name, place, help_text in LOCAL_COMMANDS:
        app.command(place, name=name, help=None if name in arguments else help_text)
    return app


def report(
    *,
    by: Annotated[
        By | str | None, Parameter(help="a line for each of them, the most expensive first; two with a comma; tag:NAME")
    ] = None,
    days: Days = None,
    period: Calendar = ALL_TIME,
    limit: Annotated[
        int | None,
        Parameter(
            validator=Number(gte=1, lte=500),
            help=f"with --by: maximum number of rows [default: {DEFAULT_LIMIT} customers, all of others]",
        ),
    ] = None,
    csv: CsvFlag = False,
    json: Json = False,
    gateway: Address = HERE,
) -> None:
    """Report requests, tokens and cost: a summary, or a line for each customer, model, key, ….

    ```sh
    llm-gateway usage
    llm-gateway usage --by customer --days 7 --limit 10
    llm-gateway usage --by model,key --from 2026-06-01 --to 2026-07-01 --tz Europe/Berlin --csv
    ```
    """
    is_of_calendar = csv or period != ALL_TIME
    if days is not None and (period.start or period.end):
        raise CommandFailed("--days and --from or --to name two periods: give one of them.", USAGE)
    if by is None and not is_of_calendar:
        if limit is not None:
            raise CommandFailed("--limit works only with --by: a summary has no rows.", USAGE)
        summary(days=days, json=json, gateway=gateway)
    elif by in COLUMNS and not is_of_calendar:
        _of_last_days(by, days or DEFAULT_DAYS, limit, as_json=json, gateway=gateway)
    else:
        query = period.query() | {"limit": limit or MOST_ROWS}
        if days is not None:  # without, the gateway takes its default, by its clock
            query["from"] = str(datetime.now(UTC).date() - timedelta(days=days - 1))
        breakdown(by or "model", query, as_json=json, as_csv=csv, gateway=gateway)


def _of_last_days(by: OfLastDays, days: int, limit: int | None, *, as_json: bool, gateway: Address) -> None:
    if limit is not None and by != "customer":
        raise CommandFailed(
            f"--limit works with --by customer; with --by {by} only for a period of the calendar (--from): leave it "
            "out, since this report lists every row.",
            USAGE,
        )
    rows = connect(gateway).get(f"/usage/by-{by}", days=days, limit=limit)
    if as_json:
        print_json(rows)
        return
    print_rows(rows, COLUMNS[by], total=_total(rows, COLUMNS[by]), empty=f"No requests in {days} days.")
    if by == "customer" and len(rows) == (limit or DEFAULT_LIMIT):
        note(f"The list ends at --limit {len(rows)}; there may be more customers: raise it, up to 500.")


def summary(*, days: Days = None, json: Json = False, gateway: Address = HERE) -> None:
    """Sum usage up.

    ```sh
    llm-gateway usage summary --days 7
    ```
    """
    totals = connect(gateway).get("/usage/summary", days=days or DEFAULT_DAYS)
    if json:
        print_json(totals)
        return
    counts = totals.pop("cost_status_counts")
    print_fields(totals | counts, SUMMARY)
    if counts["unpriced"]:
        note(
            "Requests without a price cost 0 here: give their models a price with `llm-gateway providers update NAME "
            "--price MODEL=IN,OUT`, then `llm-gateway reprice`."
        )


def _total(rows: list[dict[str, Any]], columns: tuple[Column, ...]) -> dict[str, Any]:
    """Return the totals of the columns that can be summed. Cost is summed in whole nano-dollars, which is exact."""
    summed = {"request_count": 0, "total_tokens": 0}
    for name in summed:
        summed[name] = sum(row.get(name, 0) for row in rows)
    nanos = sum(round(row["total_cost_usd"] * 1e9) for row in rows)
    return {columns[0].field: "Total", **summed, "total_cost_usd": nanos / 1e9}
