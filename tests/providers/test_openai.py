"""OpenAI's dialect: what is sent, and what is understood of the documents it publishes and of those it does not."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llm_gateway.domain.messages import Reply
from llm_gateway.domain.usage import Usage
from llm_gateway.providers import local, openai
from llm_gateway.providers.base import MalformedReply
from tests.pipeline.fakes import provider, request

# The example of https://platform.openai.com/docs/api-reference/chat/create, whole.
PUBLISHED = {
    "id": "chatcmpl-B9MBs8CjcvOU2jLn4n570S5qMJKcT",
    "object": "chat.completion",
    "created": 1741569952,
    "model": "gpt-4.1-2025-04-14",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "Hello! How can I assist you today?",
                "refusal": None,
                "annotations": [],
            },
            "logprobs": None,
            "finish_reason": "stop",
        }
    ],
    "usage": {
        "prompt_tokens": 19,
        "completion_tokens": 10,
        "total_tokens": 29,
        "prompt_tokens_details": {"cached_tokens": 3, "audio_tokens": 2},
        "completion_tokens_details": {
            "reasoning_tokens": 4,
            "audio_tokens": 1,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    },
    "service_tier": "default",
}


def completion(message: object = None, finish_reason: object = "stop", **changes: Any) -> bytes:
    message = {"role": "assistant", "content": "Hello"} if message is None else message
    usage = {"prompt_tokens": 19, "completion_tokens": 10}
    document = {"choices": [{"message": message, "finish_reason": finish_reason}], "usage": usage, **changes}
    return msgspec.json.encode({key: value for key, value in document.items() if value is not ...})


def counted(**usage: Any) -> tuple[Usage, bool]:
    reply = openai.decode(completion(usage=usage))
    return reply.usage, reply.usage_estimated


class TestTarget:
    def test_urls_and_headers(self) -> None:
        target = openai.target(provider(), "sk-key", "https://api.openai.com/v1")

        assert target.root == "https://api.openai.com/v1"
        assert target.models_url == "https://api.openai.com/v1/models"
        assert target.headers == {
            "authorization": "Bearer sk-key",
            "content-type": "application/json",
            "accept": "application/json",
        }

    def test_a_slash_at_the_end_does_not_matter(self) -> None:
        assert openai.target(provider(), "k", "http://h/v1//").root == "http://h/v1"


def written(model: str = "m", **changes: Any) -> Any:
    """The body of a call."""
    return msgspec.json.decode(openai.encode(request(**changes), model).body)


class TestEncode:
    def test_a_whole_request(self) -> None:
        call = openai.encode(
            request(prompt="Hi", system="Be brief", max_tokens=7, temperature=0.0, json_mode=False), "gpt-4.1"
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
        assert openai.decode(msgspec.json.encode(PUBLISHED)) == Reply(
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
        assert openai.decode(completion()) == Reply(
            content="Hello", usage=Usage(input_tokens=19, output_tokens=10), finish_reason="stop"
        )

    @pytest.mark.parametrize("reason", ["length", "content_filter", "eos"])
    def test_the_finish_reason_as_it_was_said(self, reason: str) -> None:
        assert openai.decode(completion(finish_reason=reason)).finish_reason == reason

    @pytest.mark.parametrize("reason", [None, ""])
    def test_without_one_it_stopped(self, reason: str | None) -> None:
        assert openai.decode(completion(finish_reason=reason)).finish_reason == "stop"

    def test_a_refusal_is_an_answer(self) -> None:
        message = {"role": "assistant", "content": None, "refusal": "I cannot help with that."}

        assert openai.decode(completion(message)).content == "I cannot help with that."

    def test_content_comes_before_a_refusal_even_when_empty(self) -> None:
        assert openai.decode(completion({"content": "", "refusal": "no"})).content == ""

    def test_the_first_choice_counts(self) -> None:
        choices = [{"message": {"content": text}} for text in ("one", "two")]

        assert openai.decode(completion(choices=choices)).content == "one"

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
            (b'{"choices": [{"message": {"content": "\xff"}}]}', "The answer is no chat completion: "),
            (b'{"x": ' + b"[" * 100_000, "The answer is no chat completion: "),
            (completion(usage={"prompt_tokens": "many"}), "The answer is no chat completion: "),
            (completion(choices=[]), "The answer has no choices"),
            (completion({"role": "assistant"}), "The answer has no content"),
            (completion({"content": None, "refusal": None}), "The answer has no content"),
        ],
    )
    def test_malformed(self, body: bytes, message: str) -> None:
        with pytest.raises(MalformedReply) as raised:
            openai.decode(body)

        assert str(raised.value).startswith(message)

    @given(st.binary(max_size=200) | DOCUMENTS.map(msgspec.json.encode))
    def test_anything_else_is_malformed_and_nothing_worse(self, body: bytes) -> None:
        with suppress(MalformedReply):
            assert isinstance(openai.decode(body), Reply)


class TestUsage:
    @pytest.mark.parametrize(
        "usage",
        [
            ...,
            None,
            {},
            {"prompt_tokens": 5},
            {"completion_tokens": 5},
            {"prompt_tokens": None, "completion_tokens": 5},
            {"prompt_tokens": 5, "completion_tokens": None},
            {"prompt_tokens": -1, "completion_tokens": 5},
            {"prompt_tokens": 5, "completion_tokens": -1},
            {"prompt_tokens": 1_000_000_001, "completion_tokens": 5},
            {"prompt_tokens": 5, "completion_tokens": 1_000_000_001},
        ],
        ids=repr,
    )
    def test_what_was_not_counted_is_estimated(self, usage: object) -> None:
        reply = openai.decode(completion({"content": "x" * 41}, usage=usage))

        assert (reply.usage, reply.usage_estimated) == (Usage(output_tokens=11), True)

    def test_a_count_beyond_any_integer_of_ours_is_none(self) -> None:
        body = completion(usage={"prompt_tokens": 1, "completion_tokens": 777}).replace(b"777", b"9" * 40)

        assert openai.decode(body).usage_estimated

    def test_counts_of_nothing_are_counts(self) -> None:
        assert counted(prompt_tokens=0, completion_tokens=0) == (Usage(), False)
        large = counted(prompt_tokens=1_000_000_000, completion_tokens=1_000_000_000)
        assert large == (Usage(input_tokens=1_000_000_000, output_tokens=1_000_000_000), False)

    @pytest.mark.parametrize("details", [{}, {"cached_tokens": None, "audio_tokens": None}, {"reasoning_tokens": None}])
    def test_details_that_say_nothing(self, details: dict[str, Any]) -> None:
        whole = Usage(input_tokens=19, output_tokens=10)

        assert counted(prompt_tokens=19, completion_tokens=10, prompt_tokens_details=details)[0] == whole
        assert counted(prompt_tokens=19, completion_tokens=10, completion_tokens_details=details)[0] == whole

    def test_one_side_of_the_details(self) -> None:
        into, _ = counted(prompt_tokens=19, completion_tokens=10, prompt_tokens_details={"cached_tokens": 8})
        out, _ = counted(prompt_tokens=19, completion_tokens=10, completion_tokens_details={"reasoning_tokens": 8})

        assert into == Usage(input_tokens=19, output_tokens=10, cache_read_tokens=8)
        assert out == Usage(input_tokens=19, output_tokens=10, reasoning_tokens=8)

    def test_details_are_parts_of_the_whole(self) -> None:
        usage, estimated = counted(
            prompt_tokens=19,
            completion_tokens=10,
            prompt_tokens_details={"cached_tokens": 20, "audio_tokens": -5},
            completion_tokens_details={"reasoning_tokens": 2**63, "audio_tokens": 10},
        )

        assert usage == Usage(
            input_tokens=19, output_tokens=10, cache_read_tokens=19, reasoning_tokens=10, audio_output_tokens=10
        )
        assert not estimated


class TestDecodeError:
    @pytest.mark.parametrize(
        ("body", "message"),
        [
            (b'{"error": {"message": "Rate limit reached", "type": "requests", "code": null}}', "Rate limit reached"),
            (b'{"error": "model not found"}', "model not found"),
            (b'{"message": "Unauthorized"}', "Unauthorized"),
            (b'{"object": "error", "message": "bad", "code": 400}', "bad"),
            (b'{"error": {"message": ""}}', '{"error": {"message": ""}}'),
            (b'{"error": {"message": 5}}', '{"error": {"message": 5}}'),
            (b'{"error": null}', '{"error": null}'),
            (b'{"detail": "x"}', '{"detail": "x"}'),
            (b'["x"]', '["x"]'),
            (b" <html>Bad gateway</html>\n", "<html>Bad gateway</html>"),
            (b"", ""),
            (b"\xff\xfe", "\ufffd\ufffd"),
            (b'"\xff"', '"\ufffd"'),
        ],
    )
    def test_the_providers_own_words(self, body: bytes, message: str) -> None:
        assert openai.decode_error(body) == message

    def test_enough_of_a_long_one_to_find_its_secrets(self) -> None:
        assert openai.decode_error(msgspec.json.encode({"error": {"message": "x" * 2001}})) == "x" * 2000
        assert openai.decode_error(b"y" * 2001) == "y" * 2000

    @given(st.binary(max_size=100))
    def test_it_never_fails(self, body: bytes) -> None:
        assert isinstance(openai.decode_error(body), str)

    def test_nor_at_a_deep_one(self) -> None:
        assert openai.decode_error(b"[" * 100_000) == "[" * 2000


def test_the_embedded_model_speaks_the_same() -> None:
    assert (local.target, local.encode, local.decode, local.decode_error) == (
        openai.target,
        openai.encode,
        openai.decode,
        openai.decode_error,
    )
