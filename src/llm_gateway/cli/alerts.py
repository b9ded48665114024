"""Commands `alerts …`: list, add, remove and test the targets that get messages when something is wrong."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from getpass import getpass
from typing import Annotated, Any, Literal

from cyclopts import App, Group, Parameter

from llm_gateway.cli.client import HERE, Address, Client, connect
from llm_gateway.cli.exits import FAILED, USAGE, CommandFailed
from llm_gateway.cli.output import Column, Json, print_json, print_rows, printable

COLUMNS = (
    Column("name", "Name"),
    Column("kind", "Kind"),
    Column("host", "Host"),
    Column("events", "Events", "list"),
    Column("is_enabled", "On", "flag"),
    Column("waiting", "Waiting", "count"),
    Column("last_delivered_at", "Last delivery"),
    Column("last_error", "Last error"),
    Column("id", "Id", on_terminal=False),
)
EMPTY = "No alert targets. Add one: llm-gateway alerts add operations slack --url-env SLACK_URL"
Which = Annotated[str, Parameter(help="its name or id")]
Variable = Annotated[str | None, Parameter(metavar="VARIABLE")]


@Parameter(name="*", group=Group("E-mail", sort_key=7))
@dataclass(frozen=True)
class MailOptions:
    """The options of targets of the kind `email`."""

    host: Annotated[str | None, Parameter(help="the mail server")] = None
    port: Annotated[int | None, Parameter(help="its port [default: 587, 465 or 25, as --security is]")] = None
    security: Annotated[
        Literal["starttls", "tls", "none"] | None, Parameter(help="of the connection [default: starttls]")
    ] = None
    user: Annotated[str | None, Parameter(help="who signs in there")] = None
    password_env: Annotated[Variable, Parameter(help="the variable with the user's password")] = None
    sender: Annotated[str | None, Parameter(name="--from", help="the address that mails come from")] = None
    recipients: Annotated[tuple[str, ...], Parameter(name="--to", help="who gets them; repeat it")] = ()

    def fields(self) -> dict[str, Any]:
        """Return the fields that are given, as the API names them."""
        names = ("host", "port", "security", "user", "sender")
        fields: dict[str, Any] = {name: getattr(self, name) for name in names if getattr(self, name) is not None}
        if self.recipients:
            fields["recipients"] = list(self.recipients)
        if self.password_env is not None:
            fields["password"] = _variable("--password-env", self.password_env)
        return fields


@Parameter(name="*", group=Group("Webhook and Slack", sort_key=6))
@dataclass(frozen=True)
class UrlOptions:
    """The options of targets that have a URL."""

    url_env: Annotated[Variable, Parameter(help="the variable with the URL; without it there is a prompt")] = None
    secret_env: Annotated[Variable, Parameter(help="the variable with a secret to sign messages")] = None

    def fields(self, name: str, kind: str, address: Address) -> dict[str, Any]:
        """Return the fields that are given; the URL is read if it is not."""
        fields = {}
        if self.url_env is not None:
            fields["url"] = _variable("--url-env", self.url_env)
        elif kind != "email":
            fields["url"] = _read_url(name, address)
        if self.secret_env is not None:
            fields["secret"] = _variable("--secret-env", self.secret_env)
        return fields


NO_MAIL = MailOptions()
NO_URL = UrlOptions()


def alerts_app() -> App:
    """Build the commands `alerts …`."""
    app = App(name="alerts", help="Who gets messages when something is wrong: list, add, remove, test.")
    app.command(list_targets, name="list")
    app.command(add)
    app.command(remove)
    app.command(send_test, name="test")
    return app


def list_targets(*, json: Json = False, gateway: Address = HERE) -> None:
    """List the alert targets, with their last delivery and error.

    ```sh
    llm-gateway alerts list
    ```
    """
    found = connect(gateway).get("/alert-targets")
    if json:
        print_json(found)
    else:
        print_rows(found, COLUMNS, empty=EMPTY)


def add(
    name: Annotated[str, Parameter(help="its name")],
    kind: Annotated[Literal["webhook", "slack", "email"], Parameter(help="webhook, slack or email")],
    /,
    *,
    event: Annotated[tuple[str, ...], Parameter(help="a glob of events, such as 'budget.*'; repeat it")] = (),
    options: UrlOptions = NO_URL,
    mail: MailOptions = NO_MAIL,
    json: Json = False,
    gateway: Address = HERE,
) -> None:
    """Add an alert target. URLs and passwords come from variables or a prompt: others can read the command line.

    ```sh
    llm-gateway alerts add operations slack --url-env SLACK_URL --event "budget.*" --event "provider.*"
    llm-gateway alerts add pager webhook --url-env PAGER_URL --secret-env PAGER_SECRET
    llm-gateway alerts add team email --host smtp.example.com --user gateway --password-env SMTP_PASSWORD \
        --from gateway@example.com --to ann@example.com
    ```
    """
    body: dict[str, Any] = {"name": name, "kind": kind}
    if event:
        body["events"] = list(event)
    body |= options.fields(name, kind, gateway) | mail.fields()
    added = connect(gateway).post("/alert-targets", body)
    if json:
        print_json(added)
    else:
        print(f"Added {printable(added['name'])}. Try it: llm-gateway alerts test {printable(added['name'])}")


def remove(which: Which, /, *, json: Json = False, gateway: Address = HERE) -> None:
    """Remove an alert target, and what waits for it.

    ```sh
    llm-gateway alerts remove operations
    ```
    """
    client = connect(gateway)
    target = find(client, which)
    client.delete(f"/alert-targets/{target['id']}")
    if json:
        print_json(target)
    else:
        print(f"Removed {printable(target['name'])}.")


def send_test(which: Which, /, *, json: Json = False, gateway: Address = HERE) -> None:
    """Send a test message to an alert target, and print what its server answers. The exit code is 1 if it fails.

    ```sh
    llm-gateway alerts test operations
    ```
    """
    client = connect(gateway)
    tested = client.post(f"/alert-targets/{find(client, which)['id']}/test")
    if json:
        print_json(tested)
    elif tested["success"]:
        print(printable(tested["answer"]))
    if not tested["success"]:
        raise CommandFailed(printable(tested["answer"]), FAILED)


def find(client: Client, which: str) -> dict[str, Any]:
    """Return the target with this name or id.

    Raises:
        CommandFailed: no target has it.
    """
    targets: list[dict[str, Any]] = client.get("/alert-targets")
    found = [each for each in targets if each["name"] == which] or [each for each in targets if each["id"] == which]
    if not found:
        raise CommandFailed(f"There is no alert target named {printable(which)}: see llm-gateway alerts list.")
    return found[0]


def _variable(option: str, name: str) -> str:
    value = os.environ.get(name, "").strip()
    if not value:
        raise CommandFailed(f"{option} takes the name of a variable that is set, not the secret itself.", USAGE)
    return value


def _read_url(name: str, address: Address) -> str:
    """Return the URL, from a prompt on a terminal, else from standard input."""
    if sys.stdin.isatty():
        url = getpass(f"URL of {printable(name)} (it is not shown): ").strip()
    elif address.key_is_on_stdin:
        raise CommandFailed("Standard input holds the service key: give the URL with --url-env.", USAGE)
    else:
        url = sys.stdin.read().strip()
    if not url:
        raise CommandFailed("No URL was given: pipe it in, or name a variable with --url-env.", USAGE)
    return url
