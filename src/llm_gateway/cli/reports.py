"""Commands `usage requests` and `usage request`, and reports by any dimension and period for `usage --by`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, make_dataclass
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Group, Parameter
from cyclopts.validators import Number

from llm_gateway.cli.client import HERE, Address, connect
from llm_gateway.cli.exits import USAGE, CommandFailed
from llm_gateway.cli.output import Column, Flag, Json, note, print_fields, print_json, print_rows
from llm_gateway.domain.report_dimensions import DIMENSIONS

NAMES = tuple(each.name for each in DIMENSIONS)
TAG_PREFIX = "tag:"
MOST_ROWS = 10_000

FIGURES = (
    Column("requests", "Requests", "count"),
    Column("cached_requests", "Cached", "count", on_terminal=False),
    Column("error_requests", "Errors", "count", on_terminal=False),
    Column("exact_requests", "Cost exact", "count", on_terminal=False),
    Column("estimated_requests", "Cost estimated", "count", on_terminal=False),
    Column("unpriced_requests", "No price", "count"),
    Column("total_tokens", "Tokens", "count"),
    Column("cost_usd", "Cost", "money"),
    Column("saved_cost_usd", "Saved", "money", on_terminal=False),
    Column("previous_cost_usd", "Before", "money"),
    Column("cost_change", "Change", "share"),
)
REQUESTS = (
    Column("at", "Time"),
    Column("id", "Id"),
    Column("user_id", "Customer"),
    Column("service", "Service", on_terminal=False),
    Column("key", "Key", on_terminal=False),
    Column("model", "Model"),
    Column("provider", "Provider"),
    Column("outcome", "Outcome"),
    Column("error_code", "Error", on_terminal=False),
    Column("latency_ms", "Latency (ms)", "count"),
    Column("cost_usd", "Cost", "money"),
)
REQUEST = (
    *(Column(name, title) for name, title in (("id", "Id"), ("client_request_id", "Client's id"), ("at", "Time"))),
    *(Column(name, name.replace("_", " ").capitalize()) for name in ("key", "team", "user_id", "service", "task_type")),
    *(Column(name, name.capitalize()) for name in ("session", "agent", "tags", "surface")),
    Column("stream", "Stream", "flag"),
    Column("requested_model", "Requested model"),
    Column("route", "Route"),
    *(Column(name, name.replace("_", " ").capitalize()) for name in ("outcome", "status", "error_code")),
    Column("refused_by", "Refused by budget"),
    *(Column(name, name.capitalize()) for name in ("cache", "provider", "model")),
    Column("tokens", "Tokens"),
    Column("cost_usd", "Cost", "money"),
    Column("cost_status", "Cost is"),
    Column("queued_ms", "Waited (ms)", "count"),
    Column("first_token_ms", "First token (ms)", "count"),
    Column("latency_ms", "Latency (ms)", "count"),
)
ATTEMPTS = (
    Column("provider", "Provider"),
    Column("model", "Model"),
    Column("why", "Why", missing="first choice"),
    Column("status", "Status"),
    Column("error", "Error"),
    Column("finish_reason", "Finish", on_terminal=False),
    Column("latency_ms", "Latency (ms)", "count"),
    Column("cost_usd", "Cost", "money"),
)
PRICES = (
    Column("provider", "Provider"),
    Column("model", "Model"),
    Column("source", "Price from"),
    Column("input", "Input", "money"),
    Column("output", "Output", "money"),
    Column("in_force_since", "In force since"),
    Column("unpriced_requests", "No price", "count"),
)


@Parameter(name="*", group=Group("Period", sort_key=7))
@dataclass(frozen=True)
class Calendar:
    """The options that name a period of the calendar."""

    start: Annotated[
        str | None, Parameter(name="--from", help="first day, or date and time: 2026-06-01, 2026-06-01T12:00")
    ] = None
    end: Annotated[str | None, Parameter(name="--to", help="the end, no part of the period: 2026-07-01 for June")] = (
        None
    )
    tz: Annotated[str | None, Parameter(name="--tz", help="time zone, such as Europe/Berlin [default: UTC]")] = None

    def query(self) -> dict[str, Any]:
        """Return the given options as query parameters."""
        return {"from": self.start, "to": self.end, "tz": self.tz}


ALL_TIME = Calendar()


if TYPE_CHECKING:

    @dataclass(frozen=True)
    class DimensionFilters:
        """The options that filter by a dimension."""

else:
    DimensionFilters = make_dataclass(
        "DimensionFilters",
        [(each.flag, Annotated[str | None, Parameter(help=each.about or None)], None) for each in DIMENSIONS],
        frozen=True,
    )


@Parameter(name="*", group=Group("Filters", sort_key=8))
@dataclass(frozen=True)
class Filters(DimensionFilters):
    """The options that requests must match, all of them."""

    tag: Annotated[str | None, Parameter(help="a tag's name, or name=value")] = None
    outcome: Annotated[str | None, Parameter(help="ok, cached, failed, rate_limited, cancelled, …")] = None
    error_code: str | None = None
    min_cost_usd: float | None = None
    min_latency_ms: int | None = None

    def query(self) -> dict[str, Any]:
        """Return the given options as query parameters."""
        names = {each.flag: each.filter for each in DIMENSIONS}
        return {names.get(name, name): value for name, value in asdict(self).items()}


EVERY_REQUEST = Filters()


def requests(
    *,
    period: Calendar = ALL_TIME,
    filters: Filters = EVERY_REQUEST,
    limit: Annotated[int, Parameter(validator=Number(gte=1, lte=500), help="maximum number of rows")] = 20,
    json: Json = False,
    gateway: Address = HERE,
) -> None:
    """List requests, newest first.

    ```sh
    llm-gateway usage requests --customer alice --outcome failed
    llm-gateway usage requests --from 2026-06-01 --min-cost-usd 0.5 --json
    ```
    """
    page = connect(gateway).get("/usage/records", **period.query(), **filters.query(), limit=limit)
    if json:
        print_json(page)
        return
    print_rows(page["records"], REQUESTS, empty="No such requests.")
    if page["scanned_until"]:
        note(f"The search ended at {page['scanned_until']}: add --to {page['scanned_until']} to go on from there.")
    elif page["next_cursor"]:
        note(f"The list ends at --limit {limit}; there are more requests: raise it, up to 500, or narrow the search.")


def request(
    request_id: Annotated[
        str, Parameter(help="the gateway's id of the request, or the x-request-id that it came with")
    ],
    /,
    *,
    json: Json = False,
    gateway: Address = HERE,
) -> None:
    """Show what happened to one request.

    ```sh
    llm-gateway usage request 01a20753-76cb-7c40-83f8-a69918c1495b
    ```
    """
    from urllib.parse import quote  # noqa: PLC0415 - only this command needs it

    record = connect(gateway).get(f"/usage/records/{quote(request_id, safe='')}")
    if json:
        print_json(record)
        return
    budget = record["refused_by"] or {}
    print_fields(record | {"refused_by": budget.get("name") or budget.get("budget_id")}, REQUEST)
    print()
    print_rows(record["attempts"], ATTEMPTS, empty="No provider was called.")


def prices(*, json: Json = False, gateway: Address = HERE) -> None:
    """List the price of each model in USD per million tokens, and how many requests of 30 days had none.

    ```sh
    llm-gateway usage prices
    ```
    """
    found = connect(gateway).get("/prices")
    if json:
        print_json(found)
        return
    unpriced = {(each["provider"], each["model"]): each["unpriced_requests"] for each in found["unpriced"]}
    rows = [
        {**each, **_first_tiers(each["price"]), "unpriced_requests": unpriced.pop((each["provider"], each["model"]), 0)}
        for each in found["prices"]
    ]
    gone = {"source": "none", "input": None, "output": None, "in_force_since": None}
    rows += [
        {"provider": provider, "model": model, **gone, "unpriced_requests": number}
        for (provider, model), number in unpriced.items()
    ]
    print_rows(rows, PRICES, empty="No models.")


def _first_tiers(price: dict[str, Any] | None) -> dict[str, Any]:
    """Return the prices of input and output; of one with tiers, that of the smallest inputs."""
    kinds = {name: (price or {}).get(name) for name in ("input", "output")}
    return {name: each[0]["usd_per_million"] if isinstance(each, list) else each for name, each in kinds.items()}


def breakdown(by: str, query: dict[str, Any], *, as_json: bool, as_csv: bool, gateway: Address) -> None:
    """Print a breakdown by one or two dimensions.

    Raises:
        CommandFailed: a dimension does not exist.
    """
    names = by.split(",")
    if unknown := [name for name in names if name not in NAMES and not name.startswith(TAG_PREFIX)]:
        raise CommandFailed(
            f"--by takes {', '.join(NAMES)} or {TAG_PREFIX}NAME, or two of them with a comma, not {unknown[0]!r}.",
            USAGE,
        )
    client = connect(gateway)
    if as_csv:
        print(client.get_text("/usage/breakdown", group_by=by, format="csv", **query), end="")
        return
    found = client.get("/usage/breakdown", group_by=by, **query)
    if as_json:
        print_json(found)
        return
    columns = (*(Column(f"group.{name}", name.capitalize()) for name in names), *FIGURES)
    rows = [
        {f"group.{name}": text for name, text in (row["group"] | row["names"]).items()} | row for row in found["rows"]
    ]
    total = {f"group.{names[0]}": "Total", **found["totals"]}
    print_rows(rows, columns, total=total, empty=f"No requests from {found['from']} to {found['to']}.")


CsvFlag = Annotated[Flag, Parameter(help="print CSV, the API's own")]
