"""Register the commands `leases list` and `leases release`."""

from __future__ import annotations

from collections.abc import Collection

from cyclopts import App

LOCAL_COMMANDS = (
    (
        "list",
        "llm_gateway.cli.lease_commands:list_leases",
        "List the hosts that use budgets, and how many accounts each may use a part of.",
    ),
    (
        "release",
        "llm_gateway.cli.lease_commands:release_leases",
        "Free what a host that is gone for good may use of budgets.",
    ),
)
"""Commands that import much of the gateway, as in `cli/commands.py`: name, function, summary."""


def leases_app(arguments: Collection[str] = ()) -> App:
    """Build the commands `leases …`. The summary of a command stands for its docstring in the list of commands."""
    app = App(name="leases", help="What hosts on one database may use of budgets: list, release.")
    for name, place, help_text in LOCAL_COMMANDS:
        app.command(place, name=name, help=None if name in arguments else help_text)
    return app
