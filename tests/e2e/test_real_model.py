"""llama.cpp's server as the vendor: a real model behind independent implementations of OpenAI's and Anthropic's API."""

from __future__ import annotations

import http.client
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import anthropic
import openai
import pytest

from llm_gateway.local_model import MODEL_NAME, find_model
from tests.e2e.process import KEY, GatewayProcess, free_port, send

CHILD = """
import sys, time, xllamacpp
from llm_gateway.local_model import CHAT_TEMPLATE, CONTEXT_TOKENS, MODEL_NAME, SLOTS
parameters = xllamacpp.CommonParams()
parameters.model.path, parameters.model_alias = sys.argv[1], {MODEL_NAME}
parameters.hostnames, parameters.port, parameters.api_keys = ["127.0.0.1"], int(sys.argv[2]), [sys.argv[3]]
parameters.n_ctx, parameters.n_parallel = CONTEXT_TOKENS, SLOTS
parameters.use_jinja, parameters.chat_template = True, CHAT_TEMPLATE
parameters.embedding, parameters.pooling_type = True, xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = 1  # several spin while they wait for each other
parameters.ui = parameters.warmup = False
parameters.verbosity = -1
server = xllamacpp.Server(parameters)
sys.stdin.read()
"""
QUESTION = "What is the capital of France?"
COLD = {"temperature": 0}
"""Extra body fields for greedy decoding; Anthropic's SDK no longer has a parameter for it."""
VENDOR_KEY = "a-key-of-the-vendor"


class Vendor(NamedTuple):
    """Address of the llama.cpp server, and its model's name."""

    url: str
    model: str

    def root(self, kind: str) -> str:
        """Return the base URL for a provider of this dialect."""
        return f"{self.url}/v1" if kind == "openai" else self.url


