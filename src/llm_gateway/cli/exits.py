"""How a command ends: its exit code, and one sentence on standard error when it is not 0.

0    done
1    failed, or refused by the gateway
2    the command line does not make sense
3    no gateway answers at the URL
78   a setting does not fit (as `serve`; EX_CONFIG of sysexits.h)
130  Ctrl-C
141  whoever read the output went away (as a program that SIGPIPE ends)
"""

from __future__ import annotations

FAILED = 1
USAGE = 2
UNREACHABLE = 3
SETTINGS = 78
INTERRUPTED = 130
BROKEN_PIPE = 141


class CommandFailed(Exception):
    """The command failed. The message is one sentence that says what to do, or empty if the output says it already."""

    def __init__(self, sentence: str, code: int = FAILED) -> None:
        super().__init__(sentence)
        self.code = code
