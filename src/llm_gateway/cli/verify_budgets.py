"""Command `budgets verify`: compare what was spent of budgets with the stored usage records."""

from __future__ import annotations

import time
from typing import Any

from llm_gateway import wall_clock
from llm_gateway.cli.database import current_database
from llm_gateway.cli.env_files import EnvFiles
from llm_gateway.cli.exits import FAILED, CommandFailed
from llm_gateway.cli.output import Column, Json, is_terminal, print_json, print_rows
from llm_gateway.domain.usage import NANOS_PER_USD
from llm_gateway.settings_reader import load_settings
from llm_gateway.store.budget_verification import Verified, verify

COLUMNS = (
    Column("budget", "Budget"),
    Column("value", "Account"),
    Column("period_start", "Period since"),
    Column("spent_usd", "Spent", "money"),
    Column("drift_usd", "Drift", "money", "not compared"),
    Column("drift_tokens", "Tokens", "count"),
    Column("drift_requests", "Requests", "count"),
)


def verify_budgets(*, env_file: EnvFiles = None, json: Json = False) -> None:
    """Compare what was spent of budgets with the stored usage records.

    It works on the settings' database, while a gateway can keep running, and lists each account and period. The exit
    code is 1 if one of them differs from its records. Periods whose records are deleted already are not compared.

    ```sh
    llm-gateway budgets verify
    llm-gateway budgets verify --json
    ```
    """
    settings = load_settings(env_files=env_file)
    with current_database(settings) as database:
        found = verify(database, wall_clock.now_ms(), settings.usage_retention_days)
    rows = list(map(_row, found))
    if json:
        print_json(rows)
    else:
        print_rows(rows, COLUMNS, empty="No account of a budget has spent anything.")
    wrong = sum(each.is_wrong for each in found)
    if wrong:
        raise CommandFailed(
            f"{wrong} of {len(found)} accounts differ from their usage records: see docs/RUNBOOK.md, Budgets.", FAILED
        )
    if is_terminal() and found:
        compared = sum(each.drift is not None for each in found)
        print(f"{compared} of {len(found)} accounts were compared: drift 0.")


def _row(found: Verified) -> dict[str, Any]:
    drift = found.drift
    start = time.gmtime(found.account.period_start_ms // 1000)
    return {
        "budget": found.budget.budget.name,
        "value": found.account.value,
        "period_start": time.strftime("%Y-%m-%dT%H:%M:%SZ", start),
        "spent_usd": found.spent.nanos / NANOS_PER_USD,
        "drift_usd": None if drift is None else drift.nanos / NANOS_PER_USD,
        "drift_tokens": None if drift is None else drift.tokens,
        "drift_requests": None if drift is None else drift.requests,
    }
