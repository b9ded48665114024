"""No file outside of `protocols/` and the providers' dialects knows a protocol by name or path."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import llm_gateway
from llm_gateway.protocols.registry import PROTOCOLS, protocol_at

SOURCE = Path(llm_gateway.__file__).parent
HOMES = ("protocols/", "providers/")
NOT_YET = {
    "worker/endpoints/count_tokens.py": "an endpoint of one protocol's",
    "control/docs/surfaces.py": "schemas of the vendor-compatible endpoints",
    "worker/dispatch.py": "the path of count_tokens",
    "domain/messages.py": "an example in a docstring",
}
"""Files that still do, and why: none may be added."""


def test_no_other_file_knows_a_protocol_by_name_or_path() -> None:
    words = [*PROTOCOLS, *(descriptor.path for descriptor in PROTOCOLS.values())]
    known = re.compile("|".join(map(re.escape, words)))
    files = {path.relative_to(SOURCE).as_posix(): path for path in SOURCE.rglob("*.py")}
    found = {
        name for name, path in files.items() if not name.startswith(HOMES) and known.search(path.read_text("utf-8"))
    }
    assert found == NOT_YET.keys()


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/chat/completions", "openai_chat"),
        ("/v1/messages", "anthropic_messages"),
        ("/v1/messages/count_tokens", "anthropic_messages"),
        ("/v1/messages/", "anthropic_messages"),
        ("/v1/messagesx", None),
        ("/v1/models", None),
        ("/", None),
    ],
)
def test_an_error_on_a_path_is_written_by_the_protocol_whose_endpoint_is_there(path: str, name: str | None) -> None:
    found = protocol_at(path)
    assert (found and found.name) == name


def test_no_two_protocols_share_a_name_a_path_or_a_surface() -> None:
    for field in ("name", "path", "surface"):
        values = [getattr(descriptor, field) for descriptor in PROTOCOLS.values()]
        assert len(set(values)) == len(values)
