"""Peppers of the hashes of service keys: from the setting, and from a file in the data directory."""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from llm_gateway.domain.key_secret import Pepper
from llm_gateway.errors import ConfigurationError
from llm_gateway.store.secrets import create_secret_file

SETTING = "LLM_GATEWAY_KEY_PEPPERS"
FILE = "key.peppers"
"""File in the data directory with the pepper that was generated for want of a setting."""
FIRST_VERSION, LAST_VERSION = 1, 2**31 - 1
MIN_CHARACTERS = 32
"""Characters of a pepper at least."""
MIN_DISTINCT = 8
"""Different characters of a pepper at least: 32 random hexadecimal digits have 8 or more."""


def open_peppers(text: str | None, directory: Path) -> list[Pepper]:
    """Return the peppers, that of new hashes first: those of the setting, then those of the file.

    Without a setting, the file is created (mode 0600) with a random pepper of version 1. The file's peppers stay valid
    behind those of a setting, so that keys made before it was set still work.

    Raises:
        ConfigurationError: setting or file is not a list of peppers, they give one version two secrets, or the file
            cannot be read or created.
    """
    path = directory / FILE
    peppers = [] if text is None else parse_peppers(text)
    try:
        if not path.exists():
            if peppers:
                return peppers
            create_secret_file(path, b"%d:%s\n" % (FIRST_VERSION, base64.urlsafe_b64encode(os.urandom(32))))
        stored = parse_peppers(path.read_text("ascii"), str(path))
    except UnicodeDecodeError:
        raise _unfit(1, str(path)) from None
    except OSError as error:
        raise ConfigurationError(
            f"The file {path} cannot be read or created ({error.strerror}): correct the permissions of the file and "
            f"its directory, or set {SETTING}."
        ) from None
    known = {each.version: each.secret for each in peppers}
    for each in stored:
        if known.get(each.version, each.secret) != each.secret:
            raise ConfigurationError(
                f"Version {each.version} is another pepper in {SETTING} than in the file {path}: give that of the "
                "setting another version."
            )
    return [*peppers, *(each for each in stored if each.version not in known)]


def parse_peppers(text: str, source: str = SETTING) -> list[Pepper]:
    """Parse a comma-separated list of `version:secret`; `source` names the setting in errors.

    Raises:
        ConfigurationError: the list is empty, a version occurs twice, or a pepper is malformed, short or not random.
            The message does not contain the text.
    """
    entries = [entry.strip() for entry in text.split(",") if entry.strip()]
    peppers: list[Pepper] = []
    for position, entry in enumerate(entries, start=1):
        version, _, secret = entry.partition(":")
        if not (version.isascii() and version.isdigit() and len(version) <= 10):
            raise _unfit(position, source)
        if not FIRST_VERSION <= int(version) <= LAST_VERSION:
            raise _unfit(position, source)
        if len(secret) < MIN_CHARACTERS or len(set(secret)) < MIN_DISTINCT:
            raise _unfit(position, source)
        if any(each.version == int(version) for each in peppers):
            raise ConfigurationError(f"{source} has version {int(version)} twice: give each pepper its own version.")
        peppers.append(Pepper(int(version), secret.encode()))
    if not peppers:
        raise ConfigurationError(f"{source} is empty: set it to version:secret, such as 1: and 32 random characters.")
    return peppers


def names_of(peppers: Iterable[Pepper]) -> tuple[str, ...]:
    """Return names of the peppers, which tell nothing of them: the version, and 4 bytes of a hash."""
    return tuple(f"{each.version}:{hashlib.sha256(b'pepper' + each.secret).hexdigest()[:8]}" for each in peppers)


def _unfit(position: int, source: str) -> ConfigurationError:
    return ConfigurationError(
        f"Pepper {position} of {source} is not version:secret with a whole number from {FIRST_VERSION} and "
        f"{MIN_CHARACTERS} random characters or more: make one with `llm-gateway keys new --pepper`."
    )
