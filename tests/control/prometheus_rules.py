"""The shipped rules of Prometheus: read them, and let promtool evaluate them over scrapes of /metrics."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from prometheus_client.parser import text_string_to_metric_families

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
PROMTOOL = shutil.which("promtool")
QUIET_MIN, MOVED_MIN = 20, 25
"""Minutes of the first scrape's values, and then of the way from one scrape to the other."""
OF_PROMETHEUS = {"job", "instance", "le"}
"""Labels that Prometheus itself, or every histogram, has."""


class Scene(NamedTuple):
    """Two scrapes of /metrics, and the alerts that fire because of what happened between them."""

    name: str
    before: bytes
    after: bytes
    alerts: Sequence[str]


def rules() -> list[dict[str, Any]]:
    """Return the alerts."""
    [group] = yaml.safe_load(RULES.read_text("utf-8"))["groups"]
    return list(group["rules"])


def names_used(expression: str) -> tuple[set[str], set[str]]:
    """Return the metrics and the labels in an expression."""
    metrics = set(re.findall(r"\bllm_gateway_\w+", expression))
    listed = re.findall(r"\b(?:by|on|group_right|group_left|ignoring)\s*\(([^)]*)\)", expression)
    matched = re.findall(r"[{,]\s*(\w+)\s*(?:=~|!~|!=|=)", expression)
    return metrics, {label.strip() for each in listed for label in each.split(",") if label.strip()} | set(matched)


def series(text: bytes) -> dict[str, float]:
    """Return the gateway's samples, by their names and labels as Prometheus writes them."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text.decode()):
        for sample in family.samples:
            if sample.name.startswith("llm_gateway_"):
                labels = {**sample.labels, "job": "llm-gateway", "instance": "gateway:8200"}
                inside = ",".join(f"{name}={json.dumps(value)}" for name, value in sorted(labels.items()))
                found[f"{sample.name}{{{inside}}}"] = sample.value
    return found


def labels_of(texts: Sequence[bytes]) -> dict[str, set[str]]:
    """Return the labels of each metric, by the name that its samples have."""
    found: dict[str, set[str]] = {}
    for family in (family for text in texts for family in text_string_to_metric_families(text.decode())):
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def firing(scenes: Sequence[Scene], directory: Path) -> subprocess.CompletedProcess[str]:
    """Let promtool play the scenes: in each, no alert fires first, and at the end exactly those that it names."""
    assert PROMTOOL is not None
    tests = {"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [_test(scene) for scene in scenes]}
    file = directory / "scenes.json"  # JSON is YAML
    file.write_text(json.dumps(tests), "utf-8")
    command = [PROMTOOL, "test", "rules", str(file)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def _test(scene: Scene) -> dict[str, Any]:
    before, after = series(scene.before), series(scene.after)
    inputs = [{"series": name, "values": _values(name, before.get(name), value)} for name, value in after.items()]
    fired = [{"labels": f'{{alertname="{name}"}}', "value": 1} for name in scene.alerts]
    query = 'group by (alertname) (ALERTS{alertstate="firing"})'
    return {
        "name": scene.name,
        "interval": "1m",
        "input_series": inputs,
        "promql_expr_test": [
            {"expr": query, "eval_time": f"{QUIET_MIN - 1}m", "exp_samples": []},
            {"expr": query, "eval_time": f"{QUIET_MIN + MOVED_MIN - 1}m", "exp_samples": fired},
        ],
    }


def _values(name: str, before: float | None, after: float) -> str:
    """Return a series in promtool's notation: counters climb from scrape to scrape, gauges jump."""
    is_counter = name.partition("{")[0].endswith(("_total", "_bucket", "_count", "_sum"))
    quiet = "_" if before is None else f"{before!r}+0"
    start, step = (before or 0.0, (after - (before or 0.0)) / MOVED_MIN) if is_counter else (after, 0.0)
    return f"{quiet}x{QUIET_MIN} {start!r}{step:+.9f}x{MOVED_MIN}"


def anchors(document: Path) -> Iterator[str]:
    """Yield the fragments of a document's headings."""
    for heading in re.findall(r"^#+ (.+)$", document.read_text("utf-8"), re.MULTILINE):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
