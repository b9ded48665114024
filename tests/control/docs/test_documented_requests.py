"""The OpenAPI document's schemas accept the requests that the running gateway accepts, and reject the others."""

from __future__ import annotations

from typing import Any

import pytest

from llm_gateway.control.management import base_url
from tests.application.driver import READS_ONLY, Client
from tests.application.straight_line import LEAST as ASKED
from tests.control.docs.document import body_schema, valid
from tests.control.management.test_overrides import LEAST as OVERRIDE
from tests.control.management.test_overrides import UNFIT as UNFIT_OVERRIDES
from tests.control.management.test_providers import LEAST as PROVIDER
from tests.control.management.test_providers import UNFIT as UNFIT_PROVIDERS
from tests.control.management.test_providers import UNFIT_URLS
from tests.rows import each_row

SEMANTIC = {"nobody", "Acme", "M"}
"""Values that are invalid because of the gateway's configuration, which a schema cannot express."""


@pytest.mark.parametrize(
    ("method", "path", "least", "unfit"),
    [
        ("post", "/api/v1/providers", PROVIDER, UNFIT_PROVIDERS),
        ("patch", "/api/v1/providers/{provider_id}", {}, UNFIT_PROVIDERS),
        ("post", "/api/v1/overrides", OVERRIDE, UNFIT_OVERRIDES),
    ],
)
def test_the_schema_rejects_what_the_gateway_rejects(
    document: Any, method: str, path: str, least: dict[str, object], unfit: list[tuple[str, object]]
) -> None:
    schema = body_schema(document, method, path)
    assert valid(document, schema, least)
    for field, value in unfit:
        refused = not valid(document, schema, {**least, field: value})
        assert refused or (path.endswith("overrides") and value in SEMANTIC), (field, value)
    for field in least:
        if field != "base_url":
            assert not valid(document, schema, {name: value for name, value in least.items() if name != field})


@READS_ONLY
@pytest.mark.parametrize(
    ("field", "value", "fits"),
    [
        ("user_id", "", False), ("user_id", "a\x00", False), ("user_id", "ü" * 256, True),
        ("user_id", "x" * 257, False),
        ("max_tokens", 0, False), ("max_tokens", 8001, False), ("max_tokens", 8000.0, True), ("max_tokens", 1.5, False),
        ("max_tokens", True, False), ("max_tokens", "1", False), ("temperature", 2, True), ("temperature", 2.1, False),
        ("json_mode", 1, False), ("system", "", True), ("system", None, False), ("prompt", "\x00", True),
        ("prompt", "", False), ("stream", True, True), ("streams", True, False),
    ],
)  # fmt: skip
async def test_the_schema_of_generate_accepts_what_the_gateway_accepts(
    document: Any, reader: Client, field: str, value: object, fits: bool
) -> None:
    body = {**ASKED, field: value}
    assert valid(document, body_schema(document, "post", "/api/v1/generate"), body) is fits
    assert ((await reader.call("POST", "/api/v1/generate", body)).status != 422) is fits


FIT_URLS = [
    "http://a", "https://a.example", "HTTPS://Api.Example.COM:8443/v1/", "http://localhost:11434/v1", "http://10.0.0.1",
    "http://[::1]:80/x", "https://[2001:db8::1]/", "http://[::ffff:10.0.0.1]", "http://llm_1:8000", "http://0a1b2c3d4e5f",
    "http://a/b@c", "http://xn--bcher-kva.example", "http://a:65535/", "http://x-1.y",
]  # fmt: skip


@each_row(
    "url",
    [
        *FIT_URLS,
        *UNFIT_URLS,
        "http://a:65536",
        "http://1.2.3.256",
        "http://[::12345]",
        "http://0x7f.1",
        "http://a:00080",
    ],
)
def test_the_pattern_of_base_url_matches_what_the_gateway_accepts(document: Any, url: str) -> None:
    schema = document["components"]["schemas"]["ProviderCreate"]["properties"]["base_url"]
    fits = valid(document, schema, url)
    assert fits is (base_url.problem_of(url) is None)
    assert fits is (url in FIT_URLS)


@READS_ONLY
@pytest.mark.parametrize("tags", ["", "a", "a=1,", "a=b=c", "k=" + "v" * 65, "a b=1", ",".join(["a=1"] * 11)])
async def test_the_pattern_of_x_tags_matches_what_the_gateway_accepts(document: Any, reader: Client, tags: str) -> None:
    [schema] = [
        p["schema"] for p in document["paths"]["/api/v1/generate"]["post"]["parameters"] if p["name"] == "x-tags"
    ]
    for sent, fits in ((tags, False), ("a=1,b_2=x y-z,c=", True)):
        assert valid(document, schema, sent) is fits
        response = await reader.call("POST", "/api/v1/generate", ASKED, headers={"x-tags": sent})
        assert (response.status != 400) is fits
