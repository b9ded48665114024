"""Settings: where they come from, and every reason not to start with them, in one sentence that says what to set."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from llm_gateway.errors import ConfigurationError
from llm_gateway.settings import DEV_KEY, SCOPES, Settings, load_settings
from tests.e2e.process import free_port

KEY = "k" * 32
ENCRYPTION_KEY = "ab" * 32
PRODUCTION = {"ENV": "production", "SERVICE_KEYS": f"ops:{KEY}", "ENCRYPTION_KEYS": ENCRYPTION_KEY}


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.upper().startswith("LLM_GATEWAY_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    return monkeypatch


def set_all(monkeypatch: pytest.MonkeyPatch, values: dict[str, str]) -> None:
    for name, value in values.items():
        monkeypatch.setenv(f"LLM_GATEWAY_{name}", value)


def test_the_defaults_are_those_of_the_table() -> None:
    settings = load_settings()
    assert (settings.env, settings.host, settings.port, settings.workers) == ("dev", "127.0.0.1", 8200, 1)
    assert settings.data_dir == Path("data")
    assert settings.url == "sqlite:///data/gateway.db"
    assert (settings.redis_url, settings.encryption_keys, settings.local_model) == (None, None, "auto")
    assert (settings.cache_ttl_seconds, settings.cache_max_bytes, settings.cache_scope) == (3600, 268435456, "customer")
    assert (settings.request_timeout_seconds, settings.journal_fsync) == (120, "always")
    assert (settings.on_disconnect, settings.accept_seconds, settings.drain_seconds) == ("drain", 5, 30)
    assert (settings.max_in_flight, settings.usage_retention_days) == (2000, 90)
    assert (settings.private_hosts, settings.log_level, settings.log_format) == (frozenset(), "info", "auto")
    assert settings.callers() == [("dev", DEV_KEY, SCOPES)]


def test_flags_win_over_the_environment_and_that_over_the_file(given: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        "LLM_GATEWAY_PORT=1\nLLM_GATEWAY_WORKERS=1\nOTHER=x\nLLM_GATEWAY_CACHE_SCOPE=global\n"
    )
    set_all(given, {"PORT": "2", "CACHE_TTL_SECONDS": "0"})
    assert load_settings().port == 2
    assert load_settings(port="3").port == 3
    assert (load_settings().cache_scope, load_settings().cache_ttl_seconds) == ("global", 0)


def test_settings_cannot_be_changed_and_do_not_show_keys(given: pytest.MonkeyPatch) -> None:
    set_all(given, {**PRODUCTION, "DATABASE_URL": "postgresql://user:secret@db/name"})
    settings = load_settings()
    assert KEY not in repr(settings)
    assert "secret" not in repr(settings)
    assert ENCRYPTION_KEY not in repr(settings)
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1


def test_keys_have_names_and_scopes(given: pytest.MonkeyPatch) -> None:
    given.setenv("LLM_GATEWAY_SERVICE_KEYS", "shop:one:call, ops : two : read+admin ,all:three,,last:four")
    assert load_settings().callers() == [
        ("shop", "one", frozenset({"call"})),
        ("ops", "two", frozenset({"read", "admin"})),
        ("all", "three", SCOPES),
        ("last", "four", SCOPES),
    ]


def test_private_hosts(given: pytest.MonkeyPatch) -> None:
    given.setenv("LLM_GATEWAY_ALLOWED_PRIVATE_HOSTS", " Internal.Example, ,10.0.0.1")
    assert load_settings().private_hosts == {"internal.example", "10.0.0.1"}


def test_a_database_elsewhere(given: pytest.MonkeyPatch) -> None:
    set_all(given, {"DATABASE_URL": "postgresql://db/gateway", "DATA_DIR": "/srv/x"})
    assert load_settings().url == "postgresql://db/gateway"
    given.delenv("LLM_GATEWAY_DATABASE_URL")
    assert load_settings().url == "sqlite:////srv/x/gateway.db"


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.8.8.8", "::1", "[::1]"])
def test_dev_on_loopback_needs_nothing(given: pytest.MonkeyPatch, host: str) -> None:
    given.setenv("LLM_GATEWAY_HOST", host)
    assert load_settings().env == "dev"


def test_dev_elsewhere_must_be_said(given: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given.setenv("LLM_GATEWAY_HOST", "0.0.0.0")
    assert load_settings(env="dev").host == "0.0.0.0"
    (tmp_path / ".env").write_text("LLM_GATEWAY_ENV=dev\n")
    assert load_settings().host == "0.0.0.0"


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::"])
def test_production_with_all_it_needs(given: pytest.MonkeyPatch, host: str) -> None:
    set_all(given, {**PRODUCTION, "HOST": host})
    assert load_settings().callers() == [("ops", KEY, SCOPES)]


REFUSED = [
    ({"PROT": "1"}, r"LLM_GATEWAY_PROT is not a setting: if LLM_GATEWAY_PORT is meant, write that\.$"),
    ({"SERVICE_KEY": "1"}, r"LLM_GATEWAY_SERVICE_KEY is not a setting: if LLM_GATEWAY_SERVICE_KEYS is meant"),
    ({"FROBNICATE": ""}, r"LLM_GATEWAY_FROBNICATE is not a setting; see docs/SETUP\.md for the names there are\.$"),
    ({"DATA_DIR": ""}, r"LLM_GATEWAY_DATA_DIR does not fit: It is empty\.$"),
    ({"PORT": "http"}, r"LLM_GATEWAY_PORT does not fit: .*integer"),
    ({"PORT": "0"}, r"LLM_GATEWAY_PORT does not fit: .*1"),
    ({"PORT": "65536"}, r"LLM_GATEWAY_PORT does not fit: .*65535"),
    ({"HOST": ""}, r"LLM_GATEWAY_HOST does not fit"),
    ({"ENV": "staging"}, r"LLM_GATEWAY_ENV does not fit: .*'dev' or 'production'"),
    ({"ENV": ""}, r"LLM_GATEWAY_ENV does not fit"),
    ({"ENV": "Production"}, r"LLM_GATEWAY_ENV does not fit"),
    ({"LOCAL_MODEL": "yes"}, r"LLM_GATEWAY_LOCAL_MODEL does not fit"),
    ({"CACHE_TTL_SECONDS": "-1"}, r"LLM_GATEWAY_CACHE_TTL_SECONDS does not fit"),
    ({"CACHE_TTL_SECONDS": "nan"}, r"LLM_GATEWAY_CACHE_TTL_SECONDS does not fit"),
    ({"CACHE_MAX_BYTES": "256M"}, r"LLM_GATEWAY_CACHE_MAX_BYTES does not fit"),
    ({"CACHE_SCOPE": "all"}, r"LLM_GATEWAY_CACHE_SCOPE does not fit"),
    ({"REQUEST_TIMEOUT_SECONDS": "0"}, r"LLM_GATEWAY_REQUEST_TIMEOUT_SECONDS does not fit"),
    ({"REQUEST_TIMEOUT_SECONDS": "inf"}, r"LLM_GATEWAY_REQUEST_TIMEOUT_SECONDS does not fit"),
    ({"JOURNAL_FSYNC": "never"}, r"LLM_GATEWAY_JOURNAL_FSYNC does not fit"),
    ({"ON_DISCONNECT": "wait"}, r"LLM_GATEWAY_ON_DISCONNECT does not fit"),
    ({"DRAIN_SECONDS": "-0.1"}, r"LLM_GATEWAY_DRAIN_SECONDS does not fit"),
    ({"MAX_IN_FLIGHT": "0"}, r"LLM_GATEWAY_MAX_IN_FLIGHT does not fit"),
    ({"USAGE_RETENTION_DAYS": "0"}, r"LLM_GATEWAY_USAGE_RETENTION_DAYS does not fit"),
    ({"LOG_LEVEL": "loud"}, r"LLM_GATEWAY_LOG_LEVEL does not fit"),
    ({"LOG_FORMAT": "xml"}, r"LLM_GATEWAY_LOG_FORMAT does not fit"),
    ({"WORKERS": "0"}, r"LLM_GATEWAY_WORKERS does not fit"),
    ({"WORKERS": "2"}, r"LLM_GATEWAY_WORKERS=2 .*own rate limits.*2 times.*LLM_GATEWAY_REDIS_URL"),
    ({"REDIS_URL": "redis://x"}, r"LLM_GATEWAY_REDIS_URL.*not part of this version"),
    ({"WORKERS": "2", "REDIS_URL": "redis://x"}, r"LLM_GATEWAY_REDIS_URL.*not part of this version"),
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
    ({"HOST": "0.0.0.0"}, r"Callers need keys: .*production, unless LLM_GATEWAY_ENV=dev says otherwise"),
    ({"HOST": "::", "SERVICE_KEYS": "ops:short"}, r"The service key 'ops' is publicly known or shorter than 32"),
    ({"HOST": "gateway.example", "SERVICE_KEYS": f"ops:{KEY}"}, r"LLM_GATEWAY_ENCRYPTION_KEYS to 32 random bytes"),
    ({"ENV": "production"}, r"Callers need keys: set LLM_GATEWAY_SERVICE_KEYS"),
    ({**PRODUCTION, "SERVICE_KEYS": ""}, r"Callers need keys"),
    ({**PRODUCTION, "SERVICE_KEYS": f"ops:{DEV_KEY}"}, r"The service key 'ops' is publicly known or shorter than 32"),
    ({**PRODUCTION, "SERVICE_KEYS": f"ops:{KEY},b:{'x' * 31}"}, r"The service key 'b' is publicly known or shorter"),
    ({**PRODUCTION, "ENCRYPTION_KEYS": ""}, r"LLM_GATEWAY_ENCRYPTION_KEYS to 32 random bytes"),
    ({**PRODUCTION, "ENCRYPTION_KEYS": "  "}, r"LLM_GATEWAY_ENCRYPTION_KEYS to 32 random bytes"),
    ({**PRODUCTION, "WORKERS": "4"}, r"LLM_GATEWAY_WORKERS=4"),
]


@pytest.mark.parametrize(("values", "sentence"), REFUSED)
def test_what_it_does_not_start_with(given: pytest.MonkeyPatch, values: dict[str, str], sentence: str) -> None:
    set_all(given, values)
    with pytest.raises(ConfigurationError) as refused:
        load_settings()
    text = str(refused.value)
    assert re.search(sentence, text)
    assert text.endswith((".", ".)"))
    assert "\n" not in text
    for secret in (KEY, ENCRYPTION_KEY, "x" * 31, "justakey"):
        assert secret not in text


def test_a_name_is_unknown_in_any_case_and_in_the_file_too(given: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given.setenv("llm_gateway_typo", "1")
    with pytest.raises(ConfigurationError, match="LLM_GATEWAY_TYPO is not a setting"):
        load_settings()
    given.delenv("llm_gateway_typo")
    given.setenv("llm_gateway_port", "8300")
    assert load_settings().port == 8300
    (tmp_path / ".env").write_text("LLM_GATEWAY_SERVICEKEYS=a:b\n")
    with pytest.raises(ConfigurationError, match="LLM_GATEWAY_SERVICEKEYS is not a setting"):
        load_settings()


@pytest.mark.parametrize("content", [b"LLM_GATEWAY_PORT=\xff\xfe\n", b"LLM_GATEWAY_DATA_DIR=a\0b\n"])
def test_a_file_that_is_no_text(tmp_path: Path, content: bytes) -> None:
    (tmp_path / ".env").write_bytes(content)
    with pytest.raises(ConfigurationError, match=r"The file \.env cannot be read"):
        load_settings()


def test_a_file_that_is_a_directory(tmp_path: Path) -> None:
    (tmp_path / ".env").mkdir()
    with pytest.raises(ConfigurationError, match=r"The file \.env cannot be read"):
        load_settings()


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
def test_a_line_of_the_file_that_says_nothing(tmp_path: Path, text: str, line: int) -> None:
    (tmp_path / ".env").write_text(text)
    with pytest.raises(ConfigurationError, match=rf"Line {line} of the file \.env is not NAME=value: correct it"):
        load_settings()


def test_what_a_file_may_look_like(tmp_path: Path) -> None:
    text = "\ufeffLLM_GATEWAY_PORT=8300\r\n# none\r\n\r\nexport LLM_GATEWAY_CACHE_SCOPE = 'global' # all\r\nBARE\r\n"
    (tmp_path / ".env").write_bytes(text.encode())
    settings = load_settings()
    assert (settings.port, settings.cache_scope) == (8300, "global")


def test_every_setting_is_described() -> None:
    assert all(field.description for field in Settings.model_fields.values())


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"PORT": "x"}, "LLM_GATEWAY_PORT"),
        ({"HOST": "0.0.0.0"}, "LLM_GATEWAY_ENV"),
        ({"ENV": "production"}, "LLM_GATEWAY_SERVICE_KEYS"),
        ({**PRODUCTION, "ENCRYPTION_KEYS": "short"}, "LLM_GATEWAY_ENCRYPTION_KEYS"),
        ({"WORKERS": "2"}, "LLM_GATEWAY_REDIS_URL"),
        ({"TYPO": "1"}, "LLM_GATEWAY_TYPO"),
        ({"DATABASE_URL": "mysql://x"}, "LLM_GATEWAY_DATABASE_URL"),
        ({"DATA_DIR": "/dev/null/x"}, "LLM_GATEWAY_DATA_DIR"),
    ],
)
def test_the_process_ends_with_78_and_one_line(values: dict[str, str], word: str, tmp_path: Path) -> None:
    given = {"PORT": str(free_port()), **values}
    environment = {**os.environ, **{f"LLM_GATEWAY_{name}": value for name, value in given.items()}}
    command = [sys.executable, "-m", "llm_gateway"]
    ended = subprocess.run(
        command, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
    )
    assert ended.returncode == 78, ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert ended.stderr.startswith("llm-gateway: ")
    assert word in ended.stderr
    assert KEY not in ended.stderr + ended.stdout


def test_listening_beyond_loopback_is_production(given: pytest.MonkeyPatch) -> None:
    set_all(given, {"HOST": "0.0.0.0", "SERVICE_KEYS": f"ops:{KEY}", "ENCRYPTION_KEYS": ENCRYPTION_KEY})

    assert load_settings().env == "production"


def test_dev_beyond_loopback_must_be_said(given: pytest.MonkeyPatch) -> None:
    set_all(given, {"HOST": "0.0.0.0", "ENV": "dev"})

    assert load_settings().env == "dev"
