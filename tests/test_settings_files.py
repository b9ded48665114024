"""Files with settings (`--env-file`) and with one secret each (`NAME_FILE`): precedence, and each error in them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from llm_gateway.errors import ConfigurationError
from llm_gateway.inherited import OPTIONS
from llm_gateway.settings import Settings
from llm_gateway.settings_files import MAX_ENV_BYTES, MAX_SECRET_BYTES
from llm_gateway.settings_reader import SECRET_FILES, load_settings

SECRET = "shop:a-key-that-no-message-may-show"
URL = "https://example.com/hooks/a-path-that-is-secret"


def load(tmp_path: Path, *files: str, **variables: str) -> Settings:
    """Load settings from variables (without the prefix), from `.env` in `tmp_path`, and from files there."""
    environment = {f"LLM_GATEWAY_{name}": text for name, text in variables.items()}
    return load_settings(environment, tmp_path / ".env", [str(tmp_path / name) for name in files] or None)


def refusal(load_it: Callable[[], Settings]) -> str:
    with pytest.raises(ConfigurationError) as refused:
        load_it()
    text = str(refused.value)
    assert SECRET not in text
    assert "\n" not in text
    return text


def test_files_win_over_variables_and_later_files_over_earlier_ones(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("LLM_GATEWAY_PORT=1\nLLM_GATEWAY_WORKERS=9\nLLM_GATEWAY_MAX_IN_FLIGHT=9\n")
    (tmp_path / "a").write_text("LLM_GATEWAY_PORT=3\nLLM_GATEWAY_DRAIN_SECONDS=3\n")
    (tmp_path / "b").write_text("export llm_gateway_port='4'\nOTHER=x\n")
    found = load(tmp_path, "a", "b", PORT="2", WORKERS="2", DRAIN_SECONDS="2")
    assert (found.port, found.drain_seconds, found.workers, found.max_in_flight) == (4, 3, 2, 9)


def test_a_variable_lists_files_like_a_path(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("LLM_GATEWAY_PORT=3\n")
    (tmp_path / "b").write_text("LLM_GATEWAY_PORT=4\nLLM_GATEWAY_DATA_DIR=${HOME}/data\n")
    listed = os.pathsep.join(["", str(tmp_path / "a"), str(tmp_path / "b"), ""])
    environment = {"LLM_GATEWAY_ENV_FILE": listed, "HOME": "/srv"}
    found = load_settings(environment, tmp_path / ".env")
    assert (found.port, found.data_dir) == (4, Path("/srv/data"))
    assert load_settings(environment, tmp_path / ".env", [str(tmp_path / "a")]).port == 3, "options replace it"
    assert load(tmp_path, ENV_FILE="").port == 8200


def test_options_of_serve_win_over_files(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("LLM_GATEWAY_PORT=3\nLLM_GATEWAY_WORKERS=3\n")
    environment = {"LLM_GATEWAY_PORT": "1", "LLM_GATEWAY_WORKERS": "1", OPTIONS: "port,env_file"}
    found = load_settings(environment, tmp_path / ".env", [str(tmp_path / "a")])
    assert (found.port, found.workers) == (1, 3)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"LLM_GATEWAY_PROT=1\n", "LLM_GATEWAY_PROT is not a setting. Did you mean LLM_GATEWAY_PORT?"),
        (b"LLM_GATEWAY_ENVFILE=x\n", "LLM_GATEWAY_ENVFILE is not a setting. Did you mean LLM_GATEWAY_ENV_FILE?"),
        (b"LLM_GATEWAY_ENV_FILE=x\n", "LLM_GATEWAY_ENV_FILE is not read from files: set it in the environment"),
        (b"A=1\n\nshop:a-key-that-no-message-may-show\n", "Line 3 of the file {path} is not NAME=value"),
        (b"LLM_GATEWAY_PORT\n", "Line 1 of the file {path} is not NAME=value"),
        (b"A=\xff\n", "The file {path} cannot be read (it is not UTF-8 text)"),
        (b"A=\0\n", "The file {path} cannot be read (it holds a NUL character)"),
        (b"#" * (MAX_ENV_BYTES + 1), "The file {path} cannot be read (it is longer than 1048576 bytes)"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "gateway.env"
    path.write_bytes(content)
    assert refusal(lambda: load(tmp_path, "gateway.env")).startswith(says.format(path=path))


def test_a_file_that_is_missing_or_a_directory_is_refused(tmp_path: Path) -> None:
    says = refusal(lambda: load(tmp_path, "none"))
    assert says == (
        f"The file {tmp_path}/none does not exist: create it, or take it out of --env-file or LLM_GATEWAY_ENV_FILE."
    )
    (tmp_path / "folder").mkdir()
    assert refusal(lambda: load(tmp_path, "folder")).startswith(
        f"The file {tmp_path}/folder cannot be read (Is a directory): make it readable UTF-8 text"
    )


@pytest.mark.parametrize("source", list(SECRET_FILES))
def test_every_secret_can_be_in_a_file(tmp_path: Path, source: str) -> None:
    secret = {
        "webhook_url_file": URL,
        "redis_url_file": f"redis://:{SECRET}@localhost",
        "otlp_headers_file": f"api-key={SECRET}",
    }.get(source, SECRET)
    (tmp_path / "secret").write_text(f"{secret}\n")
    webhook = {"webhook_url_file": {"WEBHOOK_SECRET": SECRET}, "webhook_secret_file": {"WEBHOOK_URL": URL}}
    needed = webhook | {"otlp_headers_file": {"OTLP_ENDPOINT": "http://localhost:4318"}}
    given = {source.upper(): str(tmp_path / "secret"), **needed.get(source, {})}
    found = load(tmp_path, **given)
    assert getattr(found, SECRET_FILES[source]) == secret
    with pytest.raises(ConfigurationError, match=r"^LLM_GATEWAY_\w+ and LLM_GATEWAY_\w+_FILE are both set: unset one"):
        load(tmp_path, **given, **{source.removesuffix("_file").upper(): secret})


@pytest.mark.parametrize(
    ("content", "secret"), [(b"x:y", "x:y"), (b"x:y\n", "x:y"), (b"x:y\r\n", "x:y"), (b"\nx:y\n\n", "\nx:y\n")]
)
def test_one_newline_at_the_end_is_not_part_of_the_secret(tmp_path: Path, content: bytes, secret: str) -> None:
    (tmp_path / "secret").write_bytes(content)
    (tmp_path / "a").write_text(f"LLM_GATEWAY_SERVICE_KEYS_FILE={tmp_path / 'secret'}\n")
    assert load(tmp_path, "a").service_keys == secret


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty: write the secret into it, and nothing else."),
        (b" \n", "is empty: "),
        (SECRET.encode() * 2000, f"is longer than {MAX_SECRET_BYTES // 1024} KiB: "),
        (SECRET.encode() + b"\xff", "is not UTF-8 text: "),
    ],
)
def test_a_secret_that_does_not_fit_is_refused_without_showing_it(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "secret"
    path.write_bytes(content)
    says = refusal(lambda: load(tmp_path, SERVICE_KEYS_FILE=str(path), ENV="production"))
    assert says.startswith(f"The file {path} in LLM_GATEWAY_SERVICE_KEYS_FILE {reason}")
    assert "Callers need keys" not in says, "they are not missing"


def test_a_secret_file_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for place, reason in (("none", "cannot be read (No such file or directory)"), ("pipe", "is not a regular file")):
        path = tmp_path / place
        says = refusal(lambda path=path: load(tmp_path, ENCRYPTION_KEYS_FILE=str(path), PORT="x"))  # type: ignore[misc]
        assert f"The file {path} in LLM_GATEWAY_ENCRYPTION_KEYS_FILE {reason}: " in says
        assert says.startswith("LLM_GATEWAY_PORT must be "), "all problems are named at once"
    for secret in ("shop:canary-key", "postgresql://user:canary@db/gateway"):
        says = refusal(lambda secret=secret: load(tmp_path, SERVICE_KEYS_FILE=secret))  # type: ignore[misc]
        assert says.startswith("The file that LLM_GATEWAY_SERVICE_KEYS_FILE names cannot be read (No such file"), says
        assert "canary" not in says
    assert refusal(lambda: load(tmp_path, DATABASE_URL_FILE="")) == (
        "LLM_GATEWAY_DATABASE_URL_FILE must be the path of a file, not ''."
    )


def test_the_file_can_reference_variables(tmp_path: Path) -> None:
    env_file = tmp_path / ".env"
    env_file.write_text("BASE=/srv\nLLM_GATEWAY_DATA_DIR=${BASE}/${NAME}/${NONE}/${NONE:-default}\n")
    settings = load_settings({"BASE": "/not/this", "NAME": "gateway"}, env_file)
    assert settings.data_dir == Path("/srv/gateway/default")
