"""Tree of commands, and the translation of their exceptions to exit codes and messages."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable, Sequence
from functools import cache
from io import TextIOWrapper
from typing import Annotated, Literal

from cyclopts import App, CycloptsError, Group, Parameter, UnusedCliTokensError

from llm_gateway import __version__
from llm_gateway.cli.agents import agent_app
from llm_gateway.cli.alerts import alerts_app
from llm_gateway.cli.audit import LOCAL_COMMANDS as OF_AUDIT
from llm_gateway.cli.audit import audit_app
from llm_gateway.cli.budgets import VERIFY, budgets_app
from llm_gateway.cli.exits import BROKEN_PIPE, FAILED, SETTINGS, USAGE, CommandFailed
from llm_gateway.cli.explain import explain
from llm_gateway.cli.hosts import hosts_app
from llm_gateway.cli.keys import keys_app
from llm_gateway.cli.leases import LOCAL_COMMANDS as OF_LEASES
from llm_gateway.cli.leases import leases_app
from llm_gateway.cli.overrides import overrides_app
from llm_gateway.cli.people import people_app
from llm_gateway.cli.providers import providers_app
from llm_gateway.cli.teams import teams_app
from llm_gateway.cli.usage import LOCAL_COMMANDS as OF_USAGE
from llm_gateway.cli.usage import usage_app
from llm_gateway.cli.vendor_key import REFUSAL, gives_key
from llm_gateway.errors import ConfigurationError, GatewayError, RecordsRefused
from llm_gateway.telemetry.redaction import Redactor

ABOUT = """One API in front of every LLM vendor.

`providers`, `explain`, `overrides`, `keys`, `teams`, `people`, `budgets`, `alerts`, `hosts`, `apply`, `export`,
`usage` and `audit` talk to a running gateway: at http://localhost:8200, unless --url or GATEWAY_URL says otherwise,
with the service key in GATEWAY_KEY. The others work with the gateway's own settings and database.

Exit codes: 0 done, 1 failed or refused by the gateway, 2 wrong usage, 3 no gateway there, 78 a setting does not fit,
130 Ctrl-C.

```sh
llm-gateway serve
llm-gateway providers add openai --model gpt-4o-mini
llm-gateway usage --by customer
```
"""

LOCAL_COMMANDS = (
    ("serve", "llm_gateway.cli.serve:serve", "Start the gateway."),
    ("reload", "llm_gateway.cli.reload:reload", "Replace the running gateway's processes, without any interruption."),
    ("check", "llm_gateway.cli.check:check", "Say whether serve could start, and if not, what to do."),
    ("migrate", "llm_gateway.cli.database:migrate", "Bring the database's tables to this version."),
    (
        "backup",
        "llm_gateway.cli.backup:backup",
        "Write a copy of the database to a new file that only its owner can read.",
    ),
    ("restore", "llm_gateway.cli.backup:restore", "Put a backup in the place of the database."),
    ("compact", "llm_gateway.cli.backup:compact", "Give the disk space of deleted usage back."),
    ("rekey", "llm_gateway.cli.database:rekey", "Encrypt every stored provider key anew with the first key."),
    ("reprice", "llm_gateway.cli.reprice:reprice", "Give stored usage the prices in force now."),
)
"""Commands that import much of the gateway: name, function, summary. They are imported only when called; the summary
stands for their docstring in the list of commands."""

FILE_COMMANDS = (
    (
        "apply",
        "llm_gateway.cli.configuration:apply",
        "Make a gateway's providers, overrides, teams, keys, budgets and alert targets what a file says.",
    ),
    (
        "export",
        "llm_gateway.cli.configuration:export",
        "Write a gateway's configuration as a file for `apply`, without secrets.",
    ),
)
"""Commands that read or write YAML, as `LOCAL_COMMANDS`."""

IMPORT = "Convert a configuration of LiteLLM's proxy to a file for `apply`."
OF_NOUNS = (*OF_AUDIT, *OF_LEASES, *OF_USAGE, VERIFY)
LAZY = frozenset(name for name, *_ in (*LOCAL_COMMANDS, *FILE_COMMANDS, *OF_NOUNS)) | {"litellm"}
"""Names of the commands whose modules are imported only when they are run."""
Shell = Annotated[Literal["bash", "zsh", "fish"], Parameter(help="the shell")]


def run(arguments: Sequence[str]) -> int:
    """Run a command and return its exit code. An error is printed as one line on standard error."""
    _open_streams()
    try:
        code, sentence = _carry_out(arguments)
        sys.stdout.flush()
        if sentence:
            print(f"llm-gateway: {sentence}", file=sys.stderr)
    except BrokenPipeError:
        _drop_output()
        return BROKEN_PIPE
    except OSError as error:
        _drop_output()
        print(f"llm-gateway: {error.strerror or error}.", file=sys.stderr)
        return FAILED
    return code


def _carry_out(arguments: Sequence[str]) -> tuple[int, str]:
    """Run a command. Returns its exit code and the sentence that explains it."""
    cli = build_cli(arguments)
    try:
        cli(arguments, result_action="return_value", exit_on_error=False, print_error=False)
    except CycloptsError as error:
        return USAGE, REFUSAL if gives_key(error) else f"{_sentence_of(error)} See: {_help_of(cli, error)}"
    except CommandFailed as ended:
        return ended.code, str(ended)
    except ConfigurationError as error:
        return SETTINGS, str(error)
    except GatewayError as error:
        return FAILED, error.detail
    except RecordsRefused as error:
        return FAILED, str(error)
    except EOFError:
        return FAILED, "Nothing was entered."
    return 0, ""


def _open_streams() -> None:
    """Replace closed standard streams by the null device, and escape characters that their encoding lacks."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, mode, encoding="utf-8"))  # noqa: SIM115, PTH123 - for the process's life
        elif isinstance(stream := getattr(sys, name), TextIOWrapper):
            stream.reconfigure(errors="replace" if mode == "r" else "backslashreplace")


