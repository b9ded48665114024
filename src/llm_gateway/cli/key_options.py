"""Options that `keys add` and `keys set` share, and their translation into fields of the API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from llm_gateway.cli.exits import USAGE, CommandFailed

Limit = Annotated[int | None, Parameter(validator=Number(gte=1))]
Globs = list[str] | None
CLEARED = (
    *("team_id", "parent_id", "owner", "customers", "services", "models", "rpm", "tpm", "max_parallel", "max_tokens"),
    *("max_reasoning_effort", "max_request_usd", "expires_at"),
)
"""Fields that `--clear` can set to null."""


@Parameter(name="*")
@dataclass(frozen=True)
class KeyOptions:
    """Options that `keys add` and `keys set` share; None for an option that is not given."""

    scope: Annotated[str | None, Parameter(help="call, read, admin or own; more than one with +")] = None
    team: Annotated[str | None, Parameter(help="its team, by name or id")] = None
    parent: Annotated[str | None, Parameter(help="a key that it cannot exceed, by name or id")] = None
    owner: Annotated[str | None, Parameter(help="who answers for it")] = None
    customer: Annotated[Globs, Parameter(help="customers it may call for, such as team-*; repeat it")] = None
    service: Annotated[Globs, Parameter(help="services it may call for; repeat it")] = None
    model: Annotated[Globs, Parameter(name=("--model", "-m"), help="models it may use; repeat it")] = None
    fixed_customer: Annotated[str | None, Parameter(help="the customer of all its requests")] = None
    fixed_service: Annotated[str | None, Parameter(help="the service of all its requests")] = None
    fixed_model: Annotated[str | None, Parameter(help="the model of all its requests")] = None
    rpm: Annotated[Limit, Parameter(help="requests in any minute")] = None
    tpm: Annotated[Limit, Parameter(help="tokens in any minute")] = None
    max_parallel: Annotated[Limit, Parameter(help="requests at once")] = None
    max_tokens: Annotated[Limit, Parameter(help="output tokens of an answer")] = None
    max_effort: Annotated[str | None, Parameter(help="the highest reasoning effort: none to max")] = None
    max_usd: Annotated[float | None, Parameter(help="USD that a request may cost")] = None
    tag: Annotated[list[str] | None, Parameter(metavar="NAME=TEXT", help="a label of its usage records; repeat it")] = (
        None
    )
    expires: Annotated[str | None, Parameter(help="when it ends, such as 2027-01-31T12:00:00Z")] = None

    def fields(self) -> dict[str, Any]:
        """Return the given options as fields of the API, without team and parent, which need to be looked up.

        Raises:
            CommandFailed: a list and a fixed value are given for the same, or a tag is not NAME=TEXT.
        """
        said = {
            "scopes": None if self.scope is None else self.scope.split("+"),
            "owner": self.owner,
            "customers": _allowed("customer", self.customer, self.fixed_customer),
            "services": _allowed("service", self.service, self.fixed_service),
            "models": _allowed("model", self.model, self.fixed_model),
            "rpm": self.rpm,
            "tpm": self.tpm,
            "max_parallel": self.max_parallel,
            "max_tokens": self.max_tokens,
            "max_reasoning_effort": self.max_effort,
            "max_request_usd": self.max_usd,
            "tags": None if self.tag is None else dict(_tag(text) for text in self.tag),
            "expires_at": self.expires,
        }
        return {name: value for name, value in said.items() if value is not None}


def _allowed(name: str, globs: Globs, fixed: str | None) -> object:
    if globs and fixed is not None:
        raise CommandFailed(f"Give either --{name} or --fixed-{name}, not both.", USAGE)
    return globs if fixed is None else {"fixed": fixed}


def _tag(text: str) -> tuple[str, str]:
    name, is_pair, value = text.partition("=")
    if not is_pair:
        raise CommandFailed(f"--tag takes NAME=TEXT, such as stage=beta, not {text!r}.", USAGE)
    return name, value
