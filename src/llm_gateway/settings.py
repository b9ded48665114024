"""Settings of the gateway: one frozen struct with the name, default, range and description of each.

`settings_reader.py` fills it. Only the composition roots and the command line import it; modules below them take plain
values.
"""

from __future__ import annotations

import re
import socket
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote

from msgspec import Meta, Struct

from llm_gateway.errors import ConfigurationError

PREFIX = "LLM_GATEWAY_"
DEV_KEY = "dev-gateway-key"
SCOPES = frozenset({"call", "read", "admin"})
TOKEN_SCOPES = ("call", "read", "own", "admin")
ROLES = ("viewer", "own", "admin")
SECRETS = frozenset(
    {
        "database_url",
        "redis_url",
        "service_keys",
        "encryption_keys",
        "key_peppers",
        "webhook_url",
        "webhook_secret",
        "otlp_headers",
        "oidc_client_secret",
    }
)
"""Settings whose values never appear in a repr or an error message."""
OTLP_SIGNALS = frozenset({"traces", "metrics", "logs"})
OWN_HEADERS = frozenset(
    {"host", "connection", "content-length", "content-type", "content-encoding", "transfer-encoding", "user-agent"}
)
"""Headers that the gateway sets in its requests to the collector."""
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")


class Settings(Struct, frozen=True, kw_only=True):
    """The settings of one gateway process. Durations are in seconds, sizes in bytes.

    The field `cache_scope` is the variable LLM_GATEWAY_CACHE_SCOPE and the flag `--cache-scope`. The constructor does
    not check ranges; `load_settings` does.
    """

    env: Annotated[Literal["dev", "production"], Meta(description="dev or production")] = "dev"
    host: Annotated[str, Meta(min_length=1, description="address to listen on")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535, description="port to listen on")] = 8200
    data_dir: Annotated[Path, Meta(description="journal, SQLite file, generated dev encryption key")] = Path("./data")
    database_url: Annotated[
        str | None, Meta(description="sqlite:///… or postgresql://…; SQLite in the data directory")
    ] = None
    redis_url: Annotated[
        str | None, Meta(description="redis://…, rediss://… or unix://…: limits and cache of several hosts")
    ] = None
    service_keys: Annotated[str | None, Meta(description="name:key[:scope+scope], comma-separated")] = None
    encryption_keys: Annotated[str | None, Meta(description="comma-separated; first encrypts, all decrypt")] = None
    key_peppers: Annotated[
        str | None, Meta(description="version:secret, comma-separated; first hashes new keys, all check")
    ] = None
    local_model: Annotated[Literal["auto", "true", "false"], Meta(description="run the embedded local model")] = "auto"
    cache_ttl_seconds: Annotated[float, Meta(ge=0, description="how long answers are kept; 0 turns the cache off")] = (
        3600.0
    )
    cache_max_bytes: Annotated[int, Meta(ge=0, description="memory for kept answers")] = 256 * 1024 * 1024
    cache_scope: Annotated[Literal["customer", "global"], Meta(description="who shares kept answers")] = "customer"
    request_timeout_seconds: Annotated[float, Meta(gt=0, description="one deadline over all attempts")] = 120.0
    journal_fsync: Annotated[Literal["always", "interval", "off"], Meta(description="when the journal is synced")] = (
        "always"
    )
    journal: Annotated[
        Literal["disk", "database"],
        Meta(description="where usage must be before its answer leaves; database is for hosts without a disk"),
    ] = "disk"
    host_name: Annotated[
        str, Meta(description="name of this host among several on one database; that of the machine by default")
    ] = ""
    on_disconnect: Annotated[
        Literal["drain", "abort"], Meta(description="whether a stream is read to its end after its client disconnected")
    ] = "drain"
    accept_seconds: Annotated[float, Meta(ge=0, description="how long SIGTERM goes on accepting requests")] = 5.0
    drain_seconds: Annotated[float, Meta(ge=0, description="how long SIGTERM waits for requests in flight")] = 30.0
    workers: Annotated[int, Meta(ge=1, le=31, description="processes that answer requests")] = 1
    max_in_flight: Annotated[int, Meta(ge=1, description="requests at once; beyond it 503")] = 2000
    max_queue_seconds: Annotated[
        float, Meta(ge=0, description="longest wait for a provider at its rate limit; 0 refuses at once")
    ] = 8.0
    max_body_bytes: Annotated[
        int,
        Meta(ge=1024 * 1024, le=1024**3, description="bytes of one body on the vendors' paths (/v1, /v1beta)"),
    ] = 32 * 1024 * 1024
    max_body_bytes_in_flight: Annotated[
        int, Meta(ge=4 * 1024 * 1024, description="bytes of all request bodies at once; beyond it 503")
    ] = 128 * 1024 * 1024
    usage_retention_days: Annotated[
        int, Meta(ge=1, le=36_500, description="how long single usage records are kept")
    ] = 90
    allowed_private_hosts: Annotated[
        str, Meta(description="upstream hosts that may be private in production, comma-separated")
    ] = ""
    allowed_hosts: Annotated[
        str, Meta(description="names beside localhost by which dev may be called, comma-separated")
    ] = ""
    trusted_proxies: Annotated[
        str, Meta(description="addresses or networks of proxies whose forwarding headers are believed, comma-separated")
    ] = ""
    webhook_url: Annotated[str | None, Meta(description="URL that gets messages about budgets and keys")] = None
    webhook_secret: Annotated[str | None, Meta(description="secret that messages to the webhook are signed with")] = (
        None
    )
    otlp_endpoint: Annotated[
        str, Meta(description="URL of a collector that gets traces, metrics and logs over OTLP/HTTP")
    ] = ""
    otlp_headers: Annotated[
        str | None, Meta(description="headers for the collector, name=value, comma-separated, values percent-encoded")
    ] = None
    otlp_signals: Annotated[str, Meta(min_length=1, description="what the collector gets, comma-separated")] = (
        "traces,metrics,logs"
    )
    trace_ratio: Annotated[
        float, Meta(ge=0, le=1, description="share of traces sent beside those that are sent in any case")
    ] = 1.0
    oidc_issuer: Annotated[str, Meta(description="issuer of the OpenID Connect provider that people sign in at")] = ""
    oidc_client_id: Annotated[str, Meta(description="client id of the gateway at that provider")] = ""
    oidc_client_secret: Annotated[str | None, Meta(description="client secret of the gateway at that provider")] = None
    oidc_scopes: Annotated[str, Meta(description="scopes that are requested of the provider")] = "openid profile email"
    oidc_groups_claim: Annotated[str, Meta(min_length=1, description="claim with a person's groups")] = "groups"
    oidc_roles: Annotated[str, Meta(description="roles by group, such as llm-admins=admin,llm-readers=viewer")] = ""
    oidc_team_claim: Annotated[str, Meta(description="claim with the team of people with the role own")] = ""
    jwt_issuer: Annotated[str, Meta(description="issuer of tokens (JWT) that are taken as service keys")] = ""
    jwt_audience: Annotated[str, Meta(description="audience that these tokens must be for")] = ""
    jwt_team_claim: Annotated[str, Meta(description="claim with the team of a token's requests")] = ""
    jwt_customer_claim: Annotated[str, Meta(description="claim with the customer of a token's requests")] = ""
    jwt_scopes_claim: Annotated[str, Meta(min_length=1, description="claim with a token's scopes")] = "scope"
    jwt_scopes: Annotated[
        str, Meta(description="scopes by values of that claim, such as llm.call=call; none: each token may call")
    ] = ""
    root_path: Annotated[str, Meta(description="path at which a proxy serves the gateway, such as /llm")] = ""
    ui_insecure: Annotated[
        Literal["true", "false"], Meta(description="dashboard without https, beyond this machine")
    ] = "false"
    admin_host: Annotated[str, Meta(min_length=1, description="address of the admin port")] = "127.0.0.1"
    admin_port: Annotated[
        int, Meta(ge=0, le=65535, description="port for the management API alone; 0 leaves it on the other one")
    ] = 0
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="least severe level logged")
    ] = "info"
    log_format: Annotated[Literal["auto", "json", "console"], Meta(description="console on a terminal, else JSON")] = (
        "auto"
    )

    @property
    def url(self) -> str:
        """The database URL, the SQLite file in the data directory by default."""
        return self.database_url or f"sqlite:///{self.data_dir / 'gateway.db'}"

    @property
    def largest_body_bytes(self) -> int:
        """Bytes of the largest body of a call. One beyond the cap of all together could not be taken at any time."""
        return min(self.max_body_bytes, self.max_body_bytes_in_flight)

    @property
    def name_of_host(self) -> str:
        """The name of this host: the setting, or that of the machine."""
        return self.host_name or socket.gethostname()

    @property
    def private_hosts(self) -> frozenset[str]:
        """Upstream hosts that may resolve to private addresses in production."""
        return frozenset(h.strip().lower() for h in self.allowed_private_hosts.split(",") if h.strip())

    @property
    def own_hosts(self) -> frozenset[str]:
        """Host names that dev accepts in addition to localhost."""
        return frozenset(h.strip().lower() for h in self.allowed_hosts.split(",") if h.strip())

    @property
    def proxy_networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """Networks of the proxies whose headers are believed.

        Raises:
            ValueError: one is no address and no network.
        """
        return tuple(ip_network(each.strip()) for each in self.trusted_proxies.split(",") if each.strip())

    @property
    def otlp_header_fields(self) -> dict[str, str]:
        """Names, in lower case, and values of the headers for the collector.

        Raises:
            ValueError: one is not name=value; the message is its place in the list.
        """
        found = {}
        for place, pair in enumerate((self.otlp_headers or "").split(","), 1):
            name, is_pair, value = (part.strip() for part in pair.partition("="))
            if not pair.strip():
                continue
            decoded = unquote(value)
            is_sendable = _HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(decoded)
            if not is_pair or not is_sendable or name.lower() in OWN_HEADERS:
                raise ValueError(str(place))
            found[name.lower()] = decoded
        return found

    @property
    def otlp_signal_names(self) -> frozenset[str]:
        """The signals that the collector gets."""
        return frozenset(name.strip() for name in self.otlp_signals.split(",") if name.strip())

    @property
    def roles_of_groups(self) -> dict[str, str]:
        """Roles of the groups of the identity provider.

        Raises:
            ConfigurationError: an entry is not `group=role`.
        """
        return _pairs("OIDC_ROLES", self.oidc_roles, ROLES, "llm-admins=admin,llm-readers=viewer")

    @property
    def scopes_of_tokens(self) -> dict[str, str]:
        """Scopes by what tokens say.

        Raises:
            ConfigurationError: an entry is not `value=scope`.
        """
        return _pairs("JWT_SCOPES", self.jwt_scopes, TOKEN_SCOPES, "llm.call=call,llm.reports=read")

    @property
    def dev_key(self) -> str | None:
        """The public development key if it is valid for this gateway, else None."""
        is_taken = self.env == "dev" and any(key == DEV_KEY for _, key, _ in self.callers())
        return DEV_KEY if is_taken else None

    def callers(self) -> list[tuple[str, str, frozenset[str]]]:
        """Return the service keys as (name, key, scopes).

        Raises:
            ConfigurationError: an entry is not `name:key[:scope+scope]`.
        """
        if self.service_keys is None:
            return [("dev", DEV_KEY, SCOPES)] if self.env == "dev" else []
        return [_service_key(entry) for entry in self.service_keys.split(",") if entry.strip()]

    def callers_without_scopes(self) -> list[str]:
        """Return the names of the service keys that may do everything, since their entries name no scopes."""
        entries = [entry.strip() for entry in (self.service_keys or "").split(",") if entry.strip()]
        return [entry.partition(":")[0].strip() for entry in entries if entry.count(":") < 2]

    def __repr__(self) -> str:
        """Show all settings except the secret ones."""
        return f"Settings({', '.join(f'{name}={value!r}' for name, value in self.__rich_repr__())})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """Return the fields that a repr shows; rich would print every field without this."""
        return [(name, getattr(self, name)) for name in Settings.__struct_fields__ if name not in SECRETS]


def _service_key(entry: str) -> tuple[str, str, frozenset[str]]:
    name, _, rest = entry.partition(":")
    key, has_scopes, listed = rest.partition(":")
    name, key = name.strip(), key.strip()
    # `name:key:` without scopes is an error: it must not grant all of them.
    scopes = frozenset(scope.strip() for scope in listed.split("+")) if has_scopes else SCOPES
    if not name or not key or not scopes <= SCOPES:
        raise ConfigurationError(
            f"{PREFIX}SERVICE_KEYS takes name:key or name:key:scope+scope entries with the scopes call, read and admin."
        )
    return name, key, scopes


def _pairs(name: str, text: str, known: tuple[str, ...], example: str) -> dict[str, str]:
    """Return pairs such as `group=role`, comma-separated; what is behind the last equals sign must be known.

    Raises:
        ConfigurationError: an entry is no such pair.
    """
    found = {}
    for entry in filter(None, map(str.strip, text.split(","))):
        value, _, meaning = (part.strip() for part in entry.rpartition("="))
        if not value or meaning not in known:
            raise ConfigurationError(
                f"{PREFIX}{name} takes NAME=MEANING, comma-separated, with the meanings {', '.join(known)}, such as "
                f"{example}."
            )
        found[value] = meaning
    return found


class SettingsFromSources(Settings, frozen=True, kw_only=True):
    """Settings that know where they come from: `origins` has the source of each that was given, by field name."""

    origins: dict[str, str] = {}
