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
        ApiError: a line is no price, or one of a model or kind that is there already.
    """
    prices: dict[str, dict[str, float]] = {}
    for line in _lines(text):
        model, colon, kinds = line.rpartition(":")
        model, words = model.strip(), [each.split() for each in kinds.split(",")]
        found: dict[str, float] = {}
        try:
            found = {kind: float(usd) for kind, usd in words}
        except ValueError:
            colon = ""
        if not colon or not model:
            raise _unreadable("prices", line, PRICE_FORM)
        if len(found) < len(words):
            raise _invalid("prices", f"{line[:100]!r} names a kind of price twice: name each once.")
        if model in prices:
            raise _invalid("prices", f"{model[:100]!r} has two lines: write one for each model.")
        prices[model] = found
    return prices or None


def alias_lines(aliases: Mapping[str, str] | None) -> str:
    """Return aliases as a text."""
    return "\n".join(f"{alias} = {model}" for alias, model in (aliases or {}).items())


def aliases_of(text: str) -> dict[str, str] | None:
    """Return the aliases in a text, None if it is empty.

    Raises:
        ApiError: a line is no alias, or one that is there already.
    """
    aliases: dict[str, str] = {}
    for line in _lines(text):
        alias, _, model = (part.strip() for part in line.partition("="))
        if not alias or not model:
            raise _unreadable("model_aliases", line, ALIAS_FORM)
        if alias in aliases:
            raise _invalid("model_aliases", f"{alias[:100]!r} has two lines: write one for each alias.")
        aliases[alias] = model
    return aliases or None


def _lines(text: str) -> Iterator[str]:
    return filter(None, map(str.strip, text.splitlines()))


def _unreadable(field: str, line: str, form: str) -> ApiError:
    return _invalid(field, f"{line[:100]!r} cannot be read: {form}.")


def _invalid(field: str, sentence: str) -> ApiError:
    return ApiError(422, "Not valid", sentence, {field: sentence})
