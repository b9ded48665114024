"""Redaction of secrets in text: configured keys verbatim, and anything that looks like a key."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.telemetry.redaction import MASK, Redactor

LOOKS = Redactor()


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("sk-abcdefgh", "sk-[redacted]"),
        ("Incorrect API key provided: sk-proj-a_B-9xyz. See", "Incorrect API key provided: sk-[redacted]. See"),
        ("AIzaSyA-1234567890", "AIza[redacted]"),
        ("Authorization: Bearer abcd-efgh_1", "Authorization: Bearer [redacted]"),
        ("bearer  abcdefgh", "bearer  [redacted]"),
        ("GET /v1?key=abcdefgh&x=1", "GET /v1?key=[redacted]&x=1"),
        ("api_key=abcdefgh", "api_key=[redacted]"),
        ("SK-ABCDEFGH aiza12345678 KEY=12345678", "SK-[redacted] aiza[redacted] KEY=[redacted]"),
        ("sk-abcdefgh,sk-ijklmnop", "sk-[redacted],sk-[redacted]"),
        ("gsk_abcdefgh xai-abcdefgh pplx-abcdefgh", "gsk_[redacted] xai-[redacted] pplx-[redacted]"),
        ("csk-abcdefgh fw_abcdefgh", "csk-[redacted] fw_[redacted]"),
        ("Bearer eyJhbGci.eyJzdWIi.c2ln+/=.", "Bearer [redacted]=."),
    ],
)
def test_text_that_looks_like_a_key_is_redacted(text: str, clean: str) -> None:
    assert LOOKS(text) == clean


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a risk-averse man",
        "sk-abcdefg",
        "key=short",
        "Bearer token",
        "AIza 12345678",
        "keyring 12345678",
        "sk-",
        "task-20240101-0001",
        "risk-assessment-api",
    ],
)
def test_text_that_does_not_look_like_a_key_is_kept(text: str) -> None:
    assert LOOKS(text) == text


def test_configured_secrets_are_redacted_anywhere_in_a_text() -> None:
    assert Redactor(["canary.1/x"])("<canary.1/x canary.1/x> canary.1/y") == f"<{MASK} {MASK}> canary.1/y"


def test_special_characters_in_a_secret_are_not_regular_expressions() -> None:
    assert Redactor(["a.c*efgh"])("a.c*efgh abcefgh aXc*efgh") == f"{MASK} abcefgh aXc*efgh"


def test_a_secret_that_contains_another_is_removed_whole() -> None:
    for secrets in (["abcdefgh", "abcdefghij"], ["abcdefghij", "abcdefgh"]):
        assert Redactor(secrets)("xabcdefghijx abcdefghx") == f"x{MASK}x {MASK}x"


def test_a_configured_secret_with_a_key_prefix_is_redacted_verbatim() -> None:
    assert Redactor(["sk-abcdefgh"])("sk-abcdefgh sk-abcdefghi") == f"{MASK} {MASK}i"


@pytest.mark.parametrize(("secret", "clean"), [("", "a key abc"), ("key abc", "a key abc"), (" key abc", f"a{MASK}")])
def test_secrets_shorter_than_8_characters_are_ignored(secret: str, clean: str) -> None:
    assert Redactor([secret])("a key abc") == clean


def test_learning_new_secrets_keeps_redacting_old_ones() -> None:
    redact = Redactor(["the first"])
    redact.learn(["the second"])
    redact.learn([])
    redact.learn(["the first"])

    assert redact("the first the second") == f"{MASK} {MASK}"


SECRETS = st.lists(st.text("abcSK-.= ", min_size=8, max_size=16), max_size=5)


@given(SECRETS, st.text("abcSK-.= ", max_size=10), st.data())
def test_no_configured_secret_survives_redaction(secrets: list[str], around: str, data: st.DataObject) -> None:
    text = around + data.draw(st.sampled_from(secrets)) + around if secrets else around

    clean = Redactor(secrets)(text)

    assert not any(secret in clean for secret in secrets if secret not in MASK)


@given(st.sampled_from(["sk-", "AIza", "Bearer ", "key="]), st.from_regex(r"[A-Za-z0-9_-]{8,60}", fullmatch=True))
def test_no_text_that_looks_like_a_key_survives_redaction(mark: str, secret: str) -> None:
    assert LOOKS(f'{{"error": "{mark}{secret}"}}') == f'{{"error": "{mark}{MASK}"}}'
