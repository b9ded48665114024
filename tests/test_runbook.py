"""docs/RUNBOOK.md has every metric, and every log line at warning or above, and a test names each."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from tests.parsed_source import FILES, nodes_of, sources

ROOT = Path(__file__).parents[1]
RUNBOOK = (ROOT / "docs" / "RUNBOOK.md").read_text(encoding="utf-8")
QUOTED = {text.strip() for _, text in re.findall(r"(?<!`)(``?)(?!`)(.+?)(?<!`)\1(?!`)", RUNBOOK)}
LOUD_METHODS = {"_failed", "_log_change", "_log_model"}
"""Methods that log their first argument at warning or error."""
BEGINNING = 20
"""Characters of a name that stand together where the whole is too long for a line."""
OF_LIBRARIES = {"message"}
"""Variables for events of libraries' own logs (`telemetry/events.py`)."""


def constants() -> dict[str, str]:
    """Return the values of the modules' constants by their names."""
    found: dict[str, str] = {}
    for file in FILES:
        for node in file.tree.body:
            if isinstance(node, ast.Assign):
                for target in node.targets:
                    pairs = zip(target.elts, getattr(node.value, "elts", ()), strict=False) if isinstance(
                        target, ast.Tuple) else [(target, node.value)]  # fmt: skip
                    found |= {
                        name.id: value.value
                        for name, value in pairs
                        if isinstance(name, ast.Name)
                        and isinstance(value, ast.Constant)
                        and isinstance(value.value, str)
                    }
    return found


def events() -> Iterator[str]:
    """Yield each event logged at a level that is not info or debug, as far as it is written where it is logged."""
    known = constants()
    for node in (node for file in FILES for node in file.nodes if isinstance(node, ast.Call) and node.args):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        levels = [word.value for word in node.keywords if word.arg == "level"]
        is_loud = any(not (isinstance(level, ast.Constant) and level.value in ("info", "debug")) for level in levels)
        if not (is_loud or name in LOUD_METHODS):
            continue
        first = node.args[0]
        for each in [first.body, first.orelse] if isinstance(first, ast.IfExp) else [first]:
            if isinstance(each, ast.Constant) and isinstance(each.value, str) and " " in each.value:
                yield each.value
            elif isinstance(each, ast.Name) and each.id in known and each.id not in OF_LIBRARIES:
                yield known[each.id]


def test_every_warning_and_error_is_in_the_runbook() -> None:
    found = set(events())
    assert {"circuit breaker opened", "the usage journal cannot be written", "request failed"} <= found
    assert len(found) > 50
    assert sorted(found - QUOTED) == []


def unnamed(names: dict[str, str]) -> list[str]:
    """Return the names whose pattern is in no text that a test other than this one compares with something.

    Only modules with the beginning of such a name are parsed: to parse all tests takes 3 s of CPU time.
    """
    missing = {name: re.compile(pattern) for name, pattern in names.items()}
    for source in other_tests():
        if not any(name[:BEGINNING] in source for name in missing):
            continue
        texts = texts_of(source)
        missing = {name: pattern for name, pattern in missing.items() if not pattern.search(texts)}
    return sorted(missing)


@cache
def other_tests() -> list[str]:
    """Return the text of all modules of tests but this."""
    found = sources(ROOT / "tests")
    return [text for place, text in found if Path(place).name.startswith("test_") and place != Path(__file__).name]


@cache
def texts_of(source: str) -> str:
    """Return the texts in a test."""
    constants = (node.value for node in nodes_of(ast.parse(source)) if isinstance(node, ast.Constant))
    return "\n".join(value for value in constants if isinstance(value, str))


def metrics() -> set[str]:
    """Return the names of all metrics, without the `_total` of counters."""
    source = "".join(file.text for file in FILES)
    return set(re.findall(r'"(llm_gateway_[a-z_]+)"', source)) - {"llm_gateway_request_context"}


def test_each_warning_each_error_and_each_metric_is_named_by_a_test() -> None:
    assert unnamed({event: re.escape(event) for event in events()}) == []
    assert unnamed({name: rf"\b{name}(_total|_bucket|_sum|_count)?\b" for name in metrics()}) == []
    assert unnamed({"no test names this": "no test names this"}) == ["no test names this"]


def test_every_metric_is_in_the_runbook_and_no_other() -> None:
    described = {re.sub("_total$", "", name) for name in QUOTED if re.fullmatch(r"llm_gateway_[a-z_]+", name)}
    assert len(metrics()) > 20
    assert sorted(metrics() ^ described) == []
