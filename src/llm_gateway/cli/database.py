"""Commands `migrate` and `rekey`, which work on the settings' database, with or without a running gateway."""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llm_gateway.cli.env_files import EnvFiles
from llm_gateway.cli.output import Json, note, print_json
from llm_gateway.domain.audit import Actor, acting
from llm_gateway.errors import ConfigurationError
from llm_gateway.settings import Settings
from llm_gateway.settings_reader import load_settings
from llm_gateway.store.alert_targets import AlertTargetStore
from llm_gateway.store.audit import AuditTrail
from llm_gateway.store.database import Database, sqlite_file
from llm_gateway.store.hosts import follow_clock
from llm_gateway.store.migrations import HEAD, OTHER_VERSION
from llm_gateway.store.providers import ProviderStore
from llm_gateway.store.secrets import SecretBox, load_or_create_key_file, parse_keys

KEY_FILE = "encryption.key"


def migrate(*, env_file: EnvFiles = None, json: Json = False) -> None:
    """Bring the database's tables to this version. `serve` does it too.

    ```sh
    llm-gateway migrate
    ```
    """
    database = Database.open(load_settings(env_files=env_file).url)
    try:
        database.migrate()
    finally:
        database.close()
    if json:
        print_json({"version": HEAD})
    else:
        print("The database is up to date.")


def rekey(*, env_file: EnvFiles = None, json: Json = False) -> None:
    """Encrypt every stored provider key anew with the first key.

    To change keys: put the new one first in LLM_GATEWAY_ENCRYPTION_KEYS, keep the old one behind it, restart the
    gateway, run this, then take the old one away. The gateway goes on running, if it was started with the new key.

    ```sh
    llm-gateway rekey
    LLM_GATEWAY_ENCRYPTION_KEYS="$NEW,$OLD" llm-gateway rekey
    ```
    """
    settings = load_settings(env_files=env_file)
    keys = encryption_keys(settings)
    if keys is None:
        raise ConfigurationError("There is no encryption key: set LLM_GATEWAY_ENCRYPTION_KEYS, the new key first.")
    with current_database(settings) as database, acting(command_actor("rekey")):
        audit = AuditTrail(database, settings.data_dir.absolute())
        box = SecretBox(keys)
        count = ProviderStore(database, box, audit).rekey()
        targets = AlertTargetStore(database, box, audit).rekey()
    if json:
        print_json({"rekeyed": count, "rekeyed_alert_targets": targets})
    elif count or targets:
        also = f" and the secrets of {targets} alert targets" if targets else ""
        print(f"{count} provider keys{also} were encrypted anew with the first encryption key.")
        note("A gateway that was started without this key cannot use them: restart it with the same keys.")
    else:
        print("Every provider key is encrypted with the first encryption key already.")


def command_actor(command: str) -> Actor:
    """Return who makes the changes of a command in the audit trail: the command, and the user of the system."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # no such user in a container
        user = str(os.getuid())
    return Actor(f"llm-gateway {command} (user {user})")


@contextmanager
def current_database(settings: Settings) -> Iterator[Database]:
    """Open the settings' database, which must exist and be at this version, and take over its time. Creates nothing.

    Raises:
        ConfigurationError: it does not exist, or is at another version; the message says what to do.
        StoreUnavailable: it does not answer.
    """
    file = sqlite_file(settings.url)
    if file is not None and not file.exists():
        raise ConfigurationError(f"There is no database at {file}: check LLM_GATEWAY_DATA_DIR, or start the gateway.")
    database = Database.open(settings.url)
    try:
        if not database.is_current():
            raise ConfigurationError(OTHER_VERSION)
        follow_clock(database)
        yield database
    finally:
        database.close()


def encryption_keys(settings: Settings) -> list[bytes] | None:
    """Return the encryption keys that `serve` would use, None if it would create one.

    Raises:
        ConfigurationError: the keys are not valid.
    """
    if settings.encryption_keys:
        return parse_keys(settings.encryption_keys)
    path: Path = settings.data_dir / KEY_FILE
    return load_or_create_key_file(path) if path.exists() else None
