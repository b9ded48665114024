"""Comparison with the vendors' SDKs: they send the same requests, and their types accept our documents."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import anthropic as anthropic_sdk
import msgspec
import openai as openai_sdk
import pytest
from anthropic.types import Message
from anthropic.types import message_create_params as anthropic_params
from google import genai
from google.genai import types as genai_types
from openai.types.chat import ChatCompletion
from openai.types.chat import completion_create_params as openai_params
from pydantic import TypeAdapter

from llm_gateway.domain.conversation import Text
from llm_gateway.domain.request import Request
from llm_gateway.providers.account_assembler import target_with_key
from llm_gateway.providers.registry import DIALECTS
from tests.providers.documents import ANTHROPIC, ANTHROPIC_TOOL, GEMINI, GEMINI_BLOCKED, OPENAI, decode, encode
from tests.worker.pipeline.fakes import request

REQUESTS = [
    request(prompt="Hi", system="Be brief", max_tokens=7, temperature=0.5),
    request(prompt="Hi", system="", max_tokens=7, temperature=0.0, json_mode=True),
]


class Vendor:
    """A server that records one request and answers it with `document`."""

    def __init__(self) -> None:
        self.document: Any = {}
        self.path = ""
        self.headers: Mapping[str, str] = {}
        self.body: Any = None
        vendor = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                vendor.path = self.path
                vendor.headers = {name.lower(): value for name, value in self.headers.items()}
                vendor.body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                answer = json.dumps(vendor.document).encode()
                self.send_response(200)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            def log_message(self, *_: object) -> None:
                """Not to the terminal."""

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@pytest.fixture(scope="module")
def vendor() -> Iterator[Vendor]:
    made = Vendor()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,))
    thread.start()
    yield made
    made.server.shutdown()
    thread.join()
    made.server.server_close()


def ours(kind: str, base_url: str, asked: Request, model: str) -> tuple[str, Any, dict[str, str]]:
    """Return URL, body and headers of the gateway's call."""
    target, call = target_with_key(DIALECTS[kind], base_url, "the-key"), encode(kind, asked, model)
    return target.root + call.path, msgspec.json.decode(call.body), target.headers


class TestSameAsTheSdk:
    """The gateway and the vendor's SDK send the same call for the same request."""

    @pytest.mark.parametrize("model", ["gpt-4.1", "gpt-5-mini"])
    @pytest.mark.parametrize("asked", REQUESTS, ids=["text", "json"])
    def test_a_call_to_openai_equals_that_of_the_sdk(self, vendor: Vendor, model: str, asked: Request) -> None:
        vendor.document = OPENAI
        url, body, headers = ours("openai", f"{vendor.url}/v1", asked, model)
        with openai_sdk.OpenAI(api_key="the-key", base_url=f"{vendor.url}/v1", max_retries=0) as client:
            completion = client.chat.completions.create(**body)

        assert (vendor.url + vendor.path, vendor.body) == (url, body)
        assert vendor.headers["authorization"] == headers["authorization"]
        assert completion.choices[0].message.content == decode("openai", msgspec.json.encode(OPENAI)).content

    @pytest.mark.parametrize("model", ["claude-opus-5-5", "claude-haiku-4-5"])
    @pytest.mark.parametrize("asked", REQUESTS, ids=["text", "json"])
    def test_a_call_to_anthropic_equals_that_of_the_sdk(self, vendor: Vendor, model: str, asked: Request) -> None:
        vendor.document = ANTHROPIC
        url, body, headers = ours("anthropic", vendor.url, asked, model)
        older = (
            {"temperature": body["temperature"]} if "temperature" in body else {}
        )  # not in the SDK's version of the API
        known = {name: value for name, value in body.items() if name not in older}
        with anthropic_sdk.Anthropic(api_key="the-key", base_url=vendor.url, max_retries=0) as client:
            message = client.messages.create(**known, extra_body=older)

        assert (vendor.url + vendor.path, vendor.body) == (url, body)
        assert vendor.headers["authorization"] == f"Bearer {headers['x-api-key']}", "both are documented"
        assert "anthropic-version" in vendor.headers.keys() & headers.keys()
        assert message.stop_reason == "end_turn"

    @pytest.mark.parametrize("model", ["gemini-2.5-flash", "models/gemini-2.5-flash", "tunedModels/mine"])
    @pytest.mark.parametrize("asked", REQUESTS, ids=["text", "json"])
    def test_a_call_to_gemini_equals_that_of_the_sdk(self, vendor: Vendor, model: str, asked: Request) -> None:
        vendor.document = GEMINI
        url, body, headers = ours("gemini", vendor.url, asked, model)
        texts: dict[str, list[str]] = {"system": [], "user": []}
        for turn in asked.client_request.conversation.turns:
            texts[turn.role] += [part.text for part in turn.parts if isinstance(part, Text)]
        options = genai_types.HttpOptions(base_url=vendor.url, api_version="v1beta")
        config = genai_types.GenerateContentConfig(
            system_instruction="".join(texts["system"]) or None,
            max_output_tokens=asked.max_tokens,
            temperature=asked.client_request.conversation.temperature,
            response_mime_type="application/json" if asked.json_mode else None,
        )
        with genai.Client(api_key="the-key", http_options=options, vertexai=False) as client:
            answer = client.models.generate_content(model=model, contents="".join(texts["user"]), config=config)
        vendor.body.get("systemInstruction", {}).pop("role", None)  # the SDK adds a role, which the API ignores

        assert (vendor.url + vendor.path, vendor.body) == (url, body)
        assert vendor.headers["x-goog-api-key"] == headers["x-goog-api-key"]
        assert answer.text == decode("gemini", msgspec.json.encode(GEMINI)).content


