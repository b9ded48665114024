"""The dialects that accounts can be configured with: the one list of kinds, and the protocols of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial
from typing import NamedTuple

from llm_gateway.providers import anthropic, gemini, local, openai
from llm_gateway.providers.base import Dialect, Vendor, Wire

DIALECTS: Mapping[str, Dialect] = {"openai": openai, "anthropic": anthropic, "gemini": gemini, "local": local}
"""By `kind`. Everything else that lists kinds reads this. The first is what a name without a preset speaks."""

DEFAULT_KIND = next(iter(DIALECTS))


def kind_of(name: str, kind: str | None, vendors: Mapping[str, Vendor]) -> str:
    """Return the kind that was given, else that of the preset of this name, else the default."""
    vendor = vendors.get(name)
    return kind or (vendor.kind if vendor else DEFAULT_KIND)


def all_protocols() -> tuple[str, ...]:
    """Return the names of the protocols that accounts of any kind can speak."""
    return tuple(dict.fromkeys(protocol for dialect in DIALECTS.values() for protocol in dialect.wires))


def protocols_problem(kind: str, protocols: Iterable[str], dialect: Dialect) -> str | None:
    """Return a sentence that says why an account of this kind cannot speak these protocols; None if it can."""
    for protocol in protocols:
        if protocol not in dialect.wires:
            known = ", ".join(dialect.wires)
            return f"A provider of kind {kind!r} cannot speak {protocol[:60]!r}; it can speak: {known}."
    return None


class Speech(NamedTuple):
    """How an account is spoken to: its wires by protocol, and the one into which other protocols are translated."""

    wires: Mapping[str, Wire]
    main_wire: Wire | None


def speech(dialect: Dialect, protocols: tuple[str, ...] | None, *, has_json_mode: bool = True) -> Speech:
    """Choose the wires of an account that speaks `protocols`, None: the dialect's defaults."""
    wires = {
        protocol: wire
        for protocol, wire in dialect.wires.items()
        if (wire.is_default if protocols is None else protocol in protocols)
    }
    main = next((wire for wire in wires.values() if wire.write is not None), None)
    if main is not None and main.write is not None and not has_json_mode:
        main = main._replace(write=partial(main.write, has_json_mode=False))
    return Speech(wires, main)
