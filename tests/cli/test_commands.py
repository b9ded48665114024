"""Tree of commands: help with examples that parse, exit codes, and closed standard streams."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from cyclopts import App

from llm_gateway.cli.audit import LOCAL_COMMANDS as OF_AUDIT
from llm_gateway.cli.budgets import VERIFY
from llm_gateway.cli.commands import FILE_COMMANDS, IMPORT, LOCAL_COMMANDS, build_cli
from llm_gateway.cli.leases import LOCAL_COMMANDS as OF_LEASES
from llm_gateway.cli.reports import NAMES
from llm_gateway.cli.usage import LOCAL_COMMANDS as OF_USAGE
from tests.cli.command import COMMAND, SetUp, call, execute, execute_command, on_terminal
from tests.rows import each_row

EXAMPLE = re.compile(r"```sh\n(.*?)```", re.DOTALL)
REPOSITORY = Path(__file__).parents[2]
DOCUMENT = REPOSITORY / "docs" / "CLI.md"
HEAVY = ("pydantic", "sqlalchemy", "fastapi", "uvicorn", "pyreqwest", "alembic")


def leaves(app: App, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], App]]:
    """Yield all commands that are not only groups, with their path."""
    for name, command in app.resolved_commands().items():
        if name.startswith("-"):
            continue
        if command.default_command is not None:
            yield (*path, name), command
        yield from leaves(command, (*path, name))


COMMANDS = dict(leaves(build_cli()))


def examples(text: str) -> list[list[str]]:
    """Return the llm-gateway commands in a text's shell blocks, without variables and redirections."""
    lines = [line.partition(" > ")[0] for block in EXAMPLE.findall(text) for line in block.splitlines()]
    found = [re.search(r"(?:^|\| |\$ |\" |\.venv/bin/)llm-gateway(?: (.+))?$", line.strip()) for line in lines]
    return [shlex.split((match[1] or "").partition(" | ")[0]) for match in found if match]


def test_the_tree_has_every_command() -> None:
    assert {" ".join(path) for path in COMMANDS} == {
        "serve", "reload", "check", "migrate", "rekey", "reprice", "completion", "keys new",
        "keys list", "keys add", "keys show", "keys set", "keys rotate", "keys remove",
        "teams list", "teams add", "teams show", "teams set", "teams remove",
        "people list", "people add", "people remove", "people password", "people role",
        "budgets list", "budgets add", "budgets update", "budgets remove", "budgets accounts", "budgets override",
        "hosts list", "hosts remove",
        "leases list", "leases release",
        "alerts list", "alerts add", "alerts remove", "alerts test",
        "budgets verify", "backup", "restore", "compact", "audit list", "audit failures", "audit verify",
        "agent claude", "agent codex", "agent gemini", "agent opencode", "agent qwen", "agent aider",
        "providers list", "providers show", "providers add", "providers update", "providers test",
        "providers enable", "providers disable", "providers remove",
        "apply", "export", "import litellm",
        "explain", "overrides list", "overrides add", "overrides remove",
        "usage", "usage summary", "usage requests", "usage request", "usage prices", "usage erase",
        "usage replay", "usage quarantined", "usage reimport",
    }  # fmt: skip


@cache
def name_of_parsed(example: tuple[str, ...]) -> str | None:
    """Parse an example, once if it stands in several places. Returns the name of its command's function.

    Raises:
        CycloptsError: it is no valid command.
    """
    parsed, _, _ = build_cli().parse_args(example, exit_on_error=False, print_error=False)
    return getattr(parsed, "__name__", None)


