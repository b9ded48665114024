"""Options that read a vendor's API key from a hidden prompt, standard input or an environment variable.

The command line itself never has the key, since other users can read it in the list of processes.
"""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from getpass import getpass
from typing import Annotated

from cyclopts import CoercionError, CycloptsError, Group, MissingArgumentError, Parameter, UnknownOptionError

from llm_gateway.cli.client import Address
from llm_gateway.cli.exits import USAGE, CommandFailed
from llm_gateway.cli.output import Flag

NO_KEY = "unused"
"""The key stored for a server that requires none; the API requires the field."""

REFUSAL = (
    "--api-key is not taken: on the command line other users can read the key, and the shell keeps it. "
    "Export it and name the variable with --api-key-env OPENAI_API_KEY, pipe it in with --api-key-stdin, "
    "or let --api-key-prompt ask for it."
)
"""The message for a key on the command line, which it does not repeat."""

_REFUSED = "--api-key"
_MENTION = re.compile(rf"(?<![\w-]){_REFUSED}(?![\w-])")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@Parameter(name="*", group=Group("The vendor's API key", sort_key=8))
@dataclass(frozen=True)
class VendorKey:
    """The options that choose the source of the vendor's API key."""

    api_key_stdin: Annotated[Flag, Parameter(help="read the vendor's key from standard input")] = False
    api_key_env: Annotated[
        str | None, Parameter(metavar="VARIABLE", help="read it from the environment variable of this name")
    ] = None
    api_key_prompt: Annotated[Flag, Parameter(help="ask for it on the terminal, hidden")] = False
    api_key: Annotated[str | None, Parameter(show=False, allow_leading_hyphen=True)] = None
    no_api_key: Annotated[Flag, Parameter(help="the server asks for none (Ollama, vLLM, …)")] = False

    def __post_init__(self) -> None:
        """Reject `--api-key`, which would show the key in the list of processes.

        Raises:
            CommandFailed: the option is given.
        """
        if self.api_key is not None:
            raise CommandFailed(REFUSAL, USAGE)

    @property
    def is_given(self) -> bool:
        """True if one of the options is given."""
        return self.api_key_stdin or self.api_key_env is not None or self.api_key_prompt or self.no_api_key

    def read(self, provider: str, address: Address) -> str:
        """Return the key. Without an option, prompt for it on a terminal, else read standard input.

        Raises:
            CommandFailed: the source has no key, or standard input already holds the service key.
        """
        ways = (self.api_key_stdin, self.api_key_env is not None, self.api_key_prompt, self.no_api_key)
        if sum(ways) > 1:
            raise CommandFailed(
                "Choose one of --api-key-stdin, --api-key-env, --api-key-prompt and --no-api-key.", USAGE
            )
        if self.no_api_key:
            return NO_KEY
        if self.api_key_env is not None:
            return _from_environment(self.api_key_env)
        if self.api_key_prompt or (not self.api_key_stdin and sys.stdin.isatty()):
            key = getpass(f"API key of {provider} (it is not shown): ").strip()
        elif address.key_is_on_stdin:
            raise CommandFailed("Standard input holds the service key: give the vendor's with --api-key-env.", USAGE)
        else:
            key = sys.stdin.read().strip()
        if not key:
            raise CommandFailed(
                "No API key was given: pipe it in, name a variable with --api-key-env, or say --no-api-key.", USAGE
            )
        return key


UNSAID = VendorKey()


def gives_key(error: CycloptsError) -> bool:
    """Return True if the invalid command line passes the vendor's key, as `--apikey=KEY` or `--api-key-stdin=KEY`.

    Cyclopts would suggest `--api-key`, which is always rejected, or show the key.
    """
    names = error.argument.names if error.argument is not None else ()
    if isinstance(error, UnknownOptionError):
        has_key_options = any(_REFUSED in argument.names for argument in error.argument_collection)
        return has_key_options and _MENTION.search(str(error).lower().replace("_", "-")) is not None
    if isinstance(error, CoercionError):
        return any("api-key" in name for name in names)
    return isinstance(error, MissingArgumentError) and _REFUSED in names


def _from_environment(name: str) -> str:
    if not _VARIABLE.fullmatch(name):
        raise CommandFailed("--api-key-env takes the name of a variable, not the key itself.", USAGE)
    key = os.environ.get(name, "").strip()
    if not key:
        raise CommandFailed(
            f"The variable {name} is not set: export it, or choose another one with --api-key-env.", USAGE
        )
    return key
