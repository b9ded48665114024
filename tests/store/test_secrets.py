"""Encryption of provider keys at rest, and parsing of encryption keys."""

from __future__ import annotations

import base64
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.errors import ConfigurationError
from llm_gateway.store.secrets import SecretBox, load_or_create_key_file, parse_keys

OLD, NEW = b"o" * 32, b"n" * 32


@given(text=st.text(st.characters(codec="utf-8")), row_id=st.uuids().map(str))
def test_a_sealed_text_is_decrypted_to_the_original(text: str, row_id: str) -> None:
    box = SecretBox([NEW, OLD])
    sealed = box.seal(text, row_id)
    assert box.open(sealed, row_id) == text
    assert len(sealed) == 1 + 4 + 12 + len(text.encode()) + 16
    assert sealed[0] == 1


def test_every_sealing_is_different() -> None:
    box = SecretBox([NEW])
    assert box.seal("key", "row") != box.seal("key", "row")


def test_the_first_key_encrypts_and_every_key_decrypts() -> None:
    sealed = SecretBox([OLD]).seal("key", "row")
    rotated = SecretBox([NEW, OLD])
    assert rotated.open(sealed, "row") == "key"
    assert not rotated.is_current(sealed)
    assert rotated.is_current(rotated.seal("key", "row"))
    assert SecretBox([NEW]).open(rotated.seal("key", "row"), "row") == "key"


def test_an_unknown_key_names_the_setting() -> None:
    sealed = SecretBox([OLD]).seal("canary", "row")
    with pytest.raises(ConfigurationError, match="not in LLM_GATEWAY_ENCRYPTION_KEYS: add it there"):
        SecretBox([NEW]).open(sealed, "row")


def test_a_sealed_text_of_another_row_is_refused() -> None:
    box = SecretBox([OLD])
    with pytest.raises(ConfigurationError, match="cannot be decrypted"):
        box.open(box.seal("canary", "row"), "other row")


@given(position=st.integers(0, 22), bit=st.integers(0, 7))
def test_a_sealed_text_with_any_flipped_bit_is_refused(position: int, bit: int) -> None:
    box = SecretBox([OLD])
    sealed = bytearray(box.seal("canary", "row"))
    sealed[position] ^= 1 << bit
    with pytest.raises(ConfigurationError) as caught:
        box.open(bytes(sealed), "row")
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("length", range(24))
def test_a_truncated_sealed_text_is_refused(length: int) -> None:
    box = SecretBox([OLD])
    with pytest.raises(ConfigurationError):
        box.open(box.seal("canary", "row")[:length], "row")


def test_a_box_needs_a_key_and_does_not_show_it() -> None:
    with pytest.raises(ConfigurationError, match="LLM_GATEWAY_ENCRYPTION_KEYS is empty"):
        SecretBox([])
    assert "ooo" not in repr(SecretBox([OLD]))


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32))
def test_keys_in_base64_and_hex_are_parsed(one: bytes, two: bytes) -> None:
    url_safe = base64.urlsafe_b64encode(one).decode()
    standard = base64.b64encode(two).decode()
    text = f" {url_safe} ,{url_safe.rstrip('=')},{standard},{one.hex()},{two.hex().upper()},"
    assert parse_keys(text) == [one, one, two, one, two]


@pytest.mark.parametrize(
    "entry", ["canary", "canary" * 8, "zz" * 32, "ü" * 32, base64.b64encode(b"canary" * 6).decode(), "=", "a"]
)
def test_malformed_keys_are_refused_without_repeating_them(entry: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_keys(f"{OLD.hex()},{entry}")
    assert (
        str(caught.value)
        == "Key 2 of LLM_GATEWAY_ENCRYPTION_KEYS is not 32 bytes in base64 or hex: copy the whole key again."
    )


@pytest.mark.parametrize("text", ["", " ", ",,"])
def test_an_empty_list_of_encryption_keys_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="LLM_GATEWAY_ENCRYPTION_KEYS is empty"):
        parse_keys(text)


def test_the_key_file_is_created_once(tmp_path: Path) -> None:
    path = tmp_path / "data" / "encryption.key"
    keys = load_or_create_key_file(path)
    assert [len(key) for key in keys] == [32]
    assert load_or_create_key_file(path) == keys
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(path.parent.iterdir()) == [path]


def test_the_key_file_of_a_faster_process_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "encryption.key"
    link = os.link

    def link_after_another(source: Path, target: Path) -> None:
        target.write_text(OLD.hex())
        link(source, target)

    monkeypatch.setattr(os, "link", link_after_another)
    assert load_or_create_key_file(path) == [OLD]
    assert list(tmp_path.iterdir()) == [path]


def test_an_unusable_key_file_is_a_configuration_error(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigurationError, match=r"cannot be read or created \(Is a directory\): correct the permissions"
    ):
        load_or_create_key_file(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError, match="cannot be read or created"):
        load_or_create_key_file(tmp_path / "file" / "encryption.key")


@pytest.mark.parametrize("content", [b"canary", b"\xff\xfe canary"])
def test_a_key_file_without_a_key_is_a_configuration_error(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "encryption.key"
    path.write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        load_or_create_key_file(path)
    assert str(caught.value) == f"Key 1 of {path} is not 32 bytes in base64 or hex: copy the whole key again."
