"""A dimension of the reports is one row of a table, which store, API, CSV, command line and dashboard follow."""

from __future__ import annotations

import json
import subprocess
import sys

from llm_gateway.store.report_dimensions import REPORT_DIMENSIONS
from llm_gateway.store.tables import usage_records

WITH_ONE_MORE = """
import json
from llm_gateway.domain import report_dimensions

more = report_dimensions.Dimension("surface", "API", ("surface",), "records", option="api", about="path of the API")
report_dimensions.DIMENSIONS += (more,)

from llm_gateway.cli.reports import NAMES, Filters
from llm_gateway.control.management.export import ExportQuery
from llm_gateway.control.management.latency import LatencyQuery
from llm_gateway.control.management.record_schemas import RecordQuery
from llm_gateway.control.management.records import _values
from llm_gateway.control.management.report_schemas import GROUP_BY, BreakdownQuery, SeriesQuery
from llm_gateway.dashboard.screens import requests, spend
from llm_gateway.store.report_dimensions import DIMENSION_BY_NAME

print(json.dumps({
    "text": str(DIMENSION_BY_NAME["surface"].text),
    "reports": [query(surface="chat").filters() for query in (BreakdownQuery, SeriesQuery, ExportQuery, LatencyQuery)],
    "about": BreakdownQuery.model_json_schema()["properties"]["surface"]["description"],
    "group_by": "surface" in GROUP_BY,
    "records": _values(RecordQuery(surface="chat")),
    "command": "surface" in NAMES,
    "options": Filters(api="chat").query()["surface"],
    "spend": ["surface", "API"] in [list(each) for each in spend.DIMENSIONS],
    "spend_filter": spend.PARAMETERS["surface"],
    "charted": "surface" in spend.CHARTED,
    "requests": ["surface", "API"] in [list(each) for each in requests.FILTERS],
}))
"""


def test_a_row_more_in_the_table_is_all_that_a_dimension_needs() -> None:
    ran = subprocess.run([sys.executable, "-c", WITH_ONE_MORE], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout) == {
        "text": "usage_records.surface",
        "reports": [{"surface": "chat"}] * 4,
        "about": "path of the API",
        "group_by": True,
        "records": {"surface": "chat"},
        "command": True,
        "options": "chat",
        "spend": True,
        "spend_filter": "surface",
        "charted": False,
        "requests": True,
    }


def test_texts_are_columns_or_the_first_of_several_that_is_not_null() -> None:
    texts = {each.name: str(each.text.compile(compile_kwargs={"literal_binds": True})) for each in REPORT_DIMENSIONS}
    assert texts["service"] == "usage_records.service"
    assert texts["key"] == "coalesce(usage_records.key_id, usage_records.key_name)"
    assert texts["team"] == "coalesce(usage_records.team_id, '')"
    assert {
        column for column in ("user_id", "service", "task_type", "key_name") if usage_records.c[column].nullable
    } == set()
