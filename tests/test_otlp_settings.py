"""Settings of the OTLP export: valid ones, and each error in them, which shows no secret."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llm_gateway import settings
from llm_gateway.errors import ConfigurationError
from llm_gateway.settings import Settings
from llm_gateway.settings_reader import load_settings
from tests.rows import each_row

SECRET = "a-secret-of-the-collector"
URL = "http://localhost:4318"


def read(**variables: str) -> Settings:
    return load_settings({f"LLM_GATEWAY_{name}": text for name, text in variables.items()}, Path("/dev/null"))


@each_row("url", [URL, "https://otlp.example.com", "http://[::1]:4318/", "https://x.example/api/v2/otlp", ""])
def test_a_collector_has_a_url(url: str) -> None:
    assert read(OTLP_ENDPOINT=url).otlp_endpoint == url


@each_row(
    "url",
    [
        "localhost:4318", "ftp://x", "http://", "http://a:b@x", "http://x?a=b", "http://x#a", "http://x y",
        "http://x/v1/traces", "http://x/otlp/v1/logs/", "http://x/\n", "grpc://x:4317",
    ],
)  # fmt: skip
def test_what_cannot_be_called_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^LLM_GATEWAY_OTLP_ENDPOINT must be a URL such as http://localhost"):
        read(OTLP_ENDPOINT=url)


@each_row(
    ("text", "found"),
    [
        ("api-key=abc", {"api-key": "abc"}),
        (" A = b ,, C=d=e%2C%20f,", {"a": "b", "c": "d=e, f"}),
        ("x=", {"x": ""}),
        ("", {}),
    ],
)
def test_headers_are_pairs_with_encoded_values(text: str, found: dict[str, str]) -> None:
    assert read(OTLP_ENDPOINT=URL, OTLP_HEADERS=text).otlp_header_fields == found


@each_row(
    "text",
    [
        SECRET, f"={SECRET}", f"a b={SECRET}", f"x={SECRET}%0d%0ay: z", f"x={SECRET}\u00e9", f"host={SECRET}",
        f"Content-Type={SECRET}", f"x={SECRET}%00",
    ],
)  # fmt: skip
def test_headers_that_cannot_be_sent_are_refused_without_showing_them(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^LLM_GATEWAY_OTLP_HEADERS takes .*; entry 2 is not one\.$") as error:
        read(OTLP_ENDPOINT=URL, OTLP_HEADERS=f"ok=1,{text}")
    assert SECRET not in str(error.value)


def test_headers_are_no_part_of_what_is_shown() -> None:
    assert SECRET not in repr(read(OTLP_ENDPOINT=URL, OTLP_HEADERS=f"api-key={SECRET}"))


def test_headers_alone_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"^LLM_GATEWAY_OTLP_HEADERS needs LLM_GATEWAY_OTLP_ENDPOINT"):
        read(OTLP_HEADERS="a=b")


@each_row(("text", "found"), [("traces", {"traces"}), (" logs , traces,", {"logs", "traces"})])
def test_signals_can_be_chosen(text: str, found: set[str]) -> None:
    assert read(OTLP_SIGNALS=text).otlp_signal_names == found


@each_row("text", [",", "trace", "traces,spans", "Traces", ""])
def test_other_signals_are_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^LLM_GATEWAY_OTLP_SIGNALS "):
        read(OTLP_SIGNALS=text)


@each_row("text", ["-0.1", "1.1", "nan", "all"])
def test_a_ratio_beyond_its_range_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"^LLM_GATEWAY_TRACE_RATIO must be a finite number from 0 to 1, not "):
        read(TRACE_RATIO=text)


def test_no_worker_reads_a_setting_of_the_export() -> None:
    """Control exports: what a call costs must not depend on whether it does."""
    package = Path(settings.__file__).parent
    below_both = ("gate", "routing", "protocols", "providers", "upstream", "journal", "limiter", "server", "telemetry")
    readers = [
        str(path.relative_to(package))
        for folder in ("worker", *below_both)
        for path in (package / folder).rglob("*.py")
        if re.search(r"\.(otlp_\w+|trace_ratio)\b", path.read_text(encoding="utf-8"))
    ]

    assert readers == []
    assert re.search(r"\.otlp_\w+", "".join(path.read_text() for path in (package / "control").rglob("*.py")))
