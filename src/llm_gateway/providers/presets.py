"""Presets of well-known vendors: dialect, base URL and protocols, by a provider's name or address (presets.toml)."""

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


def base_url_of(name: str, kind: str, base_url: str | None, presets: Mapping[str, Preset]) -> str | None:
    """Return `base_url` if it is set, else that of the preset called `name`, else that of the kind's own vendor.

    The vendor of a kind has the preset of the same name. None for a kind without one, such as the embedded model's.
    """
    if base_url is not None or kind == "local":
        return base_url
    own = presets.get(name)
    if own is not None and own.base_url is not None:
        return own.base_url
    vendor = presets.get(kind)
    return vendor.base_url if vendor is not None else None


def vendor_of(name: str, kind: str, base_url: str | None, presets: Mapping[str, Preset]) -> str:
    """Return the preset that a provider belongs to: by its name, else by the host that its requests are sent to.

    "" if it belongs to none.
    """
    if name in presets:
        return name
    url = base_url_of(name, kind, base_url, presets)
    host = None if url is None else urlsplit(url).hostname
    if host in (None, "localhost"):
        return ""
    urls = ((preset, entry.base_url) for preset, entry in presets.items() if entry.base_url is not None)
    return next((preset for preset, url in urls if urlsplit(url).hostname == host), "")


def load_presets() -> dict[str, Preset]:
    """Read `presets.toml` and return its presets by name."""
    text = resources.files("llm_gateway.providers").joinpath("presets.toml").read_text("utf-8")
    return msgspec.convert(tomllib.loads(text), dict[str, Preset])
