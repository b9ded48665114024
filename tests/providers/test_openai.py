"""Dialect of OpenAI-compatible vendors: requests for each kind of model, and replies."""

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
from llm_gateway.providers.account_assembler import target_with_key
from tests.providers.documents import OPENAI, completion, decode, encode
from tests.worker.pipeline.fakes import request


class TestTarget:
    def test_a_target_has_the_vendors_urls_and_headers(self) -> None:
        target = target_with_key(openai, "https://api.openai.com/v1", "sk-key")

        assert target.root == "https://api.openai.com/v1"
        assert target.models_url == "https://api.openai.com/v1/models"
        assert target.headers == {
            "authorization": "Bearer sk-key",
            "content-type": "application/json",
            "accept": "application/json",
        }

    def test_a_trailing_slash_of_the_base_url_does_not_matter(self) -> None:
        assert openai.target("http://h/v1//").root == "http://h/v1"


def written(model: str = "m", **changes: Any) -> Any:
    """Return the decoded body of a call."""
    return msgspec.json.decode(encode("openai", request(**changes), model).body)


class TestEncode:
    def test_a_request_is_written_in_the_vendors_format(self) -> None:
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

    def test_a_request_without_a_system_prompt_has_no_system_message(self) -> None:
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
    def test_json_mode_adds_the_word_json_if_the_prompts_lack_it(
        self, system: str, prompt: str, messages: list[list[str]]
    ) -> None:
        body = written(system=system, prompt=prompt, json_mode=True)

        assert body["response_format"] == {"type": "json_object"}
        assert [[message["role"], message["content"]] for message in body["messages"]] == messages

    @given(st.text(st.characters(codec="utf-8")), st.text(st.characters(codec="utf-8")))
    def test_prompts_are_sent_unchanged(self, prompt: str, system: str) -> None:
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
    def test_reasoning_models_get_max_completion_tokens_and_no_temperature(self, model: str) -> None:
        body = written(model, max_tokens=7, temperature=0.3)

        assert (body["max_completion_tokens"], body.keys() & {"max_tokens", "temperature"}) == (7, set())

    @pytest.mark.parametrize("model", ["gpt-5-chat-latest", "openai/gpt-5-chat"])
    def test_gpt_5_chat_gets_max_completion_tokens_and_a_temperature(self, model: str) -> None:
        body = written(model, max_tokens=7, temperature=0.3)

        assert (body["max_completion_tokens"], body["temperature"], "max_tokens" in body) == (7, 0.3, False)

    @pytest.mark.parametrize(
        "model",
        [
            *("gpt-4o", "gpt-4.1-nano", "gpt-35-turbo", "gpt-3.5-turbo", "gpt-50", "chatgpt-4o-latest", "ok", ""),
            *("openai/gpt-oss-120b", "grok-4", "o1js", "solo-3", "mistral-large-latest", "my-gpt-5"),
        ],
    )
    def test_other_models_get_max_tokens_and_a_temperature(self, model: str) -> None:
        body = written(model, max_tokens=7, temperature=0.0)

        assert (body["max_tokens"], body["temperature"], "max_completion_tokens" in body) == (7, 0.0, False)

    def test_without_json_mode_only_the_prompt_asks_for_json(self) -> None:
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
    def test_the_example_in_the_documentation_is_read(self) -> None:
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

    def test_a_minimal_completion_is_read(self) -> None:
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
    def test_finish_reasons_become_canonical_ones(self, said: str, canonical: str) -> None:
        assert decode("openai", completion(finish_reason=said)).finish_reason == canonical

    @pytest.mark.parametrize("reason", ["error", "insufficient_system_resource"])
    def test_a_finish_reason_that_means_failure_is_malformed(self, reason: str) -> None:
        with pytest.raises(Malformed, match=f"^The provider aborted the answer \\(finish reason: {reason}\\)$"):
            decode("openai", completion(finish_reason=reason))

    @pytest.mark.parametrize("reason", ["length", "content_filter"])
    def test_a_reply_cut_off_before_any_text_is_valid(self, reason: str) -> None:
        reply = decode("openai", completion({"content": None}, finish_reason=reason))

        assert (reply.content, reply.finish_reason) == ("", reason)

    def test_the_text_of_content_parts_excludes_thinking(self) -> None:
        parts = [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm"}]}, {"type": "text", "text": "Yes, "}]

        assert decode("openai", completion({"content": [*parts, {"text": "sir"}]})).content == "Yes, sir"
        with pytest.raises(Malformed, match=r"^The answer has no content$"):
            decode("openai", completion({"content": parts[:1]}, finish_reason=None))

    @pytest.mark.parametrize("reason", [None, ""])
    def test_a_missing_finish_reason_means_stop(self, reason: str | None) -> None:
        assert decode("openai", completion(finish_reason=reason)).finish_reason == "stop"

    def test_a_refusal_is_an_answer(self) -> None:
        message = {"role": "assistant", "content": None, "refusal": "I cannot help with that."}

        assert decode("openai", completion(message)).content == "I cannot help with that."

    def test_a_refusal_beside_empty_content_is_the_answer(self) -> None:
        assert decode("openai", completion({"content": "", "refusal": "no"})).content == "no"

    def test_the_text_of_the_first_choice_is_the_answer(self) -> None:
        choices = [{"message": {"content": text}} for text in ("one", "two")]

        assert decode("openai", completion(choices=choices)).content == "one"

    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (b"", "Invalid chat completion: "),
            (b"<html>502</html>", "Invalid chat completion: "),
            (b"[]", "Invalid chat completion: Expected `object`, got `array`"),
            (b"{}", "Invalid chat completion: Object missing required field `choices`"),
            (b'{"choices": null}', "Invalid chat completion: "),
            (b'{"choices": [{}]}', "Invalid chat completion: "),
            (b'{"choices": [{"message": null}]}', "Invalid chat completion: "),
            (b'{"choices": [{"message": {"content": 5}}]}', "Invalid chat completion: "),
            (b'{"choices": [{"message": {"content": "half', "Invalid chat completion: "),
            (b'{"x": ' + b"[" * 100_000, "Invalid chat completion: "),
            (completion(choices=[]), "The answer has no choices"),
            (completion({"role": "assistant"}, finish_reason=None), "The answer has no content"),
            (completion({"content": None, "refusal": None}, finish_reason=""), "The answer has no content"),
        ],
    )
    def test_a_malformed_reply_is_an_error_that_says_why(self, body: bytes, message: str) -> None:
        with pytest.raises(Malformed) as raised:
            decode("openai", body)

        assert str(raised.value).startswith(message)

    @given(st.binary(max_size=200) | DOCUMENTS.map(msgspec.json.encode))
    def test_any_bytes_are_a_reply_or_malformed(self, body: bytes) -> None:
        with suppress(Malformed):
            assert isinstance(decode("openai", body), Reply)


def test_the_embedded_model_has_the_same_dialect() -> None:
    assert (local.static_key, local.target, local.decode_error, local.classify_error, local.codecs) == (
        openai.static_key,
        openai.target,
        openai.decode_error,
        openai.classify_error,
        openai.codecs,
    )
