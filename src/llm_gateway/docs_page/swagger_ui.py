"""Swagger UI's files. They come from the `fastapi-offline` package; nothing else of that package is used."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ASSETS_PACKAGE = "fastapi_offline"
SCRIPT, STYLE = "swagger-ui-bundle.js", "swagger-ui.css"
MEDIA_TYPES = {SCRIPT: "text/javascript", STYLE: "text/css"}
"""The served files with their media types."""


def find_asset(name: str, package: str) -> Path | None:
    """Return the path of a file of Swagger UI, without importing the package. None if it is not installed."""
    found = importlib.util.find_spec(package)
    for place in (found.submodule_search_locations if found else None) or ():
        path = Path(place) / "static" / name
        return path if path.is_file() else None
    return None