@each_row("path", COMMANDS)
def test_each_command_has_help_with_an_example_that_parses(
    path: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    command = COMMANDS[path].default_command
    assert command is not None
    own = examples(command.__doc__ or "")
    assert own
    for example in own:
        assert tuple(example[: len(path)]) == path
        assert name_of_parsed(tuple(example)) == command.__name__
    shown = call(capsys, *path, "--help")
    assert shown.code == 0
    assert f"llm-gateway {' '.join(path)}" in shown.out.replace("Usage: llm-gateway", "", 1)


def test_the_examples_of_the_documentation_parse() -> None:
    found = examples(DOCUMENT.read_text(encoding="utf-8"))
    for example in found:
        name_of_parsed(tuple(example))
    shown = {path for path in COMMANDS for example in found if tuple(example[: len(path)]) == path}
    assert shown == set(COMMANDS), "each command is shown"


@pytest.mark.parametrize("name", ["README.md", "docs/SETUP.md"])
def test_the_commands_of_other_documents_parse(name: str) -> None:
    found = examples((REPOSITORY / name).read_text(encoding="utf-8"))
    assert found, "no commands"
    for example in found:
        name_of_parsed(tuple(example))


LITELLM = ("import litellm", "llm_gateway.cli.litellm.command:litellm", IMPORT)
LAZY = [
    *LOCAL_COMMANDS,
    *FILE_COMMANDS,
    LITELLM,
    *((f"usage {name}", place, summary) for name, place, summary in OF_USAGE),
    *((f"audit {name}", place, summary) for name, place, summary in OF_AUDIT),
    *((f"leases {name}", place, summary) for name, place, summary in OF_LEASES),
    (f"budgets {VERIFY[0]}", *VERIFY[1:]),
]


@pytest.mark.parametrize(("name", "place", "summary"), LAZY)
def test_the_summary_of_a_lazy_command_is_its_docstrings(name: str, place: str, summary: str) -> None:
    command = COMMANDS[tuple(name.split())].default_command
    assert command is not None
    assert (command.__doc__ or "").startswith(summary)
    assert place == f"{command.__module__}:{command.__name__}"


def test_help_imports_none_of_the_heavy_libraries() -> None:
    commands = (["--help"], ["providers", "add", "--help"], ["keys", "new"])
    script = (
        f"import sys\nfrom llm_gateway.cli.commands import run\nfor each in {commands}: assert run(each) == 0\n"
        "print(*sys.modules, file=sys.stderr)"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert "cyclopts" in ended.stderr.split()
    assert not set(HEAVY) & set(ended.stderr.split())


def test_help_on_a_terminal_has_boxes_and_in_a_pipe_none() -> None:
    shown = on_terminal("--help")
    assert shown.code == 0
    assert "╭─ Manage a running gateway" in shown.out
    assert "╭" not in execute("--help").out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["serve", "--nonsense", "1"], "Unknown option: --nonsense. See: llm-gateway serve --help"),
        (["serve", "8300"], "1 argument more than the command takes"),
        (["serve", "--port"], "--port"),
        (["nonsense"], 'Unknown command "nonsense".'),
        (["providers", "lst"], 'Did you mean "list"?'),
        (["providers", "add", "x"], "--model requires an argument. See: llm-gateway providers add --help"),
        (["providers", "add", "x", "-m", "y", "--api-key", "sk-1"], "--api-key is not taken"),
        (["providers", "add", "x", "-m", "y", "--rpm", "0"], "--rpm"),
        (["usage", "--days", "366"], "--days"),
        (["usage", "--by", "month"], "--by"),
        (["reprice"], "--since"),
        (["reprice", "--since", "yesterday"], "--since"),
    ],
)
def test_invalid_arguments_end_with_2(capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    ended = call(capsys, *arguments)
    assert ended.code == 2
    assert said in ended.sentence
    assert "sk-1" not in ended.err


def test_a_group_without_a_command_shows_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    ended = call(capsys, "providers")
    assert ended.code == 0
    assert "enable: Use a provider again." in ended.out


def test_a_closed_output_pipe_prints_no_error(set_up: SetUp) -> None:
    process = subprocess.Popen([COMMAND, "providers", "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.wait(60) == 141
    assert process.stderr.read() == b""
    process.stderr.close()


def test_a_full_disk_is_reported(set_up: SetUp) -> None:
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            [COMMAND, "providers", "list"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert (ended.returncode, ended.stderr) == (1, "llm-gateway: No space left on device.\n")


def test_commands_work_with_closed_streams_and_an_ascii_output(set_up: SetUp) -> None:
    for closing, code in (("<&-", 2), (">&-", 2), ("2>&-", 2)):
        command = f'"$0" providers add x -m y {closing} </dev/null'
        ended = subprocess.run(["/bin/sh", "-c", command, COMMAND], capture_output=True, text=True, check=False)
        assert ended.returncode == code
        assert "Traceback" not in ended.stdout + ended.stderr
    set_up.gateway.provider("acme", set_up.vendor.base_url, display_name="Ämter")
    shown = execute_command("providers", "show", "acme", PYTHONIOENCODING="ascii")
    assert "display_name\t\\xc4mter\n" in shown.out


def test_completion_of_bash_knows_commands_and_choices() -> None:
    script = execute("completion", "bash").out
    ask = """
    f=$(complete -p llm-gateway | sed 's/.*-F \\([^ ]*\\) .*/\\1/')
    for line in "llm-gateway pro" "llm-gateway providers add --mo" "llm-gateway usage --by " "llm-gateway serve --po"
    do
        IFS=' ' read -ra COMP_WORDS <<<"$line"
        [[ $line == *" " ]] && COMP_WORDS+=("")
        COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMPREPLY=()
        $f
        echo "${COMPREPLY[@]}"
    done
    """
    ended = subprocess.run(["bash", "-c", script + ask], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines() == ["providers", "--model", " ".join(NAMES), "--port"]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_completion_of_other_shells_names_every_command(capsys: pytest.CaptureFixture[str], shell: str) -> None:
    script = call(capsys, "completion", shell).out
    for path in COMMANDS:
        assert path[-1] in script
