"""Read files with settings: lines `NAME=value` as in `.env`, and files that hold one secret each."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Mapping
from pathlib import Path

from dotenv.parser import Binding, parse_stream
from dotenv.variables import parse_variables

from llm_gateway.errors import ConfigurationError
from llm_gateway.settings import PREFIX

MAX_ENV_BYTES = 1024 * 1024
"""Bytes of a file with lines `NAME=value`."""
MAX_SECRET_BYTES = 64 * 1024
"""Bytes of a file with one secret."""


def read_env_file(path: Path, environment: Mapping[str, str], *, is_default: bool = False) -> dict[str, str]:
    """Return the variables of a file with lines `NAME=value`; `${NAME}` is expanded from lines above and `environment`.

    `is_default`: the file is the `.env` that happens to be there, and can be another program's, too. Error messages
    name it without its folder, and lines with other programs' names need no value.

    Raises:
        FileNotFoundError: the file does not exist.
        ConfigurationError: the file is not readable UTF-8, or a line is not NAME=value (python-dotenv skips such lines
            with a warning at most). The message has no text of the file.
    """
    name = path.name if is_default else shown_path(path)
    text = _read_text(path, name)
    variables: dict[str, str] = {}
    known = dict(environment)
    for binding in parse_stream(io.StringIO(text)):
        needs_value = binding.key is not None and (not is_default or binding.key.upper().startswith(PREFIX))
        if binding.error or (needs_value and binding.value is None):
            raise ConfigurationError(
                f"Line {_line(binding)} of the file {name} is not NAME=value: correct it, or begin it with #."
            )
        if binding.key and binding.value is not None:
            value = "".join(part.resolve(known) for part in parse_variables(binding.value))
            variables[binding.key] = known[binding.key] = value
    return variables


def read_secret_file(variable: str, path: str) -> str:
    """Return the secret in a file that `variable` names, without the newline at its end.

    Raises:
        ConfigurationError: the file is missing, unreadable, empty, too long, or not UTF-8 text. The message names
            variable and file, and has no text of the file.
    """
    if not path:
        raise ConfigurationError(f"{variable} must be the path of a file, not ''.")
    try:
        secret = _read_secret(path)
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = (error.strerror or error) if isinstance(error, OSError) else error
        is_path = Path(path).is_absolute() or os.path.lexists(path)  # else it may be the secret itself
        file = f"The file {shown_path(path)} in {variable}" if is_path else f"The file that {variable} names"
        raise ConfigurationError(
            f"{file} cannot be read ({reason}): correct the path, or make the file readable for this user."
        ) from None
    except _Unfit as unfit:
        raise ConfigurationError(
            f"The file {shown_path(path)} in {variable} {unfit}: write the secret into it, and nothing else."
        ) from None
    return secret


def shown_path(path: str | Path) -> str:
    """Return a path for a message, quoted if it has characters that a terminal does not show as they are."""
    text = str(path)
    return text if text.isprintable() else repr(text)


class _Unfit(Exception):
    """A file that holds no usable secret; the message says why."""


def _read_secret(path: str) -> str:
    # A named pipe is opened without waiting for its other end, and then refused.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _Unfit("is not a regular file")
        content = file.read(MAX_SECRET_BYTES + 1)
    if len(content) > MAX_SECRET_BYTES:
        raise _Unfit(f"is longer than {MAX_SECRET_BYTES // 1024} KiB")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise _Unfit("is not UTF-8 text") from None
    secret = text[: -2 if text.endswith("\r\n") else -1] if text.endswith("\n") else text
    if not secret.strip():
        raise _Unfit("is empty")
    return secret


def _read_text(path: Path, name: str) -> str:
    reason: object
    try:
        with path.open("rb") as file:
            content = file.read(MAX_ENV_BYTES + 1)
        text = content.decode("utf-8-sig")
    except FileNotFoundError:
        raise
    except UnicodeDecodeError:
        reason = "it is not UTF-8 text"
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        reason = (error.strerror or error) if isinstance(error, OSError) else error
    else:
        if len(content) > MAX_ENV_BYTES:
            reason = f"it is longer than {MAX_ENV_BYTES} bytes"
        elif "\0" in text:
            reason = "it holds a NUL character"
        else:
            return text
    raise ConfigurationError(f"The file {name} cannot be read ({reason}): make it readable UTF-8 text, or remove it.")


def _line(binding: Binding) -> int:
    """Return the line number where a binding begins; python-dotenv counts empty lines before it as part of it."""
    text = binding.original.string
    return binding.original.line + text[: len(text) - len(text.lstrip())].count("\n")
