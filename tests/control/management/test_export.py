"""An export has every request, or every charge, and its costs add up to the report."""

from __future__ import annotations

import asyncio
import csv
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path

import pytest

from llm_gateway.control.management.export import FOCUS, export_router
from llm_gateway.domain.usage import Usage, UsageRecord
from llm_gateway.store.record_search import EXPORT_ROWS, RecordSearch
from llm_gateway.store.usage import UsageStore
from tests.application.driver import Client, assert_problem
from tests.control.management.reports_api import NO_TEAMS, client_of, copied
from tests.rows import each_row
from tests.store.histories import NOW_MS, attempt, close, record

VALIDATOR = shutil.which("focus-validator")
NEEDED = "focus-validator 2 needs Python 3.12: install it in an environment of its own whose programs are on the PATH"
CONTRADICTED = {"InvoiceId-C-005-C"}
"""Rule that wants the opposite of InvoiceId-C-004-C; of both, which a third rule joins by "or", a file can keep one."""

PATH = "/api/v1/usage/export?from=2024-10-01&to=2024-10-06"


def made(number: int) -> UsageRecord:
    bought = [
        attempt(NOW_MS, f"p{which}", usage=Usage(input_tokens=1), cost_nanos=number * 1_000_003 + which)
        for which in range(number % 3)
    ]
    each = record(NOW_MS + number, user_id="@sum", attempts=bought, tags={"a": 'quote",'}, outcome="ok")
    close(each)
    return each


HISTORY = [made(number) for number in range(EXPORT_ROWS + 7)]


@pytest.fixture(scope="module")
def api(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with copied(migrated, tmp_path_factory.mktemp("export")) as database:
        UsageStore(database).write(HISTORY)
        yield client_of([export_router(RecordSearch(database), lambda: NOW_MS, NO_TEAMS)])


async def lines_of(api: Client, path: str) -> list[dict[str, str]]:
    response = await api.call("GET", path)
    assert (response.status, response.headers["content-type"]) == (200, "text/csv; charset=utf-8")
    return list(csv.DictReader(response.body.decode().splitlines()))


async def test_requests_and_charges_add_up_to_the_nano_dollar(api: Client) -> None:
    total = Decimal(sum(each.cost_nanos for each in HISTORY)).scaleb(-9)
    requests = await lines_of(api, PATH)
    assert [line["id"] for line in requests] == [each.id for each in HISTORY]
    assert sum(Decimal(line["cost_usd"]) for line in requests) == total
    assert {line["user_id"] for line in requests} == {"'@sum"}
    assert {line["tags"] for line in requests} == {'{"a": "quote\\","}'}
    charges = await lines_of(api, f"{PATH}&format=focus")
    assert len(charges) == sum(len(each.attempts) for each in HISTORY)
    for name in ("BilledCost", "EffectiveCost", "ListCost", "ContractedCost"):
        assert sum(Decimal(line[name]) for line in charges) == total
    assert list(charges[0]) == list(FOCUS)
    assert {line["PricingQuantity"] for line in charges} == {"1.0"}, "FOCUS takes decimals for quantities"
    assert (charges[0]["BillingPeriodStart"], charges[0]["BillingPeriodEnd"]) == (
        "2024-10-01T00:00:00Z", "2024-11-01T00:00:00Z",
    )  # fmt: skip


def _output(command: Sequence[str | Path], folder: Path) -> str:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(VALIDATOR is None, reason=NEEDED)
async def test_charges_keep_the_rules_of_focus(api: Client, tmp_path: Path) -> None:
    file = tmp_path / "usage.csv"
    file.write_bytes((await api.call("GET", f"{PATH}&format=focus")).body)
    currencies = tmp_path / "focus_validator" / "rules" / "currency_codes.csv"  # the program looks for it there
    currencies.parent.mkdir(parents=True)
    currencies.write_text("currency_codes\nUSD\n")
    options: list[str | Path] = [
        "--data-file",
        file,
        "--validate-version",
        "1.2.0.1",
        "--block-download",
        "--focus-dataset",
        "CostAndUsage",
    ]
    said = await asyncio.to_thread(_output, [str(VALIDATOR), *options], tmp_path)
    assert re.search(r"Pass: (\d{3})", said), said
    assert set(re.findall(r"(\S+): FAIL", said)) <= CONTRADICTED


@each_row(("query", "words"), [("format=xml", "'focus'"), ("tz=x", "IANA"), ("to=2024-01-01", "before to")])
async def test_bad_parameters_are_refused(api: Client, query: str, words: str) -> None:
    path = f"/api/v1/usage/export?from=2024-10-01&{query}"
    assert words in assert_problem(await api.call("GET", path), 422, "validation_error")["detail"]
