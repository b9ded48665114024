"""Registry of API dialects by provider `kind`, and the choice of protocol codecs for an account."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import NamedTuple

from llm_gateway.errors import ConfigurationError
from llm_gateway.providers import anthropic, gemini, local, openai
from llm_gateway.providers.dialect import Dialect, ProtocolCodec
from llm_gateway.providers.presets import Preset

DIALECTS: Mapping[str, Dialect] = {"openai": openai, "anthropic": anthropic, "gemini": gemini, "local": local}
"""Dialects by `kind`, the only list of kinds. The first is the default for a provider without a preset."""

DEFAULT_KIND = next(iter(DIALECTS))


def kind_of(name: str, kind: str | None, presets: Mapping[str, Preset]) -> str:
    """Return `kind` if it is set, else the kind of the preset called `name`, else DEFAULT_KIND."""
    preset = presets.get(name)
    return kind or (preset.kind if preset else DEFAULT_KIND)


def all_protocols() -> tuple[str, ...]:
    """Return the names of all protocols that accounts of some kind support."""
    return tuple(dict.fromkeys(protocol for dialect in DIALECTS.values() for protocol in dialect.codecs))


def find_dialect(dialects: Mapping[str, Dialect], kind: str) -> Dialect:
    """Return the dialect of a kind.

    Raises:
        ConfigurationError: this version has none.
    """
    dialect = dialects.get(kind)
    if dialect is None:
        raise ConfigurationError(
            f"This version does not support providers of kind {kind!r}: choose from {', '.join(dialects)}, or install "
            "the version that added it."
        )
    return dialect


def protocols_problem(kind: str, protocols: Iterable[str], dialect: Dialect) -> str | None:
    """Return an error message if accounts of this kind do not support one of `protocols`, else None."""
    for protocol in protocols:
        if protocol not in dialect.codecs:
            known = ", ".join(dialect.codecs)
            return f"A provider of kind {kind!r} does not support the protocol {protocol[:60]!r}: choose from {known}."
    return None


class AccountCodecs(NamedTuple):
    """The codecs of an account by protocol, and those that requests are translated with.

    `translation_codec` is for requests in other protocols; `required_codec` for those that its `required_for` selects.
    Each is None if the account has none.
    """

    codecs: Mapping[str, ProtocolCodec]
    translation_codec: ProtocolCodec | None
    required_codec: ProtocolCodec | None

    @property
    def translation_protocol(self) -> str | None:
        """The protocol of translated requests, None if the account takes none."""
        return next((protocol for protocol, codec in self.codecs.items() if codec.write is not None), None)

    @property
    def required_protocol(self) -> str | None:
        """The protocol of `required_codec`; None for a provider without one."""
        if self.required_codec is None:
            return None
        return next(protocol for protocol, codec in self.codecs.items() if codec.required_for is not None)


def choose_codecs(dialect: Dialect, protocols: tuple[str, ...] | None, *, has_json_mode: bool = True) -> AccountCodecs:
    """Return the codecs of an account that speaks `protocols` (None: the dialect's defaults).

    `has_json_mode` False makes translated requests ask for JSON in the prompt instead of `response_format`.
    """
    codecs = {
        protocol: codec
        for protocol, codec in dialect.codecs.items()
        if (codec.is_default if protocols is None else protocol in protocols)
    }
    main = next((codec for codec in codecs.values() if codec.write is not None), None)
    required = next((codec for codec in codecs.values() if codec.required_for is not None and codec is not main), None)
    if not has_json_mode:
        main, required = _without_json_mode(main), _without_json_mode(required)
    return AccountCodecs(codecs, main, required)


def _without_json_mode(codec: ProtocolCodec | None) -> ProtocolCodec | None:
    if codec is None or codec.write is None:
        return codec
    return codec._replace(write=partial(codec.write, has_json_mode=False))
