"""Style sheet and scripts of the dashboard, read once and served from memory."""

from __future__ import annotations

import gzip
import hashlib
from functools import cache
from importlib import resources
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

MEDIA_TYPES = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8"}
FOR_EVER = "public, max-age=31536000, immutable"
"""The address of a file has its version, so that a browser asks for it once."""


class _File(NamedTuple):
    content: bytes
    compressed: bytes
    version: str
    media_type: str


@cache
def static_files() -> StaticFiles:
    """Return the files; they are read by the first call in a process."""
    return StaticFiles()


class StaticFiles:
    """The files of the folder `static`, each with its version: the start of its SHA-256."""

    def __init__(self) -> None:
        folder = resources.files("llm_gateway.dashboard").joinpath("static")
        self._files: dict[str, _File] = {}
        for path in folder.iterdir():
            suffix = "." + path.name.rpartition(".")[2]
            if suffix in MEDIA_TYPES:
                content = path.read_bytes()
                version = hashlib.sha256(content).hexdigest()[:12]
                compressed = gzip.compress(content, 9, mtime=0)
                self._files[path.name] = _File(content, compressed, version, MEDIA_TYPES[suffix])

    def version(self, name: str) -> str:
        """Return the version of a file."""
        return self._files[name].version

    def names(self) -> list[str]:
        """Return the names of all files."""
        return sorted(self._files)

    def transferred_bytes(self) -> int:
        """Return the size of all files as browsers get them, compressed."""
        return sum(len(each.compressed) for each in self._files.values())

    def respond(self, request: Request) -> Response:
        """Return the file that a request asks for, or a 404."""
        file = self._files.get(request.path_params["name"])
        if file is None:
            return Response("There is no such file.\n", 404, media_type="text/plain")
        headers = {"cache-control": FOR_EVER, "x-content-type-options": "nosniff", "vary": "accept-encoding"}
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(
                file.compressed, headers={**headers, "content-encoding": "gzip"}, media_type=file.media_type
            )
        return Response(file.content, headers=headers, media_type=file.media_type)
