"""Command `check`: report whether `serve` could start. It leaves nothing behind."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import NamedTuple

from rich.console import Console
from rich.text import Text

from llm_gateway.cli.database import KEY_FILE, encryption_keys
from llm_gateway.cli.env_files import EnvFiles
from llm_gateway.cli.exits import FAILED, SETTINGS, CommandFailed
from llm_gateway.cli.output import Json, is_terminal, print_json, printable
from llm_gateway.control.hosts import FILE as HOST_FILE
from llm_gateway.control.hosts import id_of_machine, load_or_create_id, machine_of, refuse_other_secrets
from llm_gateway.data_dir import is_locked
from llm_gateway.domain.key_secret import Pepper
from llm_gateway.errors import ConfigurationError, StoreUnavailable
from llm_gateway.listening import ADMIN_SETTINGS, bind
from llm_gateway.local_model import NOT_INSTALLED, find_model
from llm_gateway.settings import Settings
from llm_gateway.settings_reader import load_settings
from llm_gateway.store import migrations
from llm_gateway.store.database import Database, check_url, sqlite_file
from llm_gateway.store.hosts import Host, HostTable, SecretNames
from llm_gateway.store.peppers import FILE as PEPPER_FILE
from llm_gateway.store.peppers import names_of, open_peppers
from llm_gateway.store.providers import ProviderStore
from llm_gateway.store.secrets import SecretBox

LOCK_FILE = "gateway.lock"


class Finding(NamedTuple):
    """The result of one check: its subject `what`, and what was found, or what to do if it is not `ok`."""

    what: str
    ok: bool
    says: str


def check(*, env_file: EnvFiles = None, json: Json = False) -> None:
    """Say whether serve could start, and if not, what to do.

    It looks at settings, data directory, database, encryption keys, peppers, port and model, on Postgres also at other
    hosts, and changes nothing.

    The exit code is 78 for invalid settings and 1 for any other problem.

    ```sh
    llm-gateway check
    llm-gateway check --env-file /etc/llm-gateway.env --json
    ```
    """
    findings = look(env_file)
    if json:
        print_json([finding._asdict() for finding in findings])
    else:
        _print(findings)
    if not findings[0].ok:
        raise CommandFailed("", SETTINGS)
    if not all(finding.ok for finding in findings):
        raise CommandFailed("", FAILED)


def look(env_files: Sequence[str] | None = None) -> list[Finding]:
    """Run all checks and return their findings. If the settings are not valid, theirs is the only one."""
    try:
        settings = load_settings(env_files=env_files)
        check_url(settings.url)
    except ConfigurationError as error:
        return [Finding("settings", False, str(error))]
    names = ", ".join(name for name, _, _ in settings.callers())
    here = f"{settings.env}, {settings.host} port {settings.port}, service keys of {names}"
    directory = _found("data directory", lambda: _data_directory(settings))
    database = _Tables(settings, can_be_made=directory.ok or settings.database_url is not None)
    looks: list[tuple[str, Callable[[], str]]] = [
        ("database", database.version),
        ("encryption keys", lambda: _encryption_keys(settings, database)),
        ("peppers", lambda: _peppers(settings)),
        ("port", lambda: _port(settings)),
        ("local model", lambda: _local_model(settings)),
    ]
    if sqlite_file(settings.url) is None:
        looks.append(("other hosts", lambda: _other_hosts(settings, database)))
    return [Finding("settings", True, here), directory, *(_found(what, find) for what, find in looks)]


def _found(what: str, find: Callable[[], str]) -> Finding:
    try:
        return Finding(what, True, find())
    except ConfigurationError as error:
        return Finding(what, False, str(error))
    except StoreUnavailable as error:
        return Finding(what, False, error.detail)
    except OSError as error:
        return Finding(what, False, f"{error.filename} cannot be checked ({error.strerror}): check its permissions.")


def _data_directory(settings: Settings) -> str:
    path = settings.data_dir.absolute()
    try:
        there = _nearest(path)
        if not there.is_dir():
            raise ConfigurationError(f"{there} is not a directory: set LLM_GATEWAY_DATA_DIR to one.")
        if not os.access(there, os.W_OK | os.X_OK):
            raise ConfigurationError(
                f"{there} cannot be written: change its owner, or set LLM_GATEWAY_DATA_DIR to another directory."
            )
        if there != path:
            _try_to_make(path, there)
            return f"{path} will be made"
        with TemporaryFile(dir=path):
            pass
    except (OSError, ValueError) as error:  # ValueError: a NUL in its name
        reason = error.strerror if isinstance(error, OSError) else error
        raise ConfigurationError(
            f"{str(path)!r} cannot be made or written ({reason}): set LLM_GATEWAY_DATA_DIR to a writable directory."
        ) from None
    if is_locked(path / LOCK_FILE) or is_locked(path):
        raise ConfigurationError(
            f"Another gateway uses {path}: stop it, or set LLM_GATEWAY_DATA_DIR to another directory."
        )
    return f"{path} can be written"


def _check_place(file: Path) -> None:
    """Check that a file can be made, with its missing directories.

    Raises:
        ConfigurationError: it cannot be made; the message says why.
    """
    folder = file.parent
    try:
        there = _nearest(folder)
        if there != folder:
            _try_to_make(folder, there)
        else:
            with TemporaryFile(dir=folder):
                pass
    except OSError as error:
        raise ConfigurationError(
            f"{file} cannot be made ({error.strerror}): set LLM_GATEWAY_DATABASE_URL to a file in a writable directory."
        ) from None


def _try_to_make(path: Path, there: Path) -> None:
    """Create a directory and its missing parents below `there`, which exists, and remove them again.

    Permissions are not sufficient: the superuser has write permission for /proc, where no directory can be created.

    Raises:
        OSError: a directory cannot be created.
    """
    missing = [place for place in (path, *path.parents) if place.is_relative_to(there) and place != there]
    made: list[Path] = []
    try:
        for place in reversed(missing):
            place.mkdir(mode=0o700)
            made.append(place)
    finally:
        for place in reversed(made):
            with suppress(OSError):  # a gateway that started in the meantime uses it
                place.rmdir()


def _nearest(path: Path) -> Path:
    """Return the path if it exists, else its nearest parent that exists."""
    return next(place for place in (path, *path.parents) if place.exists())


class _Tables:
    """The database of the settings. A SQLite file that does not exist is not created.

    `can_be_made` is False if the file's directory is the data directory and `serve` cannot use that.
    """

    def __init__(self, settings: Settings, *, can_be_made: bool) -> None:
        self._url = settings.url
        self._can_be_made = can_be_made
        self.is_current = False

    def version(self) -> str:
        """Return the version of the tables, or what `serve` will do about them.

        Raises:
            ConfigurationError: the database belongs to a newer version, or cannot be made.
            StoreUnavailable: it does not answer.
        """
        file = sqlite_file(self._url)
        if file is not None and (not file.exists() or file.stat().st_size == 0):
            if not self._can_be_made:
                raise ConfigurationError(f"{file.absolute()} cannot be made: mend the data directory first.")
            _check_place(file.absolute())
            return f"{file.absolute()} will be made"
        database = Database.open(self._url)
        try:
            current = database.version()
            self.is_current = database.is_current()
            if not self.is_current:
                database.check_upgrade()
        finally:
            database.close()
        place = "PostgreSQL" if file is None else str(file.absolute())
        if self.is_current:
            newer = "" if current == migrations.HEAD else ", of a newer llm-gateway; this one can use it, too"
            return f"{place} is at version {current}{newer}"
        was = "has no tables yet" if current is None else f"is at version {current}"
        return f"{place} {was}; serve brings it to {migrations.HEAD}"

    def hosts(self) -> tuple[Host, ...]:
        """Return the hosts of the database."""
        database = Database.open(self._url)
        try:
            return HostTable(database).list()
        finally:
            database.close()

    def sealed(self, box: SecretBox) -> tuple[int, int]:
        """Return the number of stored provider keys, and the number of those not encrypted with the box's first key.

        Raises:
            ConfigurationError: a key cannot be decrypted.
        """
        database = Database.open(self._url)
        try:
            store = ProviderStore(database, box)
            loaded = store.load()
            for provider, sealed in loaded:
                _open(store, provider.id, provider.name, sealed)
            return len(loaded), sum(not box.is_current(sealed) for _, sealed in loaded)
        finally:
            database.close()


def _open(store: ProviderStore, provider_id: str, name: str, sealed: bytes) -> None:
    try:
        store.unseal(provider_id, sealed)
    except ConfigurationError as error:
        raise ConfigurationError(f"Provider {name}: {error}") from None


def _encryption_keys(settings: Settings, database: _Tables) -> str:
    keys = encryption_keys(settings)
    if not database.is_current:
        return "none are needed yet" if keys is None else f"{len(keys)} fit; no stored key was looked at"
    # Without keys `serve` creates one. It decrypts no stored key, which matters only if there are any.
    box = SecretBox(keys or [os.urandom(32)])
    try:
        count, stale = database.sealed(box)
    except ConfigurationError as error:
        if keys is None:
            raise ConfigurationError(
                f"{settings.data_dir / KEY_FILE} is gone, and stored provider keys need it: put it back, or set "
                "LLM_GATEWAY_ENCRYPTION_KEYS."
            ) from None
        raise error from None
    if not count:
        return "no provider keys are stored yet"
    opened = f"all {count} stored provider keys open"
    return f"{opened}, {stale} of them with an older key: run llm-gateway rekey" if stale else opened


def _peppers(settings: Settings) -> str:
    peppers = _existing_peppers(settings)
    if not peppers:
        return "one will be generated"
    return "1 fits" if len(peppers) == 1 else f"{len(peppers)} fit"


def _existing_peppers(settings: Settings) -> list[Pepper]:
    path = settings.data_dir.absolute()
    if settings.key_peppers is None and not (path / PEPPER_FILE).exists():
        return []
    return open_peppers(settings.key_peppers, path)  # creates no file then


def _other_hosts(settings: Settings, database: _Tables) -> str:
    if not database.is_current:
        return "none was looked for: the tables are not of this version"
    machine, file = machine_of(settings), settings.data_dir / HOST_FILE
    own_id = id_of_machine(machine.name) if machine.is_host else ""
    if file.exists():
        own_id = load_or_create_id(file, own_id)
    hosts, keys, peppers = database.hosts(), encryption_keys(settings), _existing_peppers(settings)
    # Other hosts do not have what would be generated.
    names = SecretNames(SecretBox(keys).names if keys else ("generated",), names_of(peppers) or ("generated",))
    refuse_other_secrets(own_id, names, hosts)
    count = sum(host.is_living and host.id != own_id for host in hosts)
    return f"{count} running, with keys that fit" if count else "none is running"


def _port(settings: Settings) -> str:
    bind(settings.host, settings.port).close()
    if not settings.admin_port:
        return f"{settings.port} on {settings.host} is free"
    bind(settings.admin_host, settings.admin_port, ADMIN_SETTINGS).close()
    return (
        f"{settings.port} on {settings.host} is free, and {settings.admin_port} on {settings.admin_host} for management"
    )


def _local_model(settings: Settings) -> str:
    if settings.local_model == "false":
        return "not wanted"
    if find_model() is not None:
        return "installed"
    if settings.local_model == "true":
        raise ConfigurationError(NOT_INSTALLED)
    return "not installed; everything else works without it"


def _print(findings: list[Finding]) -> None:
    if not is_terminal():
        for what, ok, says in findings:
            print(f"{what}\t{'ok' if ok else 'failed'}\t{printable(says)}")
        return
    console = Console(highlight=False, markup=False, emoji=False)
    for what, ok, says in findings:
        mark = Text("ok    ", "green") if ok else Text("failed", "bold red")
        console.print(Text.assemble(mark, f"  {what:<16} {printable(says)}"), soft_wrap=True)
