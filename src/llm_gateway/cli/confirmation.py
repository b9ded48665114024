"""Ask on a terminal to confirm a command that cannot be undone."""

from __future__ import annotations

import sys

from llm_gateway.cli.exits import FAILED, CommandFailed
from llm_gateway.cli.output import is_terminal


def confirm(question: str, refusal: str, *, yes: bool) -> None:
    """Ask on a terminal whether to go on. Scripts are not asked, nor who said `yes` before.

    Raises:
        CommandFailed: the answer is not yes; its message is `refusal`.
    """
    if yes or not is_terminal() or not sys.stdin.isatty():
        return
    if input(f"{question} [y/N] ").strip().lower() not in ("y", "yes"):
        raise CommandFailed(refusal, FAILED)
