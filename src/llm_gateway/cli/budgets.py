"""Commands `budgets …`: list, add, update and remove budgets, show what was spent, set another limit."""

from __future__ import annotations

import sys
from collections.abc import Collection
from typing import Annotated, Any

from cyclopts import App, Parameter

from llm_gateway.cli.budget_options import BudgetOptions
from llm_gateway.cli.client import HERE, Address, connect
from llm_gateway.cli.confirmation import confirm
from llm_gateway.cli.exits import USAGE, CommandFailed
from llm_gateway.cli.output import (
    Column,
    Flag,
    Json,
    dollars,
    note,
    print_json,
    print_rows,
    printable,
)
from llm_gateway.cli.service_keys import PAGE, find, pages

NO_OPTIONS = BudgetOptions()
UNITS = ("usd", "tokens", "requests")
VERIFY = (
    "verify",
    "llm_gateway.cli.verify_budgets:verify_budgets",
    "Compare what was spent of budgets with the stored usage records.",
)
"""The command that imports much of the gateway, as in `cli/commands.py`: name, function, summary."""
COLUMNS = (
    Column("name", "Name"),
    Column("limit", "Limit"),
    Column("period", "Period"),
    Column("per", "Per"),
    Column("match", "Counts"),
    Column("mode", "Mode"),
    Column("counts_from", "Counts from"),
    Column("id", "Id", on_terminal=False),
)
ACCOUNTS = (
    Column("value", "Account"),
    Column("name", "Name"),
    Column("spent", "Spent"),
    Column("limit", "Limit"),
    Column("remaining", "Left"),
    Column("spent_requests", "Requests", "count"),
    Column("spent_tokens", "Tokens", "count"),
    Column("spent_usd", "Cost", "money"),
)
Which = Annotated[str, Parameter(help="its name or id")]


def budgets_app(arguments: Collection[str] = ()) -> App:
    """Build the commands `budgets …`. The summary of `verify` stands for its docstring in the list of commands."""
    app = App(name="budgets", help="What requests may spend: list, add, update, remove, accounts, override, verify.")
    app.command(list_budgets, name="list")
    for command in (add, update, remove, accounts, override):
        app.command(command)
    name, place, summary = VERIFY
    app.command(place, name=name, help=None if name in arguments else summary)
    return app


def list_budgets(*, json: Json = False, gateway: Address = HERE) -> None:
    """List the budgets.

    ```sh
    llm-gateway budgets list
    ```
    """
    found = list(pages(connect(gateway), "budgets"))
    if json:
        print_json(found)
    else:
        print_rows(list(map(_row, found)), COLUMNS, empty="No budgets. Add one: llm-gateway budgets add core --usd 100")


def add(
    name: Annotated[str, Parameter(help="its name")],
    /,
    *,
    options: BudgetOptions = NO_OPTIONS,
    json: Json = False,
    gateway: Address = HERE,
) -> None:
    """Add a budget, in force at once. Stored requests of the period that match count, too.

    ```sh
    llm-gateway budgets add core --usd 100 --match team=core --notify-at 0.8,1
    llm-gateway budgets add customers --usd 5 --per user_id --period day --tz Europe/Berlin
    llm-gateway budgets add agents --tokens 2000000 --match "model=claude-*" --per session --mode soft
    ```
    """
    made = connect(gateway).post("/budgets", {"name": name} | options.fields())
    _tell(made, "Added", json=json)


def update(
    which: Which,
    /,
    *,
    name: Annotated[str | None, Parameter(help="a new name")] = None,
    options: BudgetOptions = NO_OPTIONS,
    json: Json = False,
    gateway: Address = HERE,
) -> None:
    """Change a budget: only what you name, in force at once. If it counts something else then, it counts anew.

    ```sh
    llm-gateway budgets update core --usd 150
    llm-gateway budgets update core --per none --mode soft
    ```
    """
    client = connect(gateway)
    changes = options.fields() | ({} if name is None else {"name": name})
    if not changes:
        raise CommandFailed("Name what to change: llm-gateway budgets update --help lists the options.", USAGE)
    changed = client.patch(f"/budgets/{find(client, 'budget', which)['id']}", changes)
    _tell(changed, "Changed", json=json)


