"""Hashes of passwords: argon2id with the parameters that are promised, and the same text typed on any keyboard."""

from __future__ import annotations

from llm_gateway.store.passwords import NOBODYS, hashed, is_password_of


def test_a_password_is_known_by_its_hash_only() -> None:
    first, second = hashed("pässword of ann"), hashed("pässword of ann")
    assert first != second
    for each in (first, NOBODYS):
        assert each.startswith("$argon2id$v=19$m=19456,t=2,p=1$")
    for password, is_right in (("pässword of ann", True), ("pa\u0308ssword of ann", True), ("password of ann", False)):
        assert is_password_of(first, password) is is_right, password
    assert not is_password_of(NOBODYS, "")
    assert not is_password_of("no hash", "pässword of ann")
    assert not is_password_of(first, "\ud800")
