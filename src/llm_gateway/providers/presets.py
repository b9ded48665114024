"""Presets of well-known vendors: dialect, base URL and protocols, looked up by the provider's name (presets.toml)."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from urllib.parse import urlsplit

import msgspec


class Preset(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The defaults for a provider with a vendor's name: its dialect (`kind`), base URL and protocols.

    `has_json_mode` False: the vendor rejects `response_format` `json_object`, so JSON is requested in the prompt.
    `protocols` None selects the dialect's default protocols.
    """

    kind: str
    base_url: str | None = None
    has_json_mode: bool = True
    protocols: tuple[str, ...] | None = None


def vendor_of(name: str, base_url: str | None, presets: Mapping[str, Preset]) -> str:
    """Return the preset that a provider belongs to: by its name, else by the host of its URL; "" if by neither."""
    if name in presets:
        return name
    host = None if base_url is None else urlsplit(base_url).hostname
    if host in (None, "localhost"):
        return ""
    urls = ((preset, entry.base_url) for preset, entry in presets.items() if entry.base_url is not None)
    return next((preset for preset, url in urls if urlsplit(url).hostname == host), "")


def load_presets() -> dict[str, Preset]:
    """Read `presets.toml` and return its presets by name."""
    text = resources.files("llm_gateway.providers").joinpath("presets.toml").read_text("utf-8")
    return msgspec.convert(tomllib.loads(text), dict[str, Preset])