def remove(
    which: Which,
    /,
    *,
    yes: Annotated[Flag, Parameter(name=("--yes", "-y"), help="do not ask")] = False,
    json: Json = False,
    gateway: Address = HERE,
) -> None:
    """Remove a budget, and what was counted in it; on a terminal it asks first. Usage records stay.

    ```sh
    llm-gateway budgets remove core
    llm-gateway budgets remove core --yes
    ```
    """
    client = connect(gateway)
    budget = find(client, "budget", which)
    confirm(
        f"Remove the budget {printable(budget['name'])} and what was counted in it?",
        f"{printable(budget['name'])} was left as it is.",
        yes=yes,
    )
    client.delete(f"/budgets/{budget['id']}")
    if json:
        print_json(budget)
    else:
        print(f"Removed {printable(budget['name'])}.")


def accounts(
    which: Which,
    /,
    *,
    value: Annotated[str | None, Parameter(help="only the account of this value, such as a customer")] = None,
    limit: Annotated[int, Parameter(help="maximum number of rows")] = 50,
    json: Json = False,
    gateway: Address = HERE,
) -> None:
    """Show what was spent of a budget in the current period, the accounts that spent most first.

    ```sh
    llm-gateway budgets accounts core
    llm-gateway budgets accounts customers --value alice
    ```
    """
    client = connect(gateway)
    budget = find(client, "budget", which)
    page = client.get(f"/budgets/{budget['id']}/accounts", value=value, limit=min(limit, PAGE))
    rows = page["accounts"]
    while len(rows) < limit and page["next_cursor"]:
        page = client.get(f"/budgets/{budget['id']}/accounts", value=value, limit=PAGE, cursor=page["next_cursor"])
        rows += page["accounts"]
    if json:
        print_json(page | {"accounts": rows[:limit]})
        return
    unit = page["unit"]
    shown = [row | {name: _amount(row[name], unit) for name in ("spent", "limit", "remaining")} for row in rows[:limit]]
    print_rows(shown, ACCOUNTS, empty="Nothing was spent in this period.")
    note(f"It resets {page['resets_at']}." if page["resets_at"] else "It does not reset.")


def override(
    which: Which,
    amount: Annotated[str | None, Parameter(help="the limit until then: USD, or tokens or requests")] = None,
    /,
    *,
    until: Annotated[str | None, Parameter(help="when it ends, such as 2027-01-31T12:00:00Z")] = None,
    end: Annotated[Flag, Parameter(help="end it now")] = False,
    json: Json = False,
    gateway: Address = HERE,
) -> None:
    """Give a budget another limit until a moment, or end that.

    ```sh
    llm-gateway budgets override core 150 --until 2027-01-31T12:00:00Z
    llm-gateway budgets override core --end
    ```
    """
    client = connect(gateway)
    if end == (amount is not None and until is not None) or (end and (amount or until)):
        raise CommandFailed("Give an amount and --until, or --end.", USAGE)
    budget = find(client, "budget", which)
    path, unit = f"/budgets/{budget['id']}/override", _unit(budget)
    if end:
        client.delete(path)
        changed = client.get(f"/budgets/{budget['id']}")
    else:
        changed = client.put(path, {f"amount_{unit}": _given(amount or "", unit), "until": until})
    if json:
        print_json(changed)
    elif end:
        print(f"The limit of {printable(changed['name'])} is its own again.")
    else:
        shown = changed["override"]
        print(f"The limit of {printable(changed['name'])} is {_amount(shown['amount'], unit)} until {shown['until']}.")


def _given(text: str, unit: str) -> str | int:
    if unit != "usd" and not text.isdecimal():
        raise CommandFailed(f"The budget counts {unit}: give a whole number, not {text!r}.", USAGE)
    return text if unit == "usd" else int(text)


def _tell(budget: dict[str, Any], done: str, *, json: bool) -> None:
    if json:
        print_json(budget)
        return
    print(f"{done} {printable(budget['name'])}.")
    for warning in budget["warnings"]:
        print(f"Warning: {printable(warning)}", file=sys.stderr)


def _unit(budget: dict[str, Any]) -> str:
    return next(unit for unit in UNITS if budget[f"limit_{unit}"] is not None)


def _amount(amount: float, unit: str) -> str:
    return dollars(amount) if unit == "usd" else f"{amount:,.0f} {unit}"


def _row(budget: dict[str, Any]) -> dict[str, Any]:
    unit = _unit(budget)
    counted = ", ".join(f"{name}={glob}" for name, glob in budget["match"].items())
    return budget | {"limit": _amount(budget[f"limit_{unit}"], unit), "match": counted or "all"}
