"""Exit codes of commands, and the exception that ends one with a code and a message on standard error.

0    done
1    failed, or rejected by the gateway
2    invalid command-line arguments
3    no gateway answers at the URL
78   invalid settings (as for `serve`; EX_CONFIG of sysexits.h)
130  Ctrl-C
141  the reader of the output closed the pipe (128 + SIGPIPE)
"""

from __future__ import annotations

FAILED = 1
USAGE = 2
UNREACHABLE = 3
SETTINGS = 78
INTERRUPTED = 130
BROKEN_PIPE = 141


class CommandFailed(Exception):
    """Failure of a command. The message is one sentence that says what to do, empty if the output says it already."""

    def __init__(self, sentence: str, code: int = FAILED) -> None:
        super().__init__(sentence)
        self.code = code
