"""Settings: their sources, and each error in them, with a message that says what to do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import pytest

from llm_gateway.errors import ConfigurationError
from llm_gateway.inherited import OPTIONS
from llm_gateway.settings import DEV_KEY, SCOPES, SECRETS, Settings, SettingsFromSources
from llm_gateway.settings_reader import (
    SECRET_FILES,
    decode_settings,
    encode_settings,
    load_settings,
    load_with_origins,
    read_settings,
    setting_helps,
)

KEY = "0123456789abcdef" * 2
ENCRYPTION_KEY = KEY * 2
PRODUCTION = {"ENV": "production", "SERVICE_KEYS": f"ops:{KEY}", "ENCRYPTION_KEYS": ENCRYPTION_KEY}
OIDC = {"OIDC_ISSUER": "https://id.example/realms/all", "OIDC_CLIENT_ID": "gateway", "OIDC_ROLES": "g=admin"}
SETUP = Path(__file__).parents[1] / "docs" / "SETUP.md"

Read: TypeAlias = Callable[..., Settings]


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    return tmp_path / ".env"


@pytest.fixture
def read(env_file: Path) -> Read:
    """Load settings from the given variables (named without the prefix) and `env_file`, not from this process."""

    def read(**variables: str) -> Settings:
        return load_settings({f"LLM_GATEWAY_{name}": text for name, text in variables.items()}, env_file)

    return read


def refusal(read: Read, **variables: str) -> str:
    """Return the error message for these variables."""
    with pytest.raises(ConfigurationError) as refused:
        read(**variables)
    return str(refused.value)


def test_the_defaults_are_those_of_the_documentation(read: Read) -> None:
    assert read() == Settings()
    settings = read()
    assert (settings.env, settings.host, settings.port) == ("dev", "127.0.0.1", 8200)
    assert settings.data_dir == Path("data")
    assert settings.url == "sqlite:///data/gateway.db"
    assert (settings.service_keys, settings.encryption_keys, settings.local_model) == (None, None, "auto")
    assert (settings.cache_ttl_seconds, settings.cache_max_bytes, settings.cache_scope) == (3600, 268435456, "customer")
    assert (settings.request_timeout_seconds, settings.journal_fsync) == (120, "always")
    assert (settings.on_disconnect, settings.accept_seconds, settings.drain_seconds) == ("drain", 5, 30)
    assert (settings.max_in_flight, settings.max_body_bytes_in_flight) == (2000, 134217728)
    assert (settings.usage_retention_days, settings.private_hosts) == (90, frozenset())
    assert (settings.log_level, settings.log_format) == ("info", "auto")
    assert settings.callers() == [("dev", DEV_KEY, SCOPES)]


def test_the_documentation_lists_every_setting_and_no_other() -> None:
    listed = re.findall(r"^\| `LLM_GATEWAY_(\w+)` \|", SETUP.read_text(encoding="utf-8"), re.MULTILINE)
    settings = [name.lower() for name in listed if not name.endswith("_FILE")]
    assert settings == list(Settings.__struct_fields__)
    assert {name.lower() for name in listed} - set(settings) == set(SECRET_FILES)


def test_every_setting_is_described() -> None:
    assert list(setting_helps()) == list(Settings.__struct_fields__)
    assert all(found.form and found.text for found in setting_helps().values())


def test_every_default_is_in_its_own_range(read: Read) -> None:
    settings = Settings()
    texts = {name.upper(): str(getattr(settings, name)) for name in Settings.__struct_fields__ if name not in SECRETS}
    assert read(**texts) == settings


def test_the_environment_wins_over_the_file(read: Read, env_file: Path) -> None:
    env_file.write_text("LLM_GATEWAY_PORT=1\nOTHER=x\nLLM_GATEWAY_CACHE_SCOPE=global\n")
    settings = read(PORT="2", CACHE_TTL_SECONDS="0")
    assert (settings.port, settings.cache_scope, settings.cache_ttl_seconds) == (2, "global", 0)
    assert read().port == 1


def test_children_know_where_each_setting_comes_from(env_file: Path, tmp_path: Path) -> None:
    env_file.write_text("LLM_GATEWAY_PORT=1\nLLM_GATEWAY_CACHE_SCOPE=global\nOTHER=x\n")
    (tmp_path / "more.env").write_text("LLM_GATEWAY_HOST=::1\nLLM_GATEWAY_REQUEST_TIMEOUT_SECONDS=9\n")
    variables = {
        "PORT": "2",
        "WORKERS": "3",
        "SERVICE_KEYS_FILE": str(tmp_path / "keys"),
        "HOST": "x",
        "ENV_FILE": f"{tmp_path}/more.env",
    }
    given = {f"LLM_GATEWAY_{name}": text for name, text in variables.items()}
    (tmp_path / "keys").write_text("shop:a-key-of-a-file")
    (tmp_path / "keys").chmod(0o600)
    loaded, origins = load_with_origins({**given, OPTIONS: "workers"}, env_file)
    assert (loaded.port, loaded.workers, loaded.service_keys) == (2, 3, "shop:a-key-of-a-file")
    assert {**origins, "host": ""} == {
        "port": "environment", "cache_scope": ".env", "workers": "option", "host": "",
        "request_timeout_seconds": origins["host"], "service_keys": "LLM_GATEWAY_SERVICE_KEYS_FILE, environment",
    }  # fmt: skip
    assert origins["host"].endswith("more.env")
    settings = decode_settings(encode_settings(Settings(port=2), origins))
    assert isinstance(settings, SettingsFromSources)
    assert (settings.port, settings.origins, "origins" in repr(settings)) == (2, origins, False)


def test_a_file_that_can_be_read_once_only_is_enough(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    os.write(writing, b"LLM_GATEWAY_PORT=1\n")
    os.close(writing)
    settings, origins = load_with_origins({}, tmp_path / "none", [f"/dev/fd/{reading}"])
    os.close(reading)
    assert (settings.port, origins) == (1, {"port": f"/dev/fd/{reading}"})


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(AttributeError, match="immutable"):
        Settings().port = 1  # type: ignore[misc]


def test_the_repr_of_settings_shows_no_secrets(read: Read) -> None:
    settings = read(**PRODUCTION, DATABASE_URL="postgresql://user:secret@db/name")
    assert repr(settings).startswith("Settings(env='production', host='127.0.0.1', port=8200, data_dir=")
    for shown in (repr(settings), repr(settings.__rich_repr__())):
        for secret in (KEY, "secret", ENCRYPTION_KEY):
            assert secret not in shown


def test_keys_have_names_and_scopes(read: Read) -> None:
    assert read(SERVICE_KEYS="shop:one:call, ops : two : read+admin ,all:three,,last:four").callers() == [
        ("shop", "one", frozenset({"call"})),
        ("ops", "two", frozenset({"read", "admin"})),
        ("all", "three", SCOPES),
        ("last", "four", SCOPES),
    ]


def test_private_hosts_are_listed_with_commas(read: Read) -> None:
    settings = read(ALLOWED_PRIVATE_HOSTS=" Internal.Example, ,10.0.0.1")
    assert settings.private_hosts == {"internal.example", "10.0.0.1"}


def test_own_hosts_are_listed_with_commas(read: Read) -> None:
    assert read(ALLOWED_HOSTS=" Gateway, ,box.internal").own_hosts == {"gateway", "box.internal"}


def test_the_database_is_in_the_data_directory_unless_it_has_a_url(read: Read) -> None:
    assert read(DATABASE_URL="postgresql://db/gateway", DATA_DIR="/srv/x").url == "postgresql://db/gateway"
    assert read(DATA_DIR="/srv/x").url == "sqlite:////srv/x/gateway.db"


@pytest.mark.parametrize(
    ("variables", "value"),
    [
        ({"PORT": " 8300 "}, 8300),
        ({"PORT": "65535"}, 65535),
        ({"CACHE_MAX_BYTES": "1_000"}, 1000),
        ({"CACHE_TTL_SECONDS": ".5"}, 0.5),
        ({"REQUEST_TIMEOUT_SECONDS": "1e3"}, 1000),
        ({"MAX_BODY_BYTES_IN_FLIGHT": "4194304"}, 4194304),
    ],
)
def test_numbers_are_parsed_in_common_notations(read: Read, variables: dict[str, str], value: float) -> None:
    [name] = variables
    assert getattr(read(**variables), name.lower()) == value


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "::1", "[::1]"])
def test_dev_on_loopback_needs_nothing(read: Read, host: str) -> None:
    assert read(HOST=host).env == "dev"


def test_listening_beyond_loopback_implies_production(read: Read) -> None:
    settings = read(HOST="0.0.0.0", SERVICE_KEYS=f"ops:{KEY}", ENCRYPTION_KEYS=ENCRYPTION_KEY)
    assert (settings.env, settings.host) == ("production", "0.0.0.0")
    settings = read(ADMIN_HOST="0.0.0.0", ADMIN_PORT="8201", SERVICE_KEYS=f"ops:{KEY}", ENCRYPTION_KEYS=ENCRYPTION_KEY)
    assert (settings.env, settings.admin_port) == ("production", 8201)


def test_dev_beyond_loopback_must_be_explicit(read: Read, env_file: Path) -> None:
    assert read(HOST="0.0.0.0", ENV="dev").env == "dev"
    env_file.write_text("LLM_GATEWAY_ENV=dev\n")
    assert read(HOST="0.0.0.0").env == "dev"


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::"])
def test_production_starts_with_keys_and_encryption_keys(read: Read, host: str) -> None:
    assert read(**PRODUCTION, HOST=host).callers() == [("ops", KEY, SCOPES)]


REFUSED = [
    ({"PROT": "1"}, r"LLM_GATEWAY_PROT is not a setting\. Did you mean LLM_GATEWAY_PORT\?$"),
    ({"SERVICE_KEY": "1"}, r"LLM_GATEWAY_SERVICE_KEY is not a setting\. Did you mean LLM_GATEWAY_SERVICE_KEYS\?"),
    ({"FROBNICATE": ""}, r"LLM_GATEWAY_FROBNICATE is not a setting: docs/SETUP\.md lists the settings\.$"),
    ({"DATA_DIR": ""}, r"^LLM_GATEWAY_DATA_DIR must be a path, not ''\.$"),
    ({"PORT": "http"}, r"^LLM_GATEWAY_PORT must be a whole number from 1 to 65535, not 'http'\.$"),
    ({"PORT": "0"}, r"^LLM_GATEWAY_PORT must be a whole number from 1 to 65535, not '0'\.$"),
    ({"PORT": "65536"}, r"^LLM_GATEWAY_PORT must be a whole number from 1 to 65535, not '65536'\.$"),
    ({"HOST": ""}, r"^LLM_GATEWAY_HOST must be non-empty text, not ''\.$"),
    ({"ENV": "staging"}, r"^LLM_GATEWAY_ENV must be dev or production, not 'staging'\.$"),
    ({"ENV": ""}, r"^LLM_GATEWAY_ENV must be dev or production, not ''\.$"),
    ({"ENV": "Production"}, r"^LLM_GATEWAY_ENV must be dev or production, not 'Production'\.$"),
    ({"LOCAL_MODEL": "yes"}, r"^LLM_GATEWAY_LOCAL_MODEL must be auto, true or false, not 'yes'\.$"),
    (
        {"CACHE_TTL_SECONDS": "-1"},
        r"^LLM_GATEWAY_CACHE_TTL_SECONDS must be a finite number of at least 0, not '\-1'\.$",
    ),
    (
        {"CACHE_TTL_SECONDS": "nan"},
        r"^LLM_GATEWAY_CACHE_TTL_SECONDS must be a finite number of at least 0, not 'nan'\.$",
    ),
    ({"CACHE_MAX_BYTES": "256M"}, r"^LLM_GATEWAY_CACHE_MAX_BYTES must be a whole number of at least 0, not '256M'\.$"),
    ({"CACHE_SCOPE": "all"}, r"^LLM_GATEWAY_CACHE_SCOPE must be customer or global, not 'all'\.$"),
    (
        {"REQUEST_TIMEOUT_SECONDS": "0"},
        r"^LLM_GATEWAY_REQUEST_TIMEOUT_SECONDS must be a finite number above 0, not '0'\.$",
    ),
    (
        {"REQUEST_TIMEOUT_SECONDS": "inf"},
        r"^LLM_GATEWAY_REQUEST_TIMEOUT_SECONDS must be a finite number above 0, not 'inf'\.$",
    ),
    ({"JOURNAL_FSYNC": "never"}, r"^LLM_GATEWAY_JOURNAL_FSYNC must be always, interval or off, not 'never'\.$"),
    ({"ON_DISCONNECT": "wait"}, r"^LLM_GATEWAY_ON_DISCONNECT must be drain or abort, not 'wait'\.$"),
    ({"DRAIN_SECONDS": "-0.1"}, r"^LLM_GATEWAY_DRAIN_SECONDS must be a finite number of at least 0, not '\-0\.1'\.$"),
    ({"MAX_IN_FLIGHT": "0"}, r"^LLM_GATEWAY_MAX_IN_FLIGHT must be a whole number of at least 1, not '0'\.$"),
    (
        {"USAGE_RETENTION_DAYS": "0"},
        r"^LLM_GATEWAY_USAGE_RETENTION_DAYS must be a whole number of at least 1, not '0'\.$",
    ),
    ({"LOG_LEVEL": "loud"}, r"^LLM_GATEWAY_LOG_LEVEL must be debug, info, warning or error, not 'loud'\.$"),
    ({"LOG_FORMAT": "xml"}, r"^LLM_GATEWAY_LOG_FORMAT must be auto, json or console, not 'xml'\.$"),
    ({"ACCEPT_SECONDS": "-1"}, r"^LLM_GATEWAY_ACCEPT_SECONDS must be a finite number of at least 0, not '-1'\.$"),
    ({"PORT": "1.5"}, r"^LLM_GATEWAY_PORT must be a whole number from 1 to 65535, not '1\.5'\.$"),
    ({"PORT": "9" * 5000}, rf"^LLM_GATEWAY_PORT must be a whole number from 1 to 65535, not '{'9' * 80}…'\.$"),
    ({"LOG_LEVEL": "a\nb\udcff"}, r"^LLM_GATEWAY_LOG_LEVEL must be .*, not 'a\\nb\\udcff'\.$"),
    ({"MAX_BODY_BYTES_IN_FLIGHT": "1"}, r"BYTES_IN_FLIGHT must be a whole number of at least 4194304, not '1'\.$"),
    ({"WORKERS": "0"}, r"^LLM_GATEWAY_WORKERS must be a whole number from 1 to 31, not '0'\.$"),
    ({"WORKERS": "65"}, r"^LLM_GATEWAY_WORKERS must be a whole number from 1 to 31, not '65'\.$"),
    *(
        ({"REDIS_URL": url}, rf"^LLM_GATEWAY_REDIS_URL must be redis://\[.*: {reason}")
        for url, reason in (
            ("localhost:6379", "it does not begin with redis://"),
            ("redis://:justakey@", "it names no host"),
            ("redis://h:99999", "host or port cannot be read"),
            ("redis://h/justakey", "the database is not a number"),
            ("redis://justakey@h", "it has a user name and no password"),
            ("redis://h?password=justakey", "an option behind"),
            ("unix://run/valkey.sock", "unix:// needs the absolute path"),
            ("redis://:justa#key@h", "it has a #|it names no host|host or port"),
        )
    ),
    ({"SERVICE_KEYS": "justakey"}, r"LLM_GATEWAY_SERVICE_KEYS takes name:key"),
    ({"SERVICE_KEYS": ":key"}, r"LLM_GATEWAY_SERVICE_KEYS takes name:key"),
    ({"SERVICE_KEYS": "name:"}, r"LLM_GATEWAY_SERVICE_KEYS takes name:key"),
    ({"SERVICE_KEYS": "name: :call"}, r"LLM_GATEWAY_SERVICE_KEYS takes name:key"),
    ({"SERVICE_KEYS": "name:key:"}, r"scopes call, read and admin"),
    ({"SERVICE_KEYS": "name:key:+"}, r"scopes call, read and admin"),
    ({"SERVICE_KEYS": "name:key:write"}, r"scopes call, read and admin"),
    ({"SERVICE_KEYS": "name:key:call:more"}, r"scopes call, read and admin"),
    ({"SERVICE_KEYS": "a:key,b:key"}, r"LLM_GATEWAY_SERVICE_KEYS names a key or a name twice"),
    ({"SERVICE_KEYS": "a:key,a:other"}, r"LLM_GATEWAY_SERVICE_KEYS names a key or a name twice"),
    ({"SERVICE_KEYS": ""}, r"Callers need keys: set LLM_GATEWAY_SERVICE_KEYS"),
    ({"SERVICE_KEYS": " , "}, r"Callers need keys: set LLM_GATEWAY_SERVICE_KEYS"),
    ({"ADMIN_HOST": "::1"}, r"^LLM_GATEWAY_ADMIN_HOST needs LLM_GATEWAY_ADMIN_PORT: set both, or neither\.$"),
    ({"ADMIN_PORT": "8200"}, r"^LLM_GATEWAY_ADMIN_PORT is 8200, as LLM_GATEWAY_PORT: set another port\.$"),
    ({"ADMIN_PORT": "65536"}, r"^LLM_GATEWAY_ADMIN_PORT must be a whole number from 0 to 65535, not '65536'\.$"),
    ({"ADMIN_HOST": "0.0.0.0", "ADMIN_PORT": "8201"}, r"Callers need keys: .*production"),
    ({"HOST": "0.0.0.0"}, r"Callers need keys: .*production, unless LLM_GATEWAY_ENV=dev says otherwise"),
    ({"HOST": "::", "SERVICE_KEYS": "ops:short"}, r"The service key 'ops' is publicly known, shorter than 32"),
    ({"HOST": "gateway.example", "SERVICE_KEYS": f"ops:{KEY}"}, r"LLM_GATEWAY_ENCRYPTION_KEYS to 32 random bytes"),
    ({"ENV": "production"}, r"Callers need keys: set LLM_GATEWAY_SERVICE_KEYS"),
    ({**PRODUCTION, "SERVICE_KEYS": ""}, r"Callers need keys"),
    ({**PRODUCTION, "SERVICE_KEYS": "ops:" + "a" * 32}, r"The service key 'ops' is .* or not random: set a random one"),
    ({**PRODUCTION, "SERVICE_KEYS": "ops:" + "abcdefg" * 5}, r"The service key 'ops' is .* or not random"),
    ({**PRODUCTION, "ENCRYPTION_KEYS": "0" * 64}, r"Key 1 of LLM_GATEWAY_ENCRYPTION_KEYS is not random: make one with"),
    (
        {**PRODUCTION, "ENCRYPTION_KEYS": f"{ENCRYPTION_KEY},{'A' * 43}="},
        r"Key 2 of LLM_GATEWAY_ENCRYPTION_KEYS is not",
    ),
    ({**PRODUCTION, "SERVICE_KEYS": f"ops:{DEV_KEY}"}, r"The service key 'ops' is publicly known, shorter than 32"),
    (
        {**PRODUCTION, "SERVICE_KEYS": f"ops:{KEY},b:{'x' * 31}"},
        r"The service key 'b' is publicly known, shorter than 32",
    ),
    ({**PRODUCTION, "ENCRYPTION_KEYS": ""}, r"LLM_GATEWAY_ENCRYPTION_KEYS to 32 random bytes"),
    ({"ALLOWED_HOSTS": "gateway,box:8200"}, r"LLM_GATEWAY_ALLOWED_HOSTS takes host names .*; not 'box:8200'"),
    ({"ALLOWED_HOSTS": "*"}, r"LLM_GATEWAY_ALLOWED_HOSTS takes host names without scheme, port or wildcard"),
    ({"TRUSTED_PROXIES": "10.0.0.1,proxy"}, r"LLM_GATEWAY_TRUSTED_PROXIES takes addresses .*'proxy' does not appear"),
    ({"JWT_ISSUER": "https://id.example"}, r"LLM_GATEWAY_JWT_ISSUER and LLM_GATEWAY_JWT_AUDIENCE need each other"),
    ({"JWT_ISSUER": "id.example", "JWT_AUDIENCE": "x"}, r"LLM_GATEWAY_JWT_ISSUER must be the issuer as"),
    ({**OIDC, "JWT_ISSUER": OIDC["OIDC_ISSUER"], "JWT_AUDIENCE": "gateway"}, r"JWT_AUDIENCE must not be LLM_"),
    ({"JWT_SCOPES": "llm.call=calls"}, r"LLM_GATEWAY_JWT_SCOPES takes NAME=MEANING"),
    ({"OIDC_ISSUER": "https://id.example"}, r"OIDC_CLIENT_ID, LLM_GATEWAY_OIDC_ROLES need each other"),
    ({**OIDC, "OIDC_ISSUER": "http://id.example"}, r"LLM_GATEWAY_OIDC_ISSUER must be the issuer as"),
    ({**OIDC, "OIDC_ISSUER": "https://id.example?x"}, r"LLM_GATEWAY_OIDC_ISSUER must be the issuer as"),
    *(({**OIDC, "OIDC_ROLES": text}, r"LLM_GATEWAY_OIDC_ROLES takes NAME=MEANING") for text in ("g=root", "admins")),
    ({**OIDC, "OIDC_ROLES": "g=own"}, r"role own in LLM_GATEWAY_OIDC_ROLES needs LLM_GATEWAY_OIDC_TEAM_CLAIM"),
    ({**OIDC, "OIDC_SCOPES": "profile"}, r"LLM_GATEWAY_OIDC_SCOPES takes scopes"),
    ({"WEBHOOK_URL": "https://x.example/h"}, r"WEBHOOK_URL and LLM_GATEWAY_WEBHOOK_SECRET need each other"),
    ({"WEBHOOK_URL": "ftp://x", "WEBHOOK_SECRET": "s" * 16}, r"LLM_GATEWAY_WEBHOOK_URL must be a URL such as"),
    ({"WEBHOOK_URL": "https://a:b@x.example", "WEBHOOK_SECRET": "s" * 15}, r"16 characters or more.*without user name"),
    ({"TRUSTED_PROXIES": "10.0.0.1/8"}, r"LLM_GATEWAY_TRUSTED_PROXIES takes addresses .*10.0.0.1/8 has host bits set"),
    *(
        ({"ROOT_PATH": path}, rf"LLM_GATEWAY_ROOT_PATH takes a path that begins .*; not {re.escape(repr(path))}\.")
        for path in ("llm", "/", "/llm/", "/a//b", "/..", "/a/./b", "/a b", "/ui", "/v1", "/api/x", "/ä", "http://a/b")
    ),
    ({**PRODUCTION, "ENCRYPTION_KEYS": "  "}, r"LLM_GATEWAY_ENCRYPTION_KEYS to 32 random bytes"),
]


@pytest.mark.parametrize(("variables", "sentence"), REFUSED)
def test_invalid_or_unsafe_settings_are_rejected(read: Read, variables: dict[str, str], sentence: str) -> None:
    text = refusal(read, **variables)
    assert re.search(sentence, text)
    assert text.endswith((".", ".)", "?"))
    assert "\n" not in text
    for secret in (KEY, ENCRYPTION_KEY, "x" * 31, "justakey"):
        assert secret not in text


def test_all_invalid_settings_are_named_at_once(read: Read) -> None:
    text = refusal(read, PORT="http", ENV="staging", TYPO="1", WORKERS="0", SERVICE_KEYS="justakey", LOG_LEVEL="debug")
    assert re.findall(r"LLM_GATEWAY_(\w+) (?:must|is not|takes)", text) == [
        "ENV",
        "PORT",
        "TYPO",
        "WORKERS",
        "SERVICE_KEYS",
    ]
    assert "justakey" not in text


def test_all_unsafe_settings_are_named_at_once(read: Read) -> None:
    text = refusal(read, ENV="production", SERVICE_KEYS="shop:short,ops:shorter")
    assert "'shop'" in text
    assert "'ops'" in text
    assert "LLM_GATEWAY_ENCRYPTION_KEYS" in text


def test_invalid_and_unsafe_settings_are_named_together(read: Read) -> None:
    text = refusal(read, PORT="http", ALLOWED_HOSTS="https://x", SERVICE_KEYS="a:b,a:b")
    assert re.findall(r"LLM_GATEWAY_(\w+) (?:must|takes|names)", text) == ["PORT", "ALLOWED_HOSTS", "SERVICE_KEYS"]
    text = refusal(read, ENV="production", SERVICE_KEYS="justakey", ALLOWED_HOSTS="*")
    assert set(re.findall(r"LLM_GATEWAY_(\w+)", text)) == {"ALLOWED_HOSTS", "SERVICE_KEYS", "ENCRYPTION_KEYS"}


def test_settings_pass_through_an_inherited_file_unchanged(read: Read, tmp_path: Path) -> None:
    settings = read(**PRODUCTION, DATA_DIR="/srv/\udcff", DRAIN_SECONDS="2.5", WORKERS="3")
    assert decode_settings(encode_settings(settings)) == settings
    path = tmp_path / "settings"
    path.write_bytes(encode_settings(settings))
    with path.open("rb") as file:
        assert [read_settings(file.fileno()), read_settings(file.fileno())] == [settings, settings]
        assert file.tell() == 0


def test_variable_names_are_read_in_any_case(env_file: Path) -> None:
    assert load_settings({"llm_gateway_port": "8300"}, env_file).port == 8300
    both = {"LLM_GATEWAY_PORT": "8301", "llm_gateway_port": "8300", "Llm_Gateway_Port": "8302"}
    assert load_settings(both, env_file).port == 8301, "upper case wins, as a flag must"
    with pytest.raises(ConfigurationError, match="LLM_GATEWAY_TYPO is not a setting"):
        load_settings({"llm_gateway_typo": "1"}, env_file)


def test_an_unknown_name_in_the_file_is_rejected(read: Read, env_file: Path) -> None:
    env_file.write_text("LLM_GATEWAY_SERVICEKEYS=a:b\n")
    assert refusal(read).startswith("LLM_GATEWAY_SERVICEKEYS is not a setting")


@pytest.mark.parametrize("content", [b"LLM_GATEWAY_PORT=\xff\xfe\n", b"LLM_GATEWAY_DATA_DIR=a\0b\n"])
def test_a_file_that_is_not_text_is_rejected(read: Read, env_file: Path, content: bytes) -> None:
    env_file.write_bytes(content)
    assert refusal(read).startswith("The file .env cannot be read")


def test_a_directory_in_place_of_the_file_is_rejected(read: Read, env_file: Path) -> None:
    env_file.mkdir()
    assert refusal(read).startswith("The file .env cannot be read")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("LLM_GATEWAY_PORT\n", 1),
        ("# port\n\nLLM_GATEWAY_PORT: 1\n", 3),
        ("\n\n=1", 3),
        ("A=1\nLLM_GATEWAY_CACHE_SCOPE='global\nB=2\n", 2),
        ("export llm_gateway_port\n", 1),
    ],
)
def test_a_line_of_the_file_without_a_value_is_rejected(read: Read, env_file: Path, text: str, line: int) -> None:
    env_file.write_text(text)
    assert refusal(read).startswith(f"Line {line} of the file .env is not NAME=value: correct it")


def test_the_file_can_have_comments_quotes_exports_and_a_byte_order_mark(read: Read, env_file: Path) -> None:
    text = "\ufeffLLM_GATEWAY_PORT=8300\r\n# none\r\n\r\nexport LLM_GATEWAY_CACHE_SCOPE = 'global' # all\r\nBARE\r\n"
    env_file.write_bytes(text.encode())
    settings = read()
    assert (settings.port, settings.cache_scope) == (8300, "global")


def test_a_settings_error_ends_the_process_with_78_and_one_line(tmp_path: Path) -> None:
    unfit = {"LLM_GATEWAY_PORT": "x", "LLM_GATEWAY_WORKERS": "0", "LLM_GATEWAY_SERVICE_KEYS": f"ops:{KEY}"}
    ended = subprocess.run(
        [sys.executable, "-m", "llm_gateway"],
        env={**os.environ, **unfit},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert ended.returncode == 78, ended.stderr
    [line] = ended.stderr.splitlines()
    assert line.startswith("llm-gateway: LLM_GATEWAY_PORT must be ")
    assert "LLM_GATEWAY_WORKERS" in line
    assert KEY not in ended.stderr + ended.stdout
