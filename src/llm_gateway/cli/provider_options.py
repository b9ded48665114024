"""Options that `providers add` and `providers update` share, and their translation into fields of the API."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from llm_gateway.cli.exits import USAGE, CommandFailed

Limit = Annotated[int | None, Parameter(validator=Number(gte=1))]


@Parameter(name="*")
@dataclass(frozen=True)
class ProviderOptions:
    """Options that `providers add` and `providers update` share; None for an option that is not given."""

    display_name: Annotated[str | None, Parameter(help="a name for people")] = None
    base_url: Annotated[
        str | None, Parameter(help="its address, as its own SDK spells it; known vendors bring theirs")
    ] = None
    kind: Annotated[str | None, Parameter(help="the dialect it speaks, unless its name says so")] = None
    protocols: Annotated[
        str | None,
        Parameter(
            metavar="NAME,...",
            help="the protocols it speaks; known vendors have defaults; the error for an unknown name lists all",
        ),
    ] = None
    priority: Annotated[int | None, Parameter(help="higher is preferred", allow_leading_hyphen=True)] = None
    rpm: Annotated[Limit, Parameter(help="requests in any minute")] = None
    tpm: Annotated[Limit, Parameter(help="tokens in any minute")] = None
    timeout: Annotated[float | None, Parameter(help="seconds for one attempt")] = None
    price: Annotated[
        list[str] | None,
        Parameter(
            metavar="MODEL=IN,OUT", help="what a model costs, in USD per million input and output tokens; repeat it"
        ),
    ] = None
    alias: Annotated[
        list[str] | None,
        Parameter(metavar="NAME=MODEL", help="a further name of a model, or a glob such as claude-*; repeat it"),
    ] = None
    context_window: Annotated[
        list[str] | None,
        Parameter(metavar="TOKENS|MODEL=TOKENS", help="the context window of all its models, or of one; repeat it"),
    ] = None
    max_output_tokens: Annotated[
        list[str] | None,
        Parameter(metavar="TOKENS|MODEL=TOKENS", help="the longest answer of all its models, or of one; repeat it"),
    ] = None
    trace: Annotated[
        bool | None, Parameter(negative="--no-trace", help="send it the client's trace context (traceparent)")
    ] = None

    def fields(self) -> dict[str, Any]:
        """Return the given options as fields of the API. An empty base URL or list of protocols becomes null."""
        said = {
            "display_name": self.display_name,
            "kind": self.kind,
            "priority": self.priority,
            "rate_limit_rpm": self.rpm,
            "rate_limit_tpm": self.tpm,
            "timeout_s": self.timeout,
            "trace": self.trace,
        }
        fields: dict[str, Any] = {name: value for name, value in said.items() if value is not None}
        if self.base_url is not None:
            fields["base_url"] = self.base_url or None
        if self.protocols is not None:
            fields["protocols"] = [name.strip() for name in self.protocols.split(",") if name.strip()] or None
        return fields

    def mappings(self, models: list[str], before: dict[str, Any] | None = None) -> dict[str, Any]:
        """Return the given prices, aliases and token limits as fields of the API, added to those of `before`.

        An empty one removes those of `before`. A token limit of one model leaves the others theirs: a limit of all
        models becomes one for each of `models`, which the provider has from now on.

        Raises:
            CommandFailed: one of them is not written as its option requires.
        """
        known = before or {}
        fields: dict[str, Any] = {}
        if self.price:
            kept = {} if "" in self.price else known.get("prices") or {}
            fields["prices"] = kept | dict(_price(text) for text in self.price if text) or None
        if self.alias:
            kept = {} if "" in self.alias else known.get("model_aliases") or {}
            fields["model_aliases"] = kept | dict(_alias(text) for text in self.alias if text) or None
        for name, texts in (("context_window", self.context_window), ("max_output_tokens", self.max_output_tokens)):
            if texts:
                fields[name] = _limit(name, texts, known.get(name), models)
        return fields


DEFAULTS = ProviderOptions()


def _price(text: str) -> tuple[str, dict[str, float]]:
    model, _, amounts = text.rpartition("=")
    try:
        to_read, to_write = (float(amount) for amount in amounts.split(","))
    except ValueError:
        to_read = to_write = -1.0
    if not model or not (to_read >= 0 and to_write >= 0):
        raise CommandFailed(
            "--price takes MODEL=IN,OUT in USD per million tokens, such as gpt-4o-mini=0.15,0.60.", USAGE
        )
    return model, {"input": to_read, "output": to_write}


def _alias(text: str) -> tuple[str, str]:
    alias, _, model = text.partition("=")
    if not alias or not model:
        raise CommandFailed("--alias takes NAME=MODEL, such as 'claude-*-haiku*=gpt-5-mini'.", USAGE)
    return alias, model


def _limit(name: str, texts: list[str], before: Any, models: list[str]) -> Any:
    """Return one number for all models or numbers by model; the latter are added to those of `before`."""
    if texts == [""]:
        return None
    if len(texts) == 1 and "=" not in texts[0]:
        return _tokens(name, texts[0])
    if isinstance(before, int):
        before = dict.fromkeys(models, before)
    limits = {} if before is None or "" in texts else dict(before)
    for text in filter(None, texts):
        model, is_named, tokens = text.rpartition("=")
        limits[model] = _tokens(name, tokens if is_named and model else "")
    return limits


def _tokens(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < len(text) <= 12):
        option = f"--{name.replace('_', '-')}"
        raise CommandFailed(f"{option} takes TOKENS, or MODEL=TOKENS once for each model: {option} 128000.", USAGE)
    return int(text)
