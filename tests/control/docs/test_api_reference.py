"""docs/API.md has a row for every field of requests and answers, and for every error code."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import pytest

from llm_gateway.control.docs.openapi import SERVER_ERRORS
from llm_gateway.control.management.health import Health, ProviderHealth
from llm_gateway.control.management.overrides import OverrideCreate
from llm_gateway.control.management.provider_schemas import ProviderCreate
from llm_gateway.control.management.usage import UsageSummary
from llm_gateway.errors import GatewayError, ProviderRefused
from llm_gateway.protocols.generate import GenerateAnswer, GenerateBody
from llm_gateway.providers.presets import load_presets

DOCUMENT = (Path(__file__).parents[3] / "docs" / "API.md").read_text(encoding="utf-8")
IN_VENDORS_WORDS = {ProviderRefused.code}
"""Codes that only the vendor-compatible APIs answer; their own documents have them."""


def section(heading: str) -> str:
    """The text below a heading, up to the next one that is as high."""
    found = re.search(rf"^(#+) {re.escape(heading)}\n(.*?)(?=^#{{1,3}} |\Z)", DOCUMENT, re.DOTALL | re.MULTILINE)
    assert found, heading
    return found[2]


def rows(text: str, *header: str) -> list[list[str]]:
    """The cells of the tables whose header begins with these words."""
    start = "| " + " | ".join(header) + " |"
    tables = re.findall(rf"^{re.escape(start)}.*\n\|[-|]+\n((?:\|.*\n?)+)", text, re.MULTILINE)
    return [[cell.strip() for cell in row.strip("|").split("|")] for table in tables for row in table.splitlines()]


def names(cells: Iterable[str]) -> set[str]:
    """The words in backticks, outside of code blocks."""
    return {name for cell in cells for name in re.findall(r"`([^`\n]+)`", re.sub(r"(?s)```.*?```", "", cell))}


@pytest.mark.parametrize(
    ("heading", "header", "fields"),
    [
        ("POST /generate", ("field", "type", "default"), GenerateBody.__struct_fields__),
        ("POST /generate", ("field", "type", "meaning"), GenerateAnswer.__struct_fields__),
        ("POST /providers", ("field", "type", "default"), ProviderCreate.model_fields),
        ("POST /overrides", ("field", "type", "default"), OverrideCreate.model_fields),
        ("GET /health", ("field", "values"), Health.model_fields),
        ("GET /health/providers", ("field", "type", "meaning"), ProviderHealth.model_fields),
        ("GET /usage/summary", ("field", "type", "meaning"), UsageSummary.model_fields),
    ],
)
def test_every_field_has_a_row(heading: str, header: tuple[str, ...], fields: Iterable[str]) -> None:
    assert names(row[0] for row in rows(section(heading), *header)) == set(fields)


def test_every_error_code_has_a_row_with_its_status() -> None:
    listed = {(int(row[0]), row[1].strip("`")) for row in rows(section("Codes"), "status", "`code`")}
    errors: list[type[GatewayError]] = [GatewayError, *GatewayError.__subclasses__()]
    known = {(error.status, error.code) for error in errors}
    of_server = {(status, code) for status, (code, _, _) in SERVER_ERRORS.items()}
    assert listed == {(status, code) for status, code in known if code not in IN_VENDORS_WORDS} | of_server


def test_every_preset_is_named() -> None:
    assert set(load_presets()) - {"local"} <= names([section("POST /providers")])
