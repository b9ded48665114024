"""Encrypt provider API keys at rest with AES-256-GCM, under encryption keys from the operator.

A sealed text is a version byte, 4 bytes that name the encryption key, a 12-byte random nonce, and the ciphertext with
its tag. The id of the row is authenticated with it (associated data), so a sealed key copied to another row does not
decrypt.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from llm_gateway.errors import ConfigurationError

SETTING = "LLM_GATEWAY_ENCRYPTION_KEYS"
KEY_BYTES = 32
NONCE_BYTES = 12
VERSION = b"\x01"
"""First byte of a sealed text; another format would get another."""


class SecretBox:
    """Encryption of texts with the first of its keys; decryption with any of them, so that keys can be rotated."""

    def __init__(self, keys: list[bytes]) -> None:
        if not keys:
            raise ConfigurationError(f"{SETTING} is empty: set it to 32 random bytes in base64.")
        self._ciphers = {_name(key): AESGCM(key) for key in keys}
        self._first = _name(keys[0])

    def seal(self, text: str, row_id: str) -> bytes:
        """Encrypt `text` for the row with id `row_id`."""
        nonce = os.urandom(NONCE_BYTES)
        return VERSION + self._first + nonce + self._ciphers[self._first].encrypt(nonce, text.encode(), row_id.encode())

    def open(self, sealed: bytes, row_id: str) -> str:
        """Decrypt a text that was sealed for the row with id `row_id`.

        Raises:
            ConfigurationError: the text was sealed with an unknown key or for another row, or is damaged.
        """
        key_name, nonce, ciphertext = (sealed[1:5], sealed[5 : 5 + NONCE_BYTES], sealed[5 + NONCE_BYTES :])
        cipher = self._ciphers.get(key_name)
        if sealed[:1] != VERSION or cipher is None:
            raise ConfigurationError(
                f"A stored secret was encrypted with a key that is not in {SETTING}: add it there."
            )
        try:
            return cipher.decrypt(nonce, ciphertext, row_id.encode()).decode()
        except (InvalidTag, ValueError):
            raise ConfigurationError(
                f"A stored secret cannot be decrypted with {SETTING}: it is damaged, so enter it again."
            ) from None

    @property
    def names(self) -> tuple[str, ...]:
        """The names of its keys, the first one's first, as sealed texts have them."""
        return tuple(name.hex() for name in self._ciphers)

    def is_current(self, sealed: bytes) -> bool:
        """Return True if the text was sealed with the first key."""
        return sealed[:5] == VERSION + self._first


def parse_keys(text: str, source: str = SETTING) -> list[bytes]:
    """Parse a comma-separated list of keys, each 32 bytes in base64 or hex; `source` names the setting in errors.

    Raises:
        ConfigurationError: the list is empty, or a key is malformed. The message does not contain the text.
    """
    entries = [entry.strip() for entry in text.split(",") if entry.strip()]
    if not entries:
        raise ConfigurationError(f"{source} is empty: set it to 32 random bytes in base64.")
    keys = []
    for position, entry in enumerate(entries, start=1):
        key = _decoded(entry)
        if key is None:
            raise _no_key(position, source)
        keys.append(key)
    return keys


def _no_key(position: int, source: str) -> ConfigurationError:
    return ConfigurationError(f"Key {position} of {source} is not 32 bytes in base64 or hex: copy the whole key again.")


def load_or_create_key_file(path: Path) -> list[bytes]:
    """Read the keys from a file; create it (mode 0600) with a new random key if it does not exist.

    Raises:
        ConfigurationError: the file cannot be read or created, or holds no valid keys.
    """
    try:
        if not path.exists():
            create_secret_file(path, base64.urlsafe_b64encode(os.urandom(KEY_BYTES)) + b"\n")
        return parse_keys(path.read_text(encoding="ascii"), str(path))
    except UnicodeDecodeError:
        raise _no_key(1, str(path)) from None
    except OSError as error:
        raise ConfigurationError(
            f"The encryption key file {path} cannot be read or created ({error.strerror}): correct the permissions of "
            f"the file and its directory, or set {SETTING}."
        ) from None


def create_secret_file(path: Path, content: bytes) -> None:
    """Write a file (mode 0600) durably; if another process was first, keep its file.

    It is written under a temporary name, and then linked.

    Raises:
        OSError: it cannot be written.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    descriptor = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)
        except FileExistsError:
            return
    finally:
        draft.unlink()
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _name(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()[:4]


def _decoded(entry: str) -> bytes | None:
    try:
        if len(entry) == 2 * KEY_BYTES:
            return bytes.fromhex(entry)
        padded = entry.rstrip("=") + "=" * (-len(entry.rstrip("=")) % 4)
        key = base64.b64decode(padded.translate(str.maketrans("-_", "+/")), validate=True)
    except (ValueError, binascii.Error):
        return None
    return key if len(key) == KEY_BYTES else None
