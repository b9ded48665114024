"""deploy/grafana/llm-gateway.json: its rows and panels, and that its queries name metrics of the gateway."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.control.prometheus_rules import PROMTOOL, ROOT, names_used
from tests.test_runbook import QUOTED

BOARD = json.loads((ROOT / "deploy" / "grafana" / "llm-gateway.json").read_text("utf-8"))
SUFFIX = re.compile(r"_(total|bucket|sum|count)$")
KNOWN = {name for name in QUOTED if name.startswith("llm_gateway_")}
"""The metrics of the runbook, which tests/test_runbook.py compares with those of the code."""


def targets() -> Iterator[tuple[dict[str, Any], str]]:
    """Yield each panel with each of its queries."""
    for panel in BOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel, target["expr"]


def test_the_dashboard_has_its_rows_one_id_for_each_panel_and_a_variable_for_the_source() -> None:
    panels = BOARD["panels"]
    assert [panel["title"] for panel in panels if panel["type"] == "row"] == [
        "Overview", "Providers", "Spend", "Journal",
    ]  # fmt: skip
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert isinstance(BOARD["schemaVersion"], int)
    [source, *others] = BOARD["templating"]["list"]
    assert (source["name"], source["type"], source["query"]) == ("datasource", "datasource", "prometheus")
    assert [each["name"] for each in others] == ["job", "instance"]
    for panel in panels:
        if panel["type"] != "row":
            assert panel["datasource"]["uid"] == "${datasource}", panel["title"]
            assert panel["description"], panel["title"]
            assert panel["targets"], panel["title"]


def test_panels_do_not_overlap() -> None:
    taken: dict[tuple[int, int], str] = {}
    for panel in BOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        for cell in ((x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])):
            assert taken.setdefault(cell, panel["title"]) == panel["title"]


def test_each_query_names_metrics_of_the_gateway_and_the_variables() -> None:
    used: set[str] = set()
    for panel, expression in targets():
        metrics, _ = names_used(expression)
        assert metrics, panel["title"]
        unknown = {name for name in metrics if name not in KNOWN and SUFFIX.sub("", name) not in KNOWN}
        assert not unknown, panel["title"]
        assert expression.count('job=~"$job", instance=~"$instance"') == len(re.findall("llm_gateway_", expression))
        used |= metrics
    assert len(used) > 20


async def test_promtool_understands_each_query(tmp_path: Path) -> None:
    if PROMTOOL is None:
        pytest.skip("promtool (package prometheus) is not installed: the queries were not parsed")
    plain = (re.sub(r"\$__(rate_interval|range)", "5m", expression) for _, expression in targets())
    rules = [{"record": f"panel:{number}", "expr": expression} for number, expression in enumerate(plain)]
    file = tmp_path / "panels.json"  # JSON is YAML
    file.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}), "utf-8")
    command = [PROMTOOL, "check", "rules", str(file)]
    found = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout + found.stderr
