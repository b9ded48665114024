"""Checks of settings: each invalid or unsafe one is refused, with a message that says what to do."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from llm_gateway.settings import DEV_KEY
from tests.reading_settings import ENCRYPTION_KEY, KEY, PRODUCTION, Read, reader, refusal

OIDC = {"OIDC_ISSUER": "https://id.example/realms/all", "OIDC_CLIENT_ID": "gateway", "OIDC_ROLES": "g=admin"}


@pytest.fixture
def read(tmp_path: Path) -> Read:
    return reader(tmp_path / ".env")


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
        r"^LLM_GATEWAY_USAGE_RETENTION_DAYS must be a whole number from 1 to 36500, not '0'\.$",
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
