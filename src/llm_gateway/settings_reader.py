"""Read the settings from `LLM_GATEWAY_*` variables and files; reject unknown, invalid or unsafe ones.

Precedence: options of `serve` (which it passes on as variables), then the files of `--env-file`, of which later ones
win, then the environment, then `.env`, then defaults. A secret can be in a file of its own, which `NAME_FILE` names.
"""

from __future__ import annotations

import contextlib
import difflib
import ipaddress
import json
import math
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, get_args, get_origin, get_type_hints

import msgspec

from llm_gateway.errors import ConfigurationError
from llm_gateway.inherited import OPTIONS
from llm_gateway.settings import DEV_KEY, OTLP_SIGNALS, PREFIX, SECRETS, Settings, SettingsFromSources
from llm_gateway.settings_checks import (
    unfit_host_name,
    unfit_identity_provider,
    unfit_journal,
    unfit_redis,
    unfit_webhook,
)
from llm_gateway.settings_files import read_env_file, read_secret_file, shown_path

DEFAULT_FILE = Path(".env")
ENV_FILE = "env_file"
"""Name, without the prefix, of the variable that lists files with settings, separated as in PATH. It is no setting."""
SECRET_FILES = {f"{name}_file": name for name in sorted(SECRETS)}
"""Names, without the prefix, of the variables that name files with a secret, and the settings that they stand for."""
MIN_KEY_LENGTH = 32
"""Characters that a service key must have at least in production."""
MIN_DISTINCT = 8
"""Different characters that a key must have at least in production: 32 random hexadecimal digits have 8 or more."""
KNOWN_KEYS = frozenset({DEV_KEY, "changeme", "secret", "test", "password"})
MAX_SHOWN = 80
"""Characters of an invalid value that an error message quotes."""
_HOST = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_OTLP_ENDPOINT = re.compile(
    r"https?://([a-z0-9._-]+|\[[0-9a-f:]+\])(:\d{1,5})?(?!.*/v1/(traces|metrics|logs)/?$)(/[a-z0-9._~/-]*)?",
    re.IGNORECASE,
)
_ROOT_PATH = re.compile(r"(/(?!\.{1,2}(/|$))[A-Za-z0-9._~-]+)+")
OWN_PATHS = frozenset({"api", "v1", "v1beta", "docs", "openapi.json", "metrics", "healthz", "readyz", "ui"})
"""First parts of the gateway's own paths."""


def load_settings(
    environment: Mapping[str, str] = os.environ,
    default_file: Path = DEFAULT_FILE,
    env_files: Sequence[str] | None = None,
) -> Settings:
    """Return the settings in force; the module's docstring has their sources.

    `env_files` None means those of the variable LLM_GATEWAY_ENV_FILE. Binding a host beyond loopback implies
    `production` unless the environment is set explicitly.

    Raises:
        ConfigurationError: settings are unknown, invalid or unsafe; the message names all of them.
    """
    return load_with_origins(environment, default_file, env_files)[0]


def load_with_origins(
    environment: Mapping[str, str] = os.environ,
    default_file: Path = DEFAULT_FILE,
    env_files: Sequence[str] | None = None,
) -> tuple[Settings, dict[str, str]]:
    """Return the settings, and where each given one comes from: `environment`, `option`, or a file's path.

    Arguments and errors are those of `load_settings`. Each file is read once: it may be a pipe.
    """
    texts: dict[str, str] = {}
    origins: dict[str, str] = {}
    for source, given in _sources(environment, default_file, env_files):
        texts |= given
        for name in given:
            origins[SECRET_FILES.get(name, name)] = f"{_variable(name)}, {source}" if name in SECRET_FILES else source
    return _checked(texts), origins