def _drop_output() -> None:
    """Redirect standard output to the null device: Python flushes it at exit and would report the error again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())


def build_cli(arguments: Iterable[str] = ()) -> App:
    """Return the tree of commands for these arguments. Help is drawn in boxes on terminals only."""
    return _build_cli(LAZY.intersection(arguments), is_terminal=sys.stdout.isatty())


@cache
def _build_cli(arguments: Collection[str], *, is_terminal: bool) -> App:
    """Build the tree of commands, of which `arguments` name some of `LAZY`."""
    cli = App(
        name="llm-gateway",
        version=__version__,
        help=ABOUT,
        help_formatter="default" if is_terminal else "plain",
        default_parameter=Parameter(negative=()),
        suppress_keyboard_interrupt=False,
    )
    own, remote = Group("Start and maintain", sort_key=2), Group("Manage a running gateway", sort_key=1)
    for name, place, summary in LOCAL_COMMANDS:
        cli.command(place, name=name, help=None if name in arguments else summary, group=own)
    remote_nouns = (
        providers_app(),
        overrides_app(),
        keys_app(),
        teams_app(),
        people_app(),
        budgets_app(arguments),
        alerts_app(),
        hosts_app(),
        usage_app(arguments),
        audit_app(arguments),
    )
    for name, place, summary in FILE_COMMANDS:
        cli.command(place, name=name, help=None if name in arguments else summary, group=remote)
    cli.command(explain, group=remote)
    imports = App(name="import", help="Write a configuration file from that of another gateway: litellm.", group=own)
    imports.command(
        "llm_gateway.cli.litellm.command:litellm", name="litellm", help=None if "litellm" in arguments else IMPORT
    )
    cli.command(imports)
    nouns = *((app, remote) for app in remote_nouns), (leases_app(arguments), own), (agent_app(), own)
    for app, group in nouns:
        app.group = group
        cli.command(app)

    @cli.command(group=own)
    def completion(shell: Shell = "bash", /) -> None:
        """Print the completion script of a shell.

        ```sh
        llm-gateway completion bash > ~/.local/share/bash-completion/completions/llm-gateway
        llm-gateway completion zsh > ~/.zfunc/_llm-gateway
        ```
        """
        print(cli.generate_completion(shell=shell))

    return cli


def _sentence_of(error: CycloptsError) -> str:
    """Return Cyclopts' message without arguments that can be a key, such as those beyond the command's own."""
    if isinstance(error, UnusedCliTokensError):
        count = len(error.unused_tokens or ())
        return (
            f"{count} {'argument' if count == 1 else 'arguments'} more than the command takes (not repeated here, "
            "since one could be a key)."
        )
    return Redactor(())(str(error).strip())


def _help_of(cli: App, error: CycloptsError) -> str:
    return " ".join((cli.name[0], *(error.command_chain or ()), "--help"))
