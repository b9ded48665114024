"""Presets: the kind, address and protocols of well-known vendors (presets.toml), by the name of the account."""

from __future__ import annotations

import tomllib
from importlib import resources

import msgspec


class Preset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A preset: what an account of this name speaks, and where; and what it lacks of that dialect.

    `protocols` None means those that the dialect's accounts speak by default.
    """

    kind: str
    base_url: str | None = None
    has_json_mode: bool = True
    protocols: tuple[str, ...] | None = None


def load_presets() -> dict[str, Preset]:
    """Read the presets of `presets.toml`, by name."""
    text = resources.files("llm_gateway.providers").joinpath("presets.toml").read_text("utf-8")
    return msgspec.convert(tomllib.loads(text), dict[str, Preset])