@pytest.fixture(scope="module")
def vendor() -> Iterator[Vendor]:
    path, port = find_model(), free_port()
    assert path is not None, "make setup installs the model"
    command = [sys.executable, "-c", CHILD, str(path), str(port), VENDOR_KEY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        deadline = time.monotonic() + 60
        while not _is_ready(port):
            assert time.monotonic() < deadline
            assert child.poll() is None
            time.sleep(0.1)
        yield Vendor(f"http://127.0.0.1:{port}", MODEL_NAME)
        child.kill()


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        return send(connection, "GET", "/health", key=None).status == 200
    except OSError:
        return False
    finally:
        connection.close()


@pytest.fixture(params=["openai", "anthropic"])
def real(gateway: GatewayProcess, vendor: Vendor, request: pytest.FixtureRequest) -> None:
    """Configure the model as the gateway's only provider, in this dialect."""
    kind = request.param
    gateway.provider("real", vendor.root(kind), vendor.model, kind=kind, api_key=VENDOR_KEY)


@pytest.fixture
def chat(gateway: GatewayProcess) -> Iterator[Any]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{gateway.port}/v1", api_key=KEY, max_retries=0) as client:
        yield client


@pytest.fixture
def messages(gateway: GatewayProcess) -> Iterator[Any]:
    with anthropic.Anthropic(base_url=f"http://127.0.0.1:{gateway.port}", api_key=KEY, max_retries=0) as client:
        yield client


REAL = pytest.mark.usefixtures("real")


def test_generate_answers_in_two_dialects(gateway: GatewayProcess, vendor: Vendor) -> None:
    answers = {}
    for kind in ("openai", "anthropic"):
        path = gateway.provider("real", vendor.root(kind), vendor.model, kind=kind, api_key=VENDOR_KEY)
        for tokens in (50, 3):
            answer = gateway.ask(QUESTION, temperature=0, max_tokens=tokens).json
            answers[kind, tokens] = answer["content"], answer["finish_reason"], answer["input_tokens"]
        assert gateway.call("DELETE", path).status == 204

    assert "Paris" in answers["openai", 50][0]
    assert answers["openai", 50][1] == "stop"
    assert answers["openai", 3][1] == "length"
    assert {tokens: answers["anthropic", tokens] for tokens in (50, 3)} == {
        tokens: answers["openai", tokens] for tokens in (50, 3)
    }, "the same answer of the same prompt, whoever carries it, the cached part of it counted too"


@REAL
def test_chat_completions_answers_whole_and_streamed(chat: Any) -> None:
    asked: Any = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
    create = chat.chat.completions.create
    fresh = {"cache-control": "no-store"}

    whole: Any = create(model="auto", messages=asked, temperature=0, max_tokens=50, extra_headers=fresh)
    options: Any = {"include_usage": True}
    chunks: list[Any] = list(
        create(
            model="auto", messages=asked, temperature=0, max_tokens=50, stream=True, stream_options=options,
            extra_headers=fresh,
        )
    )  # fmt: skip

    text = "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)
    assert "Paris" in text
    assert text == whole.choices[0].message.content
    assert whole.choices[0].finish_reason == "stop"
    assert [c.finish_reason for chunk in chunks for c in chunk.choices if c.finish_reason] == ["stop"]
    [usage] = [chunk.usage for chunk in chunks if chunk.usage]
    assert usage.completion_tokens == whole.usage.completion_tokens > 3
    assert usage.prompt_tokens == whole.usage.prompt_tokens > 10


@REAL
def test_responses_answers_whole_and_streamed(chat: Any) -> None:
    responses = chat.responses
    fresh = {"cache-control": "no-store"}

    whole = responses.create(model="auto", input=QUESTION, temperature=0, max_output_tokens=50, extra_headers=fresh)
    with responses.stream(
        model="auto", input=QUESTION, temperature=0, max_output_tokens=50, extra_headers=fresh
    ) as events:
        texts = [event.delta for event in events if event.type == "response.output_text.delta"]
        made = events.get_final_response()

    assert "Paris" in whole.output_text
    assert "".join(texts) == made.output_text == whole.output_text
    assert whole.usage is not None
    assert made.usage is not None
    assert made.usage.output_tokens == whole.usage.output_tokens > 3


@REAL
def test_messages_answers_whole_and_streamed(messages: Any) -> None:
    asked: Any = {"model": "auto", "max_tokens": 50, "extra_headers": {"cache-control": "no-store"}}
    asked["extra_body"] = COLD
    asked["messages"] = [{"role": "user", "content": QUESTION}]

    whole = messages.messages.create(**asked)
    with messages.messages.stream(**asked) as events:
        text = "".join(events.text_stream)
        made = events.get_final_message()

    assert "Paris" in text
    assert text == whole.content[0].text
    assert made.stop_reason == whole.stop_reason == "end_turn"
    assert made.usage.output_tokens == whole.usage.output_tokens > 3


def test_embeddings_are_returned_and_counted(gateway: GatewayProcess, vendor: Vendor, chat: Any) -> None:
    gateway.provider("real", vendor.root("openai"), vendor.model, api_key=VENDOR_KEY)
    before = gateway.summary()["total_tokens"]

    made = chat.embeddings.create(model="auto", input=["one", "two words"])

    first, second = (row.embedding for row in made.data)
    assert len(first) == len(second) > 100
    assert first != second
    assert made.usage.prompt_tokens == 3
    assert gateway.summary()["total_tokens"] - before == 3


def test_embeddings_of_a_vendor_that_has_none(gateway: GatewayProcess, vendor: Vendor, chat: Any) -> None:
    gateway.provider("real", vendor.root("anthropic"), vendor.model, kind="anthropic", api_key=VENDOR_KEY)

    with pytest.raises(openai.BadRequestError, match="embeddings"):
        chat.embeddings.create(model="auto", input="one")


def test_a_json_schema_reaches_the_model(gateway: GatewayProcess, vendor: Vendor, messages: Any) -> None:
    """The server restricts the model's output to the schema, which proves that it got the schema."""
    gateway.provider("real", vendor.root("openai"), vendor.model, api_key=VENDOR_KEY)
    schema = {
        "type": "object",
        "properties": {"capital": {"enum": ["Rome", "Paris"]}},
        "required": ["capital"],
        "additionalProperties": False,
    }

    made: Any = messages.messages.create(
        model="auto",
        max_tokens=50,
        extra_body=COLD,
        messages=[{"role": "user", "content": QUESTION}],
        output_config={"format": {"type": "json_schema", "schema": schema}},
    )

    assert made.content[0].text.replace(" ", "").replace("\n", "") == '{"capital":"Paris"}'
