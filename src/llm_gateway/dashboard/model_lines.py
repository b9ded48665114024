"""Prices and aliases of a provider's models as texts of a form, a line for each, and back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from llm_gateway.dashboard.api_client import ApiError
from llm_gateway.dashboard.formats import plain

PRICE_FORM = "write MODEL: input 2.5, output 10, in US dollars for a million tokens"
ALIAS_FORM = "write ALIAS = MODEL, such as claude-* = claude-sonnet-4-5"


def price_lines(prices: Mapping[str, Mapping[str, float]] | None) -> str:
    """Return prices by model and kind as a text."""
    kinds = {
        model: ", ".join(f"{kind} {plain(usd)}" for kind, usd in each.items()) for model, each in (prices or {}).items()
    }
    return "\n".join(f"{model}: {each}" for model, each in kinds.items())


def prices_of(text: str) -> dict[str, dict[str, float]] | None:
    """Return the prices in a text, None if it is empty. A model's name may have colons, a kind has none.

    Raises:
        ApiError: a line is no price.
    """
    prices: dict[str, dict[str, float]] = {}
    for line in _lines(text):
        model, colon, kinds = line.rpartition(":")
        try:
            words = [each.split() for each in kinds.split(",")]
            prices[model.strip()] = {kind: float(usd) for kind, usd in words}
        except ValueError:
            colon = ""
        if not colon or not model.strip():
            raise _unreadable("prices", line, PRICE_FORM)
    return prices or None


def alias_lines(aliases: Mapping[str, str] | None) -> str:
    """Return aliases as a text."""
    return "\n".join(f"{alias} = {model}" for alias, model in (aliases or {}).items())


def aliases_of(text: str) -> dict[str, str] | None:
    """Return the aliases in a text, None if it is empty.

    Raises:
        ApiError: a line is no alias.
    """
    aliases = {}
    for line in _lines(text):
        alias, _, model = (part.strip() for part in line.partition("="))
        if not alias or not model:
            raise _unreadable("model_aliases", line, ALIAS_FORM)
        aliases[alias] = model
    return aliases or None


def _lines(text: str) -> Iterator[str]:
    return filter(None, map(str.strip, text.splitlines()))


def _unreadable(field: str, line: str, form: str) -> ApiError:
    sentence = f"{line[:100]!r} cannot be read: {form}."
    return ApiError(422, "Not valid", sentence, {field: sentence})
