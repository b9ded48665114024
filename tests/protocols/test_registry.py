"""Tests of the protocol registry: lookup by path, header and query, and no protocol names elsewhere in the code."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import llm_gateway
from llm_gateway.protocols.descriptor import MODEL
from llm_gateway.protocols.registry import PROTOCOLS, keys_in_query, paths_of, protocol_at, protocol_of

SOURCE = Path(llm_gateway.__file__).parent
PACKAGES = ("protocols/", "providers/")


def test_no_file_outside_protocols_and_providers_names_a_protocol_or_its_path() -> None:
    words = [*PROTOCOLS, *(path.partition(MODEL)[0] for each in PROTOCOLS.values() for path in paths_of(each))]
    known = re.compile("|".join(map(re.escape, words)))
    files = {path.relative_to(SOURCE).as_posix(): path for path in SOURCE.rglob("*.py")}
    found = {
        name for name, path in files.items() if not name.startswith(PACKAGES) and known.search(path.read_text("utf-8"))
    }
    assert found == set()


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/v1/chat/completions", "openai_chat"),
        ("/v1/messages", "anthropic_messages"),
        ("/v1/messages/count_tokens", "anthropic_messages"),
        ("/v1/messages/", "anthropic_messages"),
        ("/v1/messagesx", None),
        ("/v1/models", None),
        ("/v1/models/gpt-4o", None),
        ("/v1/models/gpt-4o:generateContent", "gemini_content"),
        ("/v1/models/:generateContent", None),
        ("/v1/models/a:b/c:embedContent", "gemini_embeddings"),
        ("/v1beta/models/gpt-4o:batchEmbedContents", "gemini_batch_embeddings"),
        ("/v1beta/models/gpt-4o:countTokens", "gemini_content"),
        ("/v1beta/models/gpt-4o:foo", "gemini_content"),
        ("/v1beta/models", "gemini_content"),
        ("/v1beta/", "gemini_content"),
        ("/v1beta", None),
        ("/v1beta2/models", None),
        ("/", None),
    ],
)
def test_an_error_on_a_path_is_written_by_the_protocol_whose_endpoint_is_there(path: str, name: str | None) -> None:
    found = protocol_at(path)
    assert (found and found.name) == name


def test_no_two_protocols_share_a_name_a_path_or_a_surface() -> None:
    for values in (
        [descriptor.name for descriptor in PROTOCOLS.values()],
        [descriptor.surface for descriptor in PROTOCOLS.values()],
        [route.path for descriptor in PROTOCOLS.values() for route in descriptor.routes],
    ):
        assert len(set(values)) == len(values)


@pytest.mark.parametrize(
    ("path", "headers", "query", "name"),
    [
        ("/v1/models", {}, b"", "openai_chat"),
        ("/v1/models/m", {b"anthropic-version": b"2023-06-01"}, b"", "anthropic_messages"),
        ("/v1/models", {b"x-api-key": b"k"}, b"", "anthropic_messages"),
        ("/v1/models", {b"authorization": b"Bearer k"}, b"", "openai_chat"),
        ("/v1/models", {b"x-goog-api-key": b"k"}, b"", "gemini_content"),
        ("/v1/models/a/b", {}, b"pageSize=5&key=k", "gemini_content"),
        ("/v1/models", {}, b"key=&keys=k", "openai_chat"),
        ("/v1/chat/completions", {b"x-goog-api-key": b"k"}, b"key=k", "openai_chat"),
        ("/v1/nothing", {b"anthropic-version": b"2023-06-01"}, b"", "openai_chat"),
    ],
)
def test_on_a_shared_path_headers_or_the_key_parameter_select_the_protocol(
    path: str, headers: dict[bytes, bytes], query: bytes, name: str
) -> None:
    assert protocol_of(path, headers, query).name == name


@pytest.mark.parametrize(
    ("path", "query", "keys"),
    [
        ("/v1beta/models/m:generateContent", b"alt=sse&key=one", [b"one"]),
        ("/v1beta/models", b"key=a%2Bb&key=%C3%A9", [b"a+b", "é".encode()]),
        ("/v1/models", b"key=one", [b"one"]),
        ("/v1beta/models", b"key=", []),
        ("/v1beta/models", b"Key=one&x=key=two", []),
        ("/v1/messages", b"key=one", []),
        ("/api/v1/generate", b"key=one", []),
        ("/", b"key=one", []),
    ],
)
def test_keys_in_the_query_are_accepted_on_googles_paths_only(path: str, query: bytes, keys: list[bytes]) -> None:
    assert keys_in_query(path, query) == keys


def test_paths_that_contain_a_model_end_with_a_method() -> None:
    for descriptor in PROTOCOLS.values():
        for path in paths_of(descriptor):
            assert MODEL not in path or re.fullmatch(r"/[a-z0-9/]+/\{model\}:[A-Za-z]+", path)