def _checked(texts: dict[str, str]) -> Settings:
    """Return the settings with texts by field name. Raises as `load_settings`."""
    unread = list(_read_secrets(texts))
    values, problems = _convert(texts)
    settings = Settings(**values)
    if "env" not in values and not all(map(_is_loopback, _listened_on(settings))):
        settings = msgspec.structs.replace(settings, env="production")
    problems += [*_unfit_hosts(settings), *_unfit_proxies(settings)]
    problems += [*_unfit_admin_port(settings), *unfit_webhook(settings), *_unfit_otlp(settings)]
    problems += [*unfit_identity_provider(settings), *unfit_redis(settings)]
    problems += [*unfit_journal(settings), *unfit_host_name(settings)]
    problems += unread or _unsafe(settings)  # a secret that cannot be read is not missing, too
    if problems:
        raise ConfigurationError(" ".join(problems))
    return settings


def _sources(
    environment: Mapping[str, str], default_file: Path, env_files: Sequence[str] | None
) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the sources by their names, each with its texts by field name; those of later ones win.

    Raises:
        ConfigurationError: a file cannot be read, or a line of it is not NAME=value.
    """
    given = _ours(environment)
    listed = given.pop(ENV_FILE, "").split(os.pathsep)
    options = {name: given[name] for name in environment.get(OPTIONS, "").split(",") if name in given}
    with contextlib.suppress(FileNotFoundError):
        yield default_file.name, _ours(read_env_file(default_file, environment, is_default=True))
    yield "environment", given
    for path in filter(None, listed if env_files is None else env_files):
        try:
            yield shown_path(Path(path)), _ours(read_env_file(Path(path), environment))
        except FileNotFoundError:
            raise ConfigurationError(
                f"The file {shown_path(path)} does not exist: create it, or take it out of --env-file or "
                f"{_variable(ENV_FILE)}."
            ) from None
    yield "option", options


def _read_secrets(texts: dict[str, str]) -> Iterator[str]:
    """Replace the names of files with secrets by the secrets. Yields a sentence for each that does not fit."""
    for source, name in SECRET_FILES.items():
        if source not in texts:
            continue
        path = texts.pop(source)
        if name in texts:
            yield f"{_variable(name)} and {_variable(source)} are both set: unset one of them."
            continue
        try:
            texts[name] = read_secret_file(_variable(source), path)
        except ConfigurationError as error:
            yield str(error)


def encode_settings(settings: Settings, origins: Mapping[str, str] | None = None) -> bytes:
    """Return the settings as a JSON object, secrets included, and where they come from if that is known."""
    known = {} if origins is None else {"origins": dict(origins)}
    return json.dumps(msgspec.structs.asdict(settings) | known, default=str).encode()


def decode_settings(document: bytes) -> Settings:
    """Return the settings that `encode_settings` encoded."""
    values = json.loads(document)
    paths = {name: Path(values[name]) for name, (kind, _) in _fields().items() if kind is Path}
    return (SettingsFromSources if "origins" in values else Settings)(**(values | paths))


def read_settings(descriptor: int) -> Settings:
    """Return the settings in an open file that other processes read, too: its offset stays as it is."""
    return decode_settings(os.pread(descriptor, os.fstat(descriptor).st_size, 0))


class SettingHelp(NamedTuple):
    """Help of a setting for `serve --help`: form of its value, and text with range, default and variable."""

    form: str
    text: str


def setting_helps() -> dict[str, SettingHelp]:
    """Return the help of each setting, by field name."""
    defaults = Settings()
    return {name: _help(name, kind, meta, getattr(defaults, name)) for name, (kind, meta) in _fields().items()}


def file_helps() -> dict[str, SettingHelp]:
    """Return the help of the options of `serve` that name files with secrets, by field name."""
    return {
        source: SettingHelp("PATH", f"a file with the value of --{name.replace('_', '-')} [{_variable(source)}]")
        for source, name in SECRET_FILES.items()
    }


def _help(name: str, kind: object, meta: msgspec.Meta, default: object) -> SettingHelp:
    is_choice = get_origin(kind) is Literal
    forms: dict[object, str] = {int: "INT", float: "NUMBER", Path: "PATH"}
    form = "|".join(get_args(kind)) if is_choice else forms.get(kind, "TEXT")
    text = meta.description or ""
    if kind in (int, float):
        text += f"; {_requirement(kind, meta)}"
    if default not in (None, ""):
        text += f" [default: {default:g}]" if isinstance(default, float) else f" [default: {default}]"
    return SettingHelp(form, f"{text} [{_variable(name)}]")


@cache
def _fields() -> Mapping[str, tuple[Any, msgspec.Meta]]:
    """Return type and metadata (range, description) of each setting by its field name."""
    hints = get_type_hints(Settings, include_extras=True)
    return {name: (get_args(hint)[0], get_args(hint)[1]) for name, hint in hints.items()}


def _ours(variables: Mapping[str, str]) -> dict[str, str]:
    """Return the variables with the gateway's prefix, in any case, by field name; upper case wins over other cases."""
    by_name = sorted(variables.items(), reverse=True)  # capitals sort last in reverse, so they overwrite the others
    prefix = PREFIX.lower()
    return {name.lower().removeprefix(prefix): text for name, text in by_name if name.lower().startswith(prefix)}


