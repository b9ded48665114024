"""Every setting of the gateway, in one frozen class: `LLM_GATEWAY_*` variables, a `.env` file, or `serve` flags.

Read only by `app.py` and `cli.py`; everything below them takes plain values.
"""

from __future__ import annotations

import difflib
import io
import ipaddress
import os
from pathlib import Path
from typing import Annotated, Any, Literal

from dotenv.parser import parse_stream
from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from llm_gateway.errors import ConfigurationError

PREFIX = "LLM_GATEWAY_"
ENV_FILE, ENV_FILE_ENCODING = ".env", "utf-8-sig"
DEV_KEY = "dev-gateway-key"
MIN_KEY_LENGTH = 32
SCOPES = frozenset({"call", "read", "admin"})
KNOWN_KEYS = frozenset({DEV_KEY, "changeme", "secret", "test", "password"})


def _path(given: object) -> object:
    if given == "":
        raise ValueError("It is empty")  # as a path it would be the working directory
    return given


class Settings(BaseSettings):
    """What the gateway was told. Durations are seconds, sizes bytes."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=ENV_FILE, env_file_encoding=ENV_FILE_ENCODING, extra="ignore", frozen=True
    )

    env: Literal["dev", "production"] = Field("dev", description="dev or production")
    host: str = Field("127.0.0.1", min_length=1, description="address to listen on")
    port: int = Field(8200, ge=1, le=65535, description="port to listen on")
    workers: int = Field(1, ge=1, description="processes; more than one needs Redis")
    data_dir: Annotated[Path, BeforeValidator(_path)] = Field(
        Path("./data"), description="journal, SQLite file, generated dev encryption key"
    )
    database_url: str | None = Field(
        None, repr=False, description="sqlite:///… or postgresql://…; SQLite in the data directory"
    )
    redis_url: str | None = Field(None, repr=False, description="shared limits and cache")
    service_keys: str | None = Field(None, repr=False, description="name:key[:scope+scope], comma-separated")
    encryption_keys: str | None = Field(None, repr=False, description="comma-separated; first encrypts, all decrypt")
    local_model: Literal["auto", "true", "false"] = Field("auto", description="run the embedded local model")
    cache_ttl_seconds: float = Field(
        3600, ge=0, allow_inf_nan=False, description="how long answers are kept; 0 turns the cache off"
    )
    cache_max_bytes: int = Field(256 * 1024 * 1024, ge=0, description="memory for kept answers")
    cache_scope: Literal["customer", "global"] = Field("customer", description="who shares kept answers")
    request_timeout_seconds: float = Field(120, gt=0, allow_inf_nan=False, description="one deadline over all attempts")
    journal_fsync: Literal["always", "interval", "off"] = Field("always", description="when the journal is synced")
    on_disconnect: Literal["drain", "abort"] = Field("drain", description="streams whose client went away")
    accept_seconds: float = Field(
        5, ge=0, allow_inf_nan=False, description="how long SIGTERM goes on accepting requests"
    )
    drain_seconds: float = Field(
        30, ge=0, allow_inf_nan=False, description="how long SIGTERM waits for requests in flight"
    )
    max_in_flight: int = Field(2000, ge=1, description="requests at once; beyond it 503")
    max_body_bytes_in_flight: int = Field(
        128 * 1024 * 1024, ge=4 * 1024 * 1024, description="bytes of all request bodies at once; beyond it 503"
    )
    usage_retention_days: int = Field(90, ge=1, description="how long single usage records are kept")
    allowed_private_hosts: str = Field("", description="upstream hosts that may be private in production")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least severe level logged")
    log_format: Literal["auto", "json", "console"] = Field("auto", description="console on a terminal, else JSON")

    @property
    def url(self) -> str:
        """The database URL, the SQLite file in the data directory by default."""
        return self.database_url or f"sqlite:///{self.data_dir / 'gateway.db'}"

    @property
    def private_hosts(self) -> frozenset[str]:
        """Upstream hosts that may resolve to private addresses in production."""
        return frozenset(h.strip().lower() for h in self.allowed_private_hosts.split(",") if h.strip())

    def callers(self) -> list[tuple[str, str, frozenset[str]]]:
        """The service keys as (name, key, scopes).

        Raises:
            ConfigurationError: an entry is not `name:key[:scope+scope]`.
        """
        if self.service_keys is None:
            return [("dev", DEV_KEY, SCOPES)] if self.env == "dev" else []
        return [_service_key(entry) for entry in self.service_keys.split(",") if entry.strip()]


def load_settings(**flags: Any) -> Settings:
    """The settings in force: flags first, then the environment, then `.env`, then defaults.

    Whoever listens on more than loopback without saying `dev` is in production.

    Raises:
        ConfigurationError: an unknown or unfit setting, or one that is not safe to start with.
    """
    _refuse_unknown_names()
    try:
        settings = Settings(**flags)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        name = PREFIX + str(first["loc"][0]).upper() if first["loc"] else "The settings"
        raise ConfigurationError(f"{name} does not fit: {first['msg'].removeprefix('Value error, ')}.") from None
    if "env" not in settings.model_fields_set and not _is_loopback(settings.host):
        settings = settings.model_copy(update={"env": "production"})
    _refuse_unsafe(settings)
    _refuse_unsupported(settings)
    return settings


def _refuse_unknown_names() -> None:
    known = [name.upper() for name in Settings.model_fields]
    for name in sorted({name.upper() for name in (*os.environ, *_names_in_file())}):
        short = name.removeprefix(PREFIX)
        if short != name and short not in known:
            near = difflib.get_close_matches(short, known, n=1)
            hint = (
                f": if {PREFIX}{near[0]} is meant, write that."
                if near
                else "; see docs/SETUP.md for the names there are."
            )
            raise ConfigurationError(f"{name} is not a setting{hint}")


def _names_in_file() -> list[str]:
    """The names in `.env`; what its reader would silently pass over is refused."""
    try:
        text = Path(ENV_FILE).read_text(encoding=ENV_FILE_ENCODING)
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError):
        text = "\0"
    if "\0" in text:
        raise ConfigurationError("The file .env cannot be read: make it readable UTF-8 text, or remove it.")
    names = []
    for binding in parse_stream(io.StringIO(text)):
        is_ours = (binding.key or "").upper().startswith(PREFIX)
        if binding.error or (is_ours and binding.value is None):
            before, text = binding.original.line, binding.original.string
            line = before + text[: len(text) - len(text.lstrip())].count("\n")
            raise ConfigurationError(f"Line {line} of the file .env is not NAME=value: correct it, or begin it with #.")
        names.append(binding.key or "")
    return names


def _service_key(entry: str) -> tuple[str, str, frozenset[str]]:
    name, _, rest = entry.partition(":")
    key, says_scopes, listed = rest.partition(":")
    name, key = name.strip(), key.strip()
    # An empty list of scopes is a slip, not a wish for all of them.
    scopes = frozenset(scope.strip() for scope in listed.split("+")) if says_scopes else SCOPES
    if not name or not key or not scopes <= SCOPES:
        raise ConfigurationError(
            f"{PREFIX}SERVICE_KEYS takes name:key or name:key:scope+scope entries with the scopes call, read and admin."
        )
    return name, key, scopes


def _refuse_unsafe(settings: Settings) -> None:
    keys = settings.callers()
    if len({key for _, key, _ in keys}) != len(keys) or len({name for name, _, _ in keys}) != len(keys):
        raise ConfigurationError(f"{PREFIX}SERVICE_KEYS names a key or a name twice.")
    if not keys:
        raise ConfigurationError(
            f"Callers need keys: set {PREFIX}SERVICE_KEYS to name:key entries. (Listening on more than loopback is "
            f"production, unless {PREFIX}ENV=dev says otherwise.)"
        )
    if settings.env == "dev":
        return
    for name, key, _ in keys:
        if key.lower() in KNOWN_KEYS or len(key) < MIN_KEY_LENGTH:
            raise ConfigurationError(
                f"The service key {name!r} is publicly known or shorter than {MIN_KEY_LENGTH} characters: "
                f"set a random one in {PREFIX}SERVICE_KEYS."
            )
    if not (settings.encryption_keys or "").strip():
        raise ConfigurationError(
            f"In production provider keys need encryption: set {PREFIX}ENCRYPTION_KEYS to 32 random bytes in base64."
        )


def _refuse_unsupported(settings: Settings) -> None:
    if settings.redis_url is not None:
        raise ConfigurationError(f"{PREFIX}REDIS_URL: shared limits and cache are not part of this version; unset it.")
    if settings.workers > 1:
        raise ConfigurationError(
            f"{PREFIX}WORKERS={settings.workers} would give every process its own rate limits, so a provider could be "
            f"sent {settings.workers} times its limit: use 1 until {PREFIX}REDIS_URL shares them."
        )


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False
