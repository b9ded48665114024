"""The dialects that accounts can be configured with: the one list of kinds, and the protocols of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import NamedTuple

from llm_gateway.providers import anthropic, gemini, local, openai
from llm_gateway.providers.dialect import Dialect, ProtocolCodec
from llm_gateway.providers.presets import Preset

DIALECTS: Mapping[str, Dialect] = {"openai": openai, "anthropic": anthropic, "gemini": gemini, "local": local}
"""By `kind`. Everything else that lists kinds reads this. The first is what a name without a preset speaks."""

DEFAULT_KIND = next(iter(DIALECTS))


def kind_of(name: str, kind: str | None, presets: Mapping[str, Preset]) -> str:
    """Return the kind that was given, else that of the preset of this name, else the default."""
    preset = presets.get(name)
    return kind or (preset.kind if preset else DEFAULT_KIND)


def all_protocols() -> tuple[str, ...]:
    """Return the names of the protocols that accounts of any kind can speak."""
    return tuple(dict.fromkeys(protocol for dialect in DIALECTS.values() for protocol in dialect.codecs))


def protocols_problem(kind: str, protocols: Iterable[str], dialect: Dialect) -> str | None:
    """Return a sentence that says why an account of this kind cannot speak these protocols; None if it can."""
    for protocol in protocols:
        if protocol not in dialect.codecs:
            known = ", ".join(dialect.codecs)
            return f"A provider of kind {kind!r} cannot speak {protocol[:60]!r}; it can speak: {known}."
    return None


class AccountCodecs(NamedTuple):
    """The codecs of an account by protocol, and the one into which other protocols are translated."""

    codecs: Mapping[str, ProtocolCodec]
    translation_codec: ProtocolCodec | None


def choose_codecs(dialect: Dialect, protocols: tuple[str, ...] | None, *, has_json_mode: bool = True) -> AccountCodecs:
    """Choose the codecs of an account that speaks `protocols`, None: the dialect's defaults."""
    codecs = {
        protocol: codec
        for protocol, codec in dialect.codecs.items()
        if (codec.is_default if protocols is None else protocol in protocols)
    }
    main = next((codec for codec in codecs.values() if codec.write is not None), None)
    if main is not None and main.write is not None and not has_json_mode:
        main = main._replace(write=partial(main.write, has_json_mode=False))
    return AccountCodecs(codecs, main)
