"""OpenAI's dialect: what is sent, and what is understood of the documents it publishes and of those it does not."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.domain.reply import Reply
from llm_gateway.domain.usage import Usage
from llm_gateway.protocols.contract import Malformed
from llm_gateway.providers import local, openai
from llm_gateway.providers.prepare import target_with_key
from tests.providers.documents import OPENAI, completion, decode, encode
from tests.worker.pipeline.fakes import request


class TestTarget:
    def test_urls_and_headers(self) -> None:
        target = target_with_key(openai, "https://api.openai.com/v1", "sk-key")

        assert target.root == "https://api.openai.com/v1"
        assert target.models_url == "https://api.openai.com/v1/models"
        assert target.headers == {
            "authorization": "Bearer sk-key",
            "content-type": "application/json",
            "accept": "application/json",
        }

    def test_a_slash_at_the_end_does_not_matter(self) -> None:
        assert openai.target("http://h/v1//").root == "http://h/v1"


def written(model: str = "m", **changes: Any) -> Any:
    """The body of a call."""
    return msgspec.json.decode(encode("openai", request(**changes), model).body)


class TestEncode:
    def test_a_whole_request(self) -> None:
        call = encode(
            "openai", request(prompt="Hi", system="Be brief", max_tokens=7, temperature=0.0, json_mode=False), "gpt-4.1"
        )

        assert call.path == "/chat/completions"
        assert msgspec.json.decode(call.body) == {
            "model": "gpt-4.1",
            "messages": [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hi"}],
            "max_tokens": 7,
            "temperature": 0.0,
        }

    def test_without_a_system_text_there_is_no_such_message(self) -> None:
        body = written(prompt="Hi", system="")

        assert body["messages"] == [{"role": "user", "content": "Hi"}]

    @pytest.mark.parametrize(
        ("system", "prompt", "messages"),
        [
            ("", "Hi", [["system", "Answer with a single JSON object."], ["user", "Hi"]]),
            ("Be brief", "Hi", [["system", "Be brief\nAnswer with a single JSON object."], ["user", "Hi"]]),
            ("", "As JSON", [["user", "As JSON"]]),
            ("", "as json", [["user", "as json"]]),
            ("Say Json", "Hi", [["system", "Say Json"], ["user", "Hi"]]),
            ("js", "on", [["system", "js\nAnswer with a single JSON object."], ["user", "on"]]),
        ],
    )
    def test_json_mode_says_json_where_nobody_did(self, system: str, prompt: str, messages: list[list[str]]) -> None:
        body = written(system=system, prompt=prompt, json_mode=True)

        assert body["response_format"] == {"type": "json_object"}
        assert [[message["role"], message["content"]] for message in body["messages"]] == messages

    @given(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")))
    def test_text_arrives_as_it_is(self, prompt: str, system: str) -> None:
        body = written(prompt=prompt, system=system)

        assert body["messages"][-1]["content"] == prompt
        assert [m["content"] for m in body["messages"][:-1]] == ([system] if system else [])

    @pytest.mark.parametrize(
        "model",
        [
            *("o1", "o3", "o3-mini", "o4-mini-2025-04-16", "o1-preview", "gpt-5", "gpt-5-mini", "gpt-5.2-pro"),
            *("gpt-5.1-chat-latest", "gpt-6-sol", "openai/gpt-5-mini", "openai/o3:nitro", "a/b/gpt-5.5"),
        ],
    )
    def test_models_that_reason(self, model: str) -> None:
        body = written(model, max_tokens=7, temperature=0.3)

        assert (body["max_completion_tokens"], body.keys() & {"max_tokens", "temperature"}) == (7, set())

    @pytest.mark.parametrize("model", ["gpt-5-chat-latest", "openai/gpt-5-chat"])
    def test_the_one_that_chats(self, model: str) -> None:
        body = written(model, max_tokens=7, temperature=0.3)

        assert (body["max_completion_tokens"], body["temperature"], "max_tokens" in body) == (7, 0.3, False)

    @pytest.mark.parametrize(
        "model",
        [
            *("gpt-4o", "gpt-4.1-nano", "gpt-35-turbo", "gpt-3.5-turbo", "gpt-50", "chatgpt-4o-latest", "ok", ""),
            *("openai/gpt-oss-120b", "grok-4", "o1js", "solo-3", "mistral-large-latest", "my-gpt-5"),
        ],
    )
    def test_models_that_do_not(self, model: str) -> None:
        body = written(model, max_tokens=7, temperature=0.0)

        assert (body["max_tokens"], body["temperature"], "max_completion_tokens" in body) == (7, 0.0, False)

    def test_without_a_json_mode_words_must_do(self) -> None:
        call = encode("openai", request(prompt="Hi", system="", json_mode=True), "m", has_json_mode=False)

        assert msgspec.json.decode(call.body) == {
            "model": "m",
            "messages": [
                {"role": "system", "content": "Answer with a single JSON object."},
                {"role": "user", "content": "Hi"},
            ],
            "max_tokens": 100,
            "temperature": 0.7,
        }


DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(-1e9, 1e9) | st.text("ab"),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["choices", "message", "content", "usage", "prompt_tokens", "id", "model"]), inner
        )
    ),
    max_leaves=12,
)


class TestDecode:
    def test_the_published_example(self) -> None:
        assert decode("openai", msgspec.json.encode(OPENAI)) == Reply(
            content="Hello! How can I assist you today?",
            usage=Usage(
                input_tokens=19,
                output_tokens=10,
                cache_read_tokens=3,
                audio_input_tokens=2,
                reasoning_tokens=4,
                audio_output_tokens=1,
            ),
            finish_reason="stop",
            upstream_model="gpt-4.1-2025-04-14",
            upstream_request_id="chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
            usage_estimated=False,
        )

    def test_a_plain_one(self) -> None:
        assert decode("openai", completion()) == Reply(
            content="Hello", usage=Usage(input_tokens=19, output_tokens=10), finish_reason="stop"
        )

    @pytest.mark.parametrize(
        ("said", "canonical"),
        [
            *((reason, reason) for reason in ("stop", "length", "content_filter", "tool_calls")),
            ("function_call", "tool_calls"),
            ("model_length", "length"),
            ("eos", "stop"),
            ("x" * 1000, "stop"),
        ],
    )
    def test_the_finish_reason_in_our_words(self, said: str, canonical: str) -> None:
        assert decode("openai", completion(finish_reason=said)).finish_reason == canonical

    @pytest.mark.parametrize("reason", ["error", "insufficient_system_resource"])
    def test_an_answer_the_vendor_broke_off(self, reason: str) -> None:
        with pytest.raises(Malformed, match=f"^The answer was broken off \\({reason}\\)$"):
            decode("openai", completion(finish_reason=reason))

    @pytest.mark.parametrize("reason", ["length", "content_filter"])
    def test_cut_off_before_a_word_was_said(self, reason: str) -> None:
        reply = decode("openai", completion({"content": None}, finish_reason=reason))

        assert (reply.content, reply.finish_reason) == ("", reason)

    def test_text_in_parts_without_the_thoughts(self) -> None:
        parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}, {"type": "text", "text": "Yes, "}]

        assert decode("openai", completion({"content": [*parts, {"text": "sir"}]})).content == "Yes, sir"
        with pytest.raises(Malformed, match=r"^The answer has no content$"):
            decode("openai", completion({"content": parts[:1]}, finish_reason=None))

    @pytest.mark.parametrize("reason", [None, ""])
    def test_without_one_it_stopped(self, reason: str | None) -> None:
        assert decode("openai", completion(finish_reason=reason)).finish_reason == "stop"

    def test_a_refusal_is_an_answer(self) -> None:
        message = {"role": "assistant", "content": None, "refusal": "I cannot help with that."}

        assert decode("openai", completion(message)).content == "I cannot help with that."

    def test_a_refusal_beside_empty_content_is_the_answer(self) -> None:
        assert decode("openai", completion({"content": "", "refusal": "no"})).content == "no"

    def test_the_first_choice_counts(self) -> None:
        choices = [{"message": {"content": text}} for text in ("one", "two")]

        assert decode("openai", completion(choices=choices)).content == "one"

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (b"", "The answer is no chat completion: "),
            (b"<html>502</html>", "The answer is no chat completion: "),
            (b"[]", "The answer is no chat completion: Expected `object`, got `array`"),
            (b"{}", "The answer is no chat completion: Object missing required field `choices`"),
            (b'{"choices": null}', "The answer is no chat completion: "),
            (b'{"choices": [{}]}', "The answer is no chat completion: "),
            (b'{"choices": [{"message": null}]}', "The answer is no chat completion: "),
            (b'{"choices": [{"message": {"content": 5}}]}', "The answer is no chat completion: "),
            (b'{"choices": [{"message": {"content": "half', "The answer is no chat completion: "),
            (b'{"x": ' + b"[" * 100_000, "The answer is no chat completion: "),
            (completion(choices=[]), "The answer has no choices"),
            (completion({"role": "assistant"}, finish_reason=None), "The answer has no content"),
            (completion({"content": None, "refusal": None}, finish_reason=""), "The answer has no content"),
        ],
    )
    def test_malformed(self, body: bytes, message: str) -> None:
        with pytest.raises(Malformed) as raised:
            decode("openai", body)

        assert str(raised.value).startswith(message)

    @given(st.binary(max_size=200) | DOCUMENTS.map(msgspec.json.encode))
    def test_anything_else_is_malformed_and_nothing_worse(self, body: bytes) -> None:
        with suppress(Malformed):
            assert isinstance(decode("openai", body), Reply)


def test_the_embedded_model_speaks_the_same() -> None:
    assert (local.static_key, local.target, local.decode_error, local.interpret, local.codecs) == (
        openai.static_key,
        openai.target,
        openai.decode_error,
        openai.interpret,
        openai.codecs,
    )
