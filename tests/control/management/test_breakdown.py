"""Breakdown and series over the API: rows, totals, change, pages, CSV, and bad parameters."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from llm_gateway.control.management.breakdown import breakdown_router, series_router
from llm_gateway.control.management.report_schemas import money
from llm_gateway.domain.usage import Usage, UsageRecord
from llm_gateway.store.teams import TeamStore
from llm_gateway.store.usage import UsageStore
from llm_gateway.store.usage_reports import UsageReports
from tests.application.driver import Client, assert_problem
from tests.control.management.reports_api import NO_TEAMS, client_of, copied
from tests.rows import each_row
from tests.store.histories import DAY_MS, NOW_MS, attempt, close, record

BREAKDOWN, SERIES = "/api/v1/usage/breakdown", "/api/v1/usage/series"
JANUARY_15_MS = 1_705_312_800_000
LAST_WEEK = "from=2024-09-28&to=2024-10-05"
"""The week that ends with NOW_MS's day, 2024-10-04."""


@pytest.fixture(scope="module")
def api(migrated: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    with copied(migrated, tmp_path_factory.mktemp("breakdown")) as database:
        UsageStore(database).write(history(TeamStore(database).create("core").id))
        UsageStore(database).write([record(JANUARY_15_MS, outcome="cached", saved_cost_nanos=each) for each in (7, 8)])
        reports = UsageReports(database)
        yield client_of([router(reports, lambda: NOW_MS, NO_TEAMS) for router in (breakdown_router, series_router)])


def history(team_id: str) -> list[UsageRecord]:
    """Return the records of ten days, four a day; a third of them are the team's."""
    made = []
    for number in range(40):
        bought = Usage(input_tokens=10, output_tokens=5)
        one = attempt(NOW_MS, "acme", model=f"m{number % 4}", usage=bought, cost_nanos=1 + number % 4, price=None)
        one_record = record(
            NOW_MS - number * DAY_MS // 4, user_id=("=1+1", "bob")[number % 2], attempts=[one], outcome="ok",
            latency_ms=100, team_id=None if number % 3 else team_id, tags={"project": "apollo"} if number < 2 else {},
        )  # fmt: skip
        close(one_record)
        made.append(one_record)
    return made


async def test_rows_add_up_to_the_totals_and_show_the_change(api: Client) -> None:
    found: Any = {}
    for group_by in ("model", "model,key", "customer", "customer,model", "session", "tag:project", "provider,agent"):
        found = (await api.call("GET", f"{BREAKDOWN}?{LAST_WEEK}&group_by={group_by}")).json
        for name in ("requests", "total_tokens", "previous_requests", "exact_requests"):
            assert sum(row[name] for row in found["rows"]) == found["totals"][name], (group_by, name)
        nanos = [round(row["cost_usd"] * 1e9) for row in found["rows"]]
        assert sum(nanos) == round(found["totals"]["cost_usd"] * 1e9)
        assert nanos == sorted(nanos, reverse=True)
        assert [list(row["group"]) for row in found["rows"]] == [group_by.split(",")] * len(found["rows"])
    assert (found["from"], found["to"], found["previous_from"]) == (
        "2024-09-28T00:00:00+00:00", "2024-10-05T00:00:00+00:00", "2024-09-21T00:00:00+00:00",
    )  # fmt: skip
    totals = found["totals"]
    change = (totals["cost_usd"] - totals["previous_cost_usd"]) / totals["previous_cost_usd"]
    assert totals["cost_change"] == pytest.approx(change)


async def test_what_the_cache_saved_is_a_figure_and_a_metric(api: Client) -> None:
    """Summed from the cube, from the customers' sums and from records: each must have it."""
    day = "from=2024-01-15&to=2024-01-16"
    for group_by in ("model", "customer", "session", "service,model"):
        found = (await api.call("GET", f"{BREAKDOWN}?{day}&group_by={group_by}")).json
        assert found["totals"]["saved_cost_usd"] == 1.5e-8, group_by
        assert (found["totals"]["cached_requests"], found["totals"]["cost_usd"]) == (2, 0)
    [line] = csv.DictReader((await api.call("GET", f"{BREAKDOWN}?{day}&format=csv")).body.decode().splitlines())
    assert line["saved_cost_usd"] == "0.000000015"
    series = (await api.call("GET", f"{SERIES}?{day}&metric=saved_cost_usd&group_by=model")).json
    assert (series["total"], [each["values"] for each in series["series"]]) == (1.5e-8, [[1.5e-8]])


async def test_a_report_without_a_period_is_of_as_many_days_as_it_can_have(api: Client) -> None:
    for query, days in (
        (f"{BREAKDOWN}?", 30),
        (f"{BREAKDOWN}?group_by=customer", 30),
        (f"{BREAKDOWN}?group_by=session", 7),
        (f"{BREAKDOWN}?group_by=tag:env", 7),
        (f"{BREAKDOWN}?group_by=customer,model", 7),
        (f"{BREAKDOWN}?user_id=u-1", 7),
        (f"{SERIES}?", 30),
        (f"{SERIES}?group_by=session", 7),
    ):
        found = (await api.call("GET", query)).json
        assert datetime.fromisoformat(found["to"]) - datetime.fromisoformat(found["from"]) == timedelta(days=days), (
            query
        )


async def test_a_team_is_named_beside_its_id(api: Client) -> None:
    path = f"{BREAKDOWN}?{LAST_WEEK}&group_by=team,model"
    rows = (await api.call("GET", path)).json["rows"]
    [team_id] = {row["group"]["team"] for row in rows} - {""}
    assert {row["group"]["team"]: row["names"] for row in rows} == {"": {}, team_id: {"team": "core"}}
    lines = list(csv.DictReader((await api.call("GET", f"{path}&format=csv")).body.decode().splitlines()))
    assert {(line["team"], line["team_name"]) for line in lines} == {("", ""), (team_id, "core")}
    series = (await api.call("GET", f"{SERIES}?{LAST_WEEK}&group_by=team")).json["series"]
    assert {(line["name"], line["label"]) for line in series} == {("", None), (team_id, "core")}


async def test_pages_and_csv_have_the_same_rows(api: Client) -> None:
    path = f"{BREAKDOWN}?{LAST_WEEK}&group_by=customer,model"
    whole = (await api.call("GET", path)).json
    rows, page = [], (await api.call("GET", f"{path}&limit=3")).json
    while page["next_cursor"]:
        rows += page["rows"]
        page = (await api.call("GET", f"{path}&limit=3&cursor={page['next_cursor']}")).json
    assert rows + page["rows"] == whole["rows"]
    response = await api.call("GET", f"{path}&format=csv")
    assert response.headers["content-type"].startswith("text/csv")
    lines = list(csv.DictReader(response.body.decode().splitlines()))
    assert [line["model"] for line in lines] == [row["group"]["model"] for row in whole["rows"]]
    assert {line["customer"] for line in lines} == {"'=1+1", "bob"}
    assert sum(Decimal(line["cost_usd"]) for line in lines) == Decimal(str(whole["totals"]["cost_usd"]))
    cut = await api.call("GET", f"{path}&format=csv&limit=1")
    assert len(cut.body.splitlines()) == 2
    assert (await api.call("GET", f"{path}&cursor={cut.headers['x-next-cursor']}")).json["rows"] == whole["rows"][1:]


async def test_filters_narrow_a_breakdown(api: Client) -> None:
    for query, count in (("user_id=bob", 13), ("model=m1", 7), ("model=m1&user_id=bob", 7), ("key=none", 0)):
        found = (await api.call("GET", f"{BREAKDOWN}?{LAST_WEEK}&{query}")).json
        assert found["totals"]["requests"] == count, query


async def test_a_series_adds_up_to_the_breakdown(api: Client) -> None:
    found: Any = {}
    totals = (await api.call("GET", f"{BREAKDOWN}?{LAST_WEEK}&tz=Asia/Kolkata")).json["totals"]
    for metric in ("cost_usd", "requests", "total_tokens"):
        for group_by in ("", "&group_by=model", "&group_by=customer", "&group_by=model&limit=2"):
            for bucket in ("hour", "day", "month"):
                query = f"{LAST_WEEK}&metric={metric}{group_by}&bucket={bucket}&tz=Asia/Kolkata"
                found = (await api.call("GET", f"{SERIES}?{query}")).json
                assert found["total"] == pytest.approx(totals[metric], abs=1e-12)
                assert sum(sum(line["values"]) for line in found["series"]) == pytest.approx(totals[metric], abs=1e-12)
                assert {len(line["values"]) for line in found["series"]} == {len(found["buckets"])}
    assert found["buckets"] == ["2024-09-28T00:00:00+05:30", "2024-10-01T00:00:00+05:30"]
    assert [line["name"] for line in found["series"]][2:] == [None]


async def test_a_group_with_requests_has_a_line_even_if_its_metric_is_nothing(api: Client) -> None:
    for bucket in ("hour", "day", "month"):
        for query, names in (
            ("metric=saved_cost_usd&group_by=model", ["m0", "m1", "m2", "m3"]),
            ("metric=error_requests&group_by=customer", ["=1+1", "bob"]),
            ("metric=cached_requests", [None]),
            ("metric=error_requests&user_id=nobody", []),
        ):
            found = (await api.call("GET", f"{SERIES}?{LAST_WEEK}&tz=Asia/Kolkata&bucket={bucket}&{query}")).json
            lines = [(line["name"], line["total"], set(line["values"])) for line in found["series"]]
            assert lines == [(name, 0, {0}) for name in names], (bucket, query)


@each_row(
    ("query", "name", "words"),
    [
        ("group_by=modle", "group_by", "model, provider, key"), ("group_by=", "group_by", "tag:NAME"),
        ("group_by=model,model", "group_by", "two different"), ("group_by=model,key,team", "group_by", "not 3"),
        ("group_by=tag:", "group_by", "tag:NAME"), ("group_by=tag:a%22b", "group_by", "tag:NAME"),
        ("tz=Nowhere/City", "tz", "Europe/Berlin"), ("from=2026-01-02&to=2026-01-02", "from", "before to"),
        ("group_by=session&from=1990-01-01", "group_by", "7 days"),
        ("format=xml", "format", "'csv'"), ("limit=0", "limit", "1"),
        ("cursor=abc", "cursor", "leave it out"), ("from=2024-10-01T00:00:00+02:00", "from", "%2B"),
        ("from=1970-01-01&to=1970-01-02", "to", "1970"),
    ],
)  # fmt: skip
async def test_bad_parameters_get_one_sentence_with_what_is_allowed(
    api: Client, query: str, name: str, words: str
) -> None:
    problem = assert_problem(await api.call("GET", f"{BREAKDOWN}?{query}"), 422, "validation_error")
    assert [error["loc"] for error in problem["errors"]] == [["query", name]]
    assert words in problem["detail"]


async def test_bad_parameters_of_a_series_are_refused(api: Client) -> None:
    for query, words in (
        ("metric=money", "'cost_usd'"),
        ("group_by=model,key", "one dimension"),
        ("bucket=week", "'month'"),
        ("bucket=hour&from=2020-01-01", "1000 parts"),
    ):
        problem = assert_problem(await api.call("GET", f"{SERIES}?{query}"), 422, "validation_error")
        assert words in problem["detail"]


async def test_a_cursor_of_another_breakdown_is_refused(api: Client) -> None:
    cursor = (await api.call("GET", f"{BREAKDOWN}?{LAST_WEEK}&limit=1")).json["next_cursor"]
    problem = assert_problem(await api.call("GET", f"{BREAKDOWN}?cursor={cursor}"), 422, "validation_error")
    assert "other parameters" in problem["detail"]


def test_money_is_an_exact_decimal() -> None:
    assert [money(nanos) for nanos in (0, 1, -1, 10**9, 1_234_567_890)] == [
        "0.000000000", "0.000000001", "-0.000000001", "1.000000000", "1.234567890",
    ]  # fmt: skip
