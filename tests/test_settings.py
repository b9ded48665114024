"""Settings: their sources, and each error in them, with a message that says what to do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

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
from tests.reading_settings import ENCRYPTION_KEY, KEY, PRODUCTION, Read, reader, refusal

SETUP = Path(__file__).parents[1] / "docs" / "SETUP.md"


@pytest.fixture
def env_file(tmp_path: Path) -> Path:
    return tmp_path / ".env"


@pytest.fixture
def read(env_file: Path) -> Read:
    return reader(env_file)


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


def test_keys_without_scopes_are_named(read: Read) -> None:
    assert read(
        SERVICE_KEYS="shop:one:call, ops : two : read+admin ,all:three,,last:four"
    ).callers_without_scopes() == [
        "all",
        "last",
    ]
    assert read().callers_without_scopes() == []


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


def test_a_body_that_never_fits_into_those_in_flight_is_too_large() -> None:
    assert Settings().largest_body_bytes == Settings().max_body_bytes
    assert Settings(max_body_bytes_in_flight=5_000_000).largest_body_bytes == 5_000_000