def unfold(value: object) -> object:
    """Return a copy with all values validated, which pydantic otherwise does only on access."""
    if isinstance(value, Mapping):
        return {name: unfold(part) for name, part in value.items()}
    return [unfold(part) for part in value] if isinstance(value, Iterable) and not isinstance(value, str) else value


class TestTypes:
    @pytest.mark.parametrize("model", ["gpt-4.1", "o3", "gpt-5-chat-latest"])
    @pytest.mark.parametrize("asked", REQUESTS, ids=["text", "json"])
    def test_request_types_of_openai_accept_our_requests(self, model: str, asked: Request) -> None:
        _, body, _ = ours("openai", "http://h/v1", asked, model)

        checked = TypeAdapter(openai_params.CompletionCreateParamsNonStreaming).validate_python(body)
        assert unfold(checked) == body, "and nothing it does not know"

    @pytest.mark.parametrize("asked", REQUESTS, ids=["text", "json"])
    def test_request_types_of_anthropic_accept_our_requests(self, asked: Request) -> None:
        _, body, _ = ours("anthropic", "http://h", asked, "claude-opus-5-5")

        checked = TypeAdapter(anthropic_params.MessageCreateParamsNonStreaming).validate_python(body)
        assert unfold(checked) == body, "and nothing it does not know"

    @pytest.mark.parametrize("document", [ANTHROPIC, ANTHROPIC_TOOL], ids=["text", "tool"])
    def test_sample_replies_fit_the_types_of_anthropic(self, document: Any) -> None:
        message = Message.model_validate(document, strict=True)

        assert message.usage.model_extra == {}
        assert message.usage.cache_creation is not None
        assert message.usage.output_tokens_details is not None

    def test_the_sample_reply_fits_the_types_of_openai(self) -> None:
        completion = ChatCompletion.model_validate(OPENAI, strict=True)

        assert completion.usage is not None
        assert (completion.usage.model_extra, completion.choices[0].message.model_extra) == ({}, {})

    @pytest.mark.parametrize("document", [GEMINI, GEMINI_BLOCKED], ids=["text", "blocked"])
    def test_sample_replies_fit_the_types_of_gemini(self, document: Any) -> None:
        answer = genai_types.GenerateContentResponse.model_validate(document)

        assert answer.usage_metadata is not None
        counted = answer.usage_metadata.total_token_count
        usage = decode("gemini", msgspec.json.encode(document)).usage
        assert usage.input_tokens + usage.output_tokens == counted

    def test_every_finish_reason_of_gemini_is_mapped(self) -> None:
        from llm_gateway.protocols.gemini.response import ABORTED, CUT_OFF, STOPPED

        known = {reason.value for reason in genai_types.FinishReason}
        assert known > (STOPPED | CUT_OFF | ABORTED)
        filters = known - STOPPED - CUT_OFF - ABORTED
        assert filters == {
            *("SAFETY", "RECITATION", "LANGUAGE", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII", "IMAGE_SAFETY"),
            *("IMAGE_PROHIBITED_CONTENT", "IMAGE_RECITATION", "ESCALATION", "PUP_LIMITED_DISABLED", "MODEL_ARMOR"),
        }

    def test_every_stop_reason_of_anthropic_is_mapped(self) -> None:
        from anthropic.types import StopReason

        from llm_gateway.protocols.anthropic_messages.reply import FINISH_REASONS

        known = set(StopReason.__args__)  # type: ignore[attr-defined] # it is a Literal
        assert known - FINISH_REASONS.keys() == {"end_turn", "stop_sequence", "pause_turn"}
        assert FINISH_REASONS.keys() < known

    def test_every_current_claude_model_has_known_capabilities(self) -> None:
        from anthropic.types import Model

        from llm_gateway.protocols.anthropic_messages.model_capabilities import ACCEPTS_ALL_PARAMETERS

        named = [name for names in Model.__args__ for name in getattr(names, "__args__", ())]  # type: ignore[attr-defined]
        older = {name for name in named if ACCEPTS_ALL_PARAMETERS.match(name)}
        assert older == {name for name in named if "-4-5" in name or "-4-6" in name}
        assert len(named) > len(older) > 0
