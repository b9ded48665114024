"""Secrets of service keys: their form, their checksum, and hashes that depend on a pepper."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.domain.key_secret import PATTERN, Hashers, Pepper, is_intact, make_secret, public_id_of
from llm_gateway.domain.service_key import ServiceKey
from llm_gateway.telemetry.redaction import MASK, Redactor

PLACES = st.integers(0, 64)


def test_secrets_have_the_documented_form_and_are_not_repeated() -> None:
    made = {make_secret() for _ in range(100)}
    assert len(made) == len({public_id_of(secret.encode()) for secret in made}) == 100
    assert all(re.fullmatch(PATTERN, secret) and is_intact(secret.encode()) for secret in made)


@given(PLACES, st.sampled_from("abcXYZ019_~"))
def test_one_wrong_character_is_noticed_without_a_hash(place: int, character: str) -> None:
    secret = make_secret()
    wrong = secret[:place] + character + secret[place + 1 :]
    assert is_intact(wrong.encode()) == (wrong == secret)


def test_hashes_depend_on_secret_and_pepper() -> None:
    one, two = Pepper(1, b"a" * 32), Pepper(2, b"b" * 32)
    hashers, secret = Hashers([one, two]), make_secret().encode()
    digests = {hashers.digest(1, secret), hashers.digest(2, secret), hashers.digest(1, make_secret().encode())}
    assert len(digests) == 3
    assert hashers.digest(1, secret) == Hashers([one]).digest(1, secret)
    assert hashers.digest(3, secret) is None


def test_nothing_shows_a_secret() -> None:
    secret = make_secret()
    key = ServiceKey(public_id=b"p", digest=b"the digest", id="id", name="shop", scopes=1)
    shown = f"{Pepper(1, secret.encode())!r} {key!r}"
    assert "the digest" not in shown
    assert secret not in shown
    assert Redactor()(f"key {secret} was sent") == f"key gw_{MASK} was sent"