def _convert(texts: Mapping[str, str]) -> tuple[dict[str, Any], list[str]]:
    """Convert each text to its setting's type. Returns the valid values, and a sentence for each invalid one."""
    fields = _fields()
    values: dict[str, Any] = {}
    problems: list[str] = []
    for name, text in sorted(texts.items()):
        if name not in fields:
            problems += _unknown(name, fields)
            continue
        kind, meta = fields[name]
        try:
            values[name] = msgspec.convert(_typed(kind, text), Annotated[kind, meta])
        except (ValueError, msgspec.ValidationError):
            shown = "" if name in SECRETS else f", not {_shown(text)}"
            problems.append(f"{_variable(name)} must be {_requirement(kind, meta)}{shown}.")
    return values, problems


def _variable(name: str) -> str:
    return f"{PREFIX}{name.upper()}"


def _shown(text: str) -> str:
    return repr(text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…")


def _unknown(name: str, known: Iterable[str]) -> Iterator[str]:
    if name == ENV_FILE:
        yield f"{_variable(name)} is not read from files: set it in the environment, or use --env-file."
        return
    near = difflib.get_close_matches(name, [*known, ENV_FILE, *SECRET_FILES], n=1)
    hint = f". Did you mean {_variable(near[0])}?" if near else ": docs/SETUP.md lists the settings."
    yield f"{_variable(name)} is not a setting{hint}"


def _typed(kind: object, text: str) -> object:
    """Convert the text to a number or a path if the setting's type is one. Does not check the range.

    Raises:
        ValueError: the text cannot be converted.
    """
    if kind is int:
        return int(text)
    if kind is float:
        number = float(text)
        if not math.isfinite(number):
            raise ValueError(text)
        return number
    if kind is Path:
        if not text:  # Path("") is the working directory
            raise ValueError(text)
        return Path(text)
    return text


def _requirement(kind: object, meta: msgspec.Meta) -> str:
    """Return the values that a setting allows, as a noun phrase for an error message."""
    if get_origin(kind) is Literal:
        *others, last = get_args(kind)
        return f"{', '.join(others)} or {last}"
    if kind is Path:
        return "a path"
    if kind not in (int, float):
        return "non-empty text"
    noun = "a whole number" if kind is int else "a finite number"
    if meta.gt is not None:
        return f"{noun} above {meta.gt}"
    return f"{noun} of at least {meta.ge}" if meta.le is None else f"{noun} from {meta.ge} to {meta.le}"


def _unfit_hosts(settings: Settings) -> Iterator[str]:
    """Yield an error message if an allowed host is not a host name."""
    if unfit := sorted(host for host in settings.own_hosts if not _HOST.fullmatch(host)):
        yield (
            f"{PREFIX}ALLOWED_HOSTS takes host names without scheme, port or wildcard, such as gateway; "
            f"not {_shown(unfit[0])}."
        )


def _listened_on(settings: Settings) -> list[str]:
    """Return the addresses that the gateway listens on."""
    return [settings.host, *([settings.admin_host] if settings.admin_port else [])]


def _unfit_admin_port(settings: Settings) -> Iterator[str]:
    """Yield an error message if the admin port is the other one, or if its address is set and the port is not."""
    if settings.admin_host != Settings().admin_host and not settings.admin_port:
        yield f"{PREFIX}ADMIN_HOST needs {PREFIX}ADMIN_PORT: set both, or neither."
    if settings.admin_port == settings.port:
        yield f"{PREFIX}ADMIN_PORT is {settings.port}, as {PREFIX}PORT: set another port."


def _unfit_proxies(settings: Settings) -> Iterator[str]:
    """Yield an error message for a proxy that is no address, and for a path that cannot be a prefix."""
    try:
        _ = settings.proxy_networks
    except ValueError as error:
        yield (
            f"{PREFIX}TRUSTED_PROXIES takes addresses and networks, such as 10.0.0.1,192.168.0.0/16: "
            f"{_shown(str(error))}."
        )
    root = settings.root_path
    if root and (not _ROOT_PATH.fullmatch(root) or root.split("/")[1] in OWN_PATHS):
        yield (
            f"{PREFIX}ROOT_PATH takes a path that begins with a slash and does not end with one, such as /llm, of "
            f"letters, digits and ._~-, whose first part is not one of the gateway's own; not {_shown(root)}."
        )


def _unfit_otlp(settings: Settings) -> Iterator[str]:
    """Yield an error message for a collector's URL, headers or signals that cannot be used."""
    if settings.otlp_endpoint and not _OTLP_ENDPOINT.fullmatch(settings.otlp_endpoint):
        yield (
            f"{PREFIX}OTLP_ENDPOINT must be a URL such as http://localhost:4318, without /v1/traces, user name, "
            "password, query and fragment."
        )
    try:
        _ = settings.otlp_header_fields
    except ValueError as error:
        yield (
            f"{PREFIX}OTLP_HEADERS takes name=value entries, comma-separated, with values percent-encoded, such as "
            f"api-key=abc,authorization=Bearer%20abc, and no header that the gateway sets itself; entry {error} is not "
            "one."
        )
    if settings.otlp_headers is not None and not settings.otlp_endpoint:
        yield f"{PREFIX}OTLP_HEADERS needs {PREFIX}OTLP_ENDPOINT: set both, or neither."
    if not settings.otlp_signal_names or not settings.otlp_signal_names <= OTLP_SIGNALS:
        shown = _shown(settings.otlp_signals)
        yield f"{PREFIX}OTLP_SIGNALS takes traces, metrics and logs, comma-separated; not {shown}."


def _unsafe(settings: Settings) -> Iterator[str]:
    """Yield an error message for each combination of settings that is unsafe, and for invalid service keys."""
    try:
        keys = settings.callers()
    except ConfigurationError as error:
        yield str(error)
    else:
        yield from _unsafe_keys(settings.env, keys)
    if settings.env == "dev":
        return
    encryption_keys = [key for key in (settings.encryption_keys or "").split(",") if key.strip()]
    if not encryption_keys:
        yield f"In production provider keys need encryption: set {PREFIX}ENCRYPTION_KEYS to 32 random bytes in base64."
    for position, key in enumerate(encryption_keys, start=1):
        if len(set(key.strip())) < MIN_DISTINCT:
            yield (
                f"Key {position} of {PREFIX}ENCRYPTION_KEYS is not random: make one with "
                "`llm-gateway keys new --encryption`."
            )


def _unsafe_keys(env: str, keys: Sequence[tuple[str, str, frozenset[str]]]) -> Iterator[str]:
    """Yield an error message for missing, repeated and, in production, weak service keys."""
    if len({key for _, key, _ in keys}) != len(keys) or len({name for name, _, _ in keys}) != len(keys):
        yield f"{PREFIX}SERVICE_KEYS names a key or a name twice."
    if not keys:
        yield (
            f"Callers need keys: set {PREFIX}SERVICE_KEYS to name:key entries. (Listening on more than loopback is "
            f"production, unless {PREFIX}ENV=dev says otherwise.)"
        )
    if env == "dev":
        return
    for name, key, _ in keys:
        if key.lower() in KNOWN_KEYS or len(key) < MIN_KEY_LENGTH or len(set(key)) < MIN_DISTINCT:
            yield (
                f"The service key {name!r} is publicly known, shorter than {MIN_KEY_LENGTH} characters or not random: "
                f"set a random one in {PREFIX}SERVICE_KEYS."
            )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
