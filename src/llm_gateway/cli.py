"""The command line: `llm-gateway serve | migrate | check | usage replay`.

`serve` turns its flags into settings and becomes the server process (`exec`), so that the command line's own libraries
take neither time nor memory there; that is why they are imported inside the functions that need them.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

if TYPE_CHECKING:
    from cyclopts import App


def main() -> None:
    """The entry of the `llm-gateway` command."""
    if sys.argv[1:] == ["serve"]:
        become_server({})
    from llm_gateway.errors import ConfigurationError, StoreUnavailable  # noqa: PLC0415 - see the module's docstring

    try:
        build_cli()(sys.argv[1:])
    except ConfigurationError as error:
        sys.exit(_refused(str(error), ConfigurationError.exit_code))
    except StoreUnavailable as error:
        sys.exit(_refused(error.detail, 1))
    except KeyboardInterrupt:
        sys.exit(130)


def become_server(flags: dict[str, str]) -> NoReturn:
    """Replace this process by the server, with `flags` (setting → text) in its environment."""
    environment = os.environ | {f"LLM_GATEWAY_{name.upper()}": text for name, text in flags.items()}
    # -P: a file in the directory it is started in must not stand in for a module.
    os.execve(sys.executable, [sys.executable, "-P", "-m", "llm_gateway"], environment)  # noqa: S606 - our own interpreter


def _refused(sentence: str, code: int) -> int:
    print(f"llm-gateway: {sentence}", file=sys.stderr)
    return code


def build_cli() -> App:
    """The commands. Every setting is a flag of `serve`, under its own name."""
    from cyclopts import App, Parameter  # noqa: PLC0415 - see the module's docstring
    from pydantic import Field, create_model  # noqa: PLC0415

    from llm_gateway import __version__  # noqa: PLC0415
    from llm_gateway.settings import Settings  # noqa: PLC0415

    fields: dict[str, Any] = {
        name: (str | None, Field(None, description=field.description)) for name, field in Settings.model_fields.items()
    }
    flags_type = create_model("ServeFlags", **fields)
    cli = App(name="llm-gateway", version=__version__, help="One API in front of every LLM vendor.")

    def serve(*, flags: Any = None) -> None:
        """Start the gateway. Every setting can be given as a flag, a variable or a line in .env (docs/SETUP.md)."""
        become_server({} if flags is None else flags.model_dump(exclude_unset=True))

    serve.__annotations__ = {"flags": Annotated[flags_type | None, Parameter(name="*")], "return": None}
    cli.command(serve)
    cli.command(migrate)
    cli.command(check)
    usage = App(name="usage", help="The usage journal.")
    usage.command(replay_journal, name="replay")
    cli.command(usage)
    return cli


def migrate() -> None:
    """Bring the database's tables to this version. `serve` does it too."""
    from llm_gateway.settings import load_settings  # noqa: PLC0415 - see the module's docstring
    from llm_gateway.store.database import Database  # noqa: PLC0415

    database = Database.open(load_settings().url)
    try:
        database.migrate()
    finally:
        database.close()
    print("The database is up to date.")


def check() -> None:
    """Read the settings as `serve` would, and say whether it could start with them."""
    from llm_gateway.settings import load_settings  # noqa: PLC0415 - see the module's docstring
    from llm_gateway.store.secrets import parse_keys  # noqa: PLC0415

    settings = load_settings()
    if settings.encryption_keys:
        parse_keys(settings.encryption_keys)
    print(f"The settings fit: {settings.env} on {settings.host}:{settings.port}, data in {settings.data_dir}.")


def replay_journal() -> None:
    """Move what gateways that are gone left in the usage journal to the database. `serve` does it too."""
    import asyncio  # noqa: PLC0415 - see the module's docstring

    from llm_gateway.app import replay_once  # noqa: PLC0415
    from llm_gateway.settings import load_settings  # noqa: PLC0415

    print(f"{asyncio.run(replay_once(load_settings()))} usage records were moved to the database.")
