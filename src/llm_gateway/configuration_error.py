"""Error of a start that cannot succeed, in a module of its own so that the supervisor loads no others."""

from __future__ import annotations


class ConfigurationError(Exception):
    """An error that prevents the start; the message is one line that says what to set."""

    exit_code = 78
