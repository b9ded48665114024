"""Requests that pass through to Gemini, without the parts that the gateway or another vendor added."""

from __future__ import annotations

from typing import Any

import pytest

from llm_gateway.domain.conversation import Thinking
from llm_gateway.protocols import gemini, gemini_embeddings
from llm_gateway.protocols.gemini.pass_through import passthrough_request
from llm_gateway.protocols.gemini.request_writer import NO_SIGNATURE
from llm_gateway.protocols.gemini.thoughts import signature_of

CLAUDES = signature_of(Thinking(text="Hm", signature="c2ln"))
OPENAIS = signature_of(Thinking(redacted="gAAAAsealed"))
CALL = {"functionCall": {"name": "f", "args": {"a_b": 1}}}
RESULT = {"functionResponse": {"name": "f", "response": {}}}
ASKED = {"role": "user", "parts": [{"text": "x"}]}


def passed(*contents: Any, model: str = "gemini-2.5-pro", **fields: Any) -> Any:
    """Return the contents that Gemini receives."""
    document = {"contents": list(contents), **fields, "model": model}
    found = passthrough_request(document, stream=False)
    assert found == {**fields, "contents": found["contents"]}
    return found["contents"]


def said(*parts: Any) -> dict[str, Any]:
    return {"role": "model", "parts": list(parts)}


@pytest.mark.parametrize(
    "contents",
    [
        [ASKED],
        [ASKED, said({"text": "Hm", "thought": True}, {"text": "y", "thoughtSignature": "Z2VtaW5p"})],
        [ASKED, said({"text": "Hm", "thought": True, "thoughtSignature": "not base64!"})],
        [ASKED, said(CALL), {"role": "user", "parts": [RESULT]}],
        [ASKED, said({"newKind": 5}, "odd", None, 3), "odd", {"role": "model"}, {"role": "model", "parts": "odd"}],
    ],
)
def test_parts_of_gemini_and_unknown_parts_stay_unchanged(contents: list[Any]) -> None:
    assert passed(*contents) == contents


def test_other_fields_stay_and_the_model_is_removed() -> None:
    assert passed(ASKED, cachedContent="cachedContents/1", newField=[1]) == [ASKED]
    assert passthrough_request({"model": "m", "contents": "odd"}, stream=True) == {"contents": "odd"}


@pytest.mark.parametrize("signature", [CLAUDES, OPENAIS])
@pytest.mark.parametrize("field", ["thoughtSignature", "thought_signature"])
def test_thoughts_of_other_vendors_are_removed(signature: str, field: str) -> None:
    thought = {"text": "Hm", "thought": True, field: signature}
    assert passed(ASKED, said(thought, {"text": "y"})) == [ASKED, said({"text": "y"})]
    assert passed(ASKED, said(thought), ASKED) == [ASKED, ASKED], "a content without parts would be refused"


@pytest.mark.parametrize("call", [CALL, {"function_call": {"name": "f"}}])
def test_calls_without_a_signature_get_a_placeholder_if_the_model_requires_one(call: dict[str, Any]) -> None:
    [_, content] = passed(ASKED, said({"text": "y"}, call, CALL), model="gemini-3-pro")
    assert content["parts"] == [{"text": "y"}, {**call, "thoughtSignature": NO_SIGNATURE}, CALL]

    signed = said({**call, "thoughtSignature": "Z2VtaW5p"}, CALL)
    assert passed(ASKED, signed, model="gemini-3-pro") == [ASKED, signed], "the first of parallel calls has it"

    foreign = {"text": "Hm", "thought": True, "thoughtSignature": CLAUDES}
    [_, content] = passed(ASKED, said(foreign, call), model="gemini-3-pro")
    assert content["parts"] == [{**call, "thoughtSignature": NO_SIGNATURE}]


def answered(call_id: str, output: str = "x") -> dict[str, Any]:
    return {"functionResponse": {"id": call_id, "name": "f", "response": {"output": output}}}


def called(call_id: str) -> dict[str, Any]:
    return said({"functionCall": {"id": call_id, "name": "f", "args": {}}})


def test_a_repeated_result_is_removed() -> None:
    """Gemini CLI sends each twice when it resumes a session."""
    twice, once = [{"role": "user", "parts": [answered("a")] * count} for count in (2, 1)]
    assert passed(ASKED, called("a"), twice) == [ASKED, called("a"), once]
    assert passed(ASKED, called("a"), once, once, ASKED) == [ASKED, called("a"), once, ASKED]


def test_results_that_differ_or_belong_to_another_call_stay() -> None:
    results = [[answered("a")], [answered("a", "y")], [answered("b")], [RESULT, RESULT]]
    for parts in results:
        contents = [ASKED, called("a"), {"role": "user", "parts": [answered("a", "z"), *parts]}]
        assert passed(*contents) == contents
    again = [called("a"), {"role": "user", "parts": [answered("a")]}] * 2
    assert passed(ASKED, *again) == [ASKED, *again], "the id of a later call repeats"


def test_passing_a_request_on_does_not_change_the_original() -> None:
    contents = [ASKED, said(CALL)]
    passed(*contents, model="gemini-3-pro")
    assert contents == [{"role": "user", "parts": [{"text": "x"}]}, {"role": "model", "parts": [CALL]}]


@pytest.mark.parametrize(
    ("model", "name"),
    [("m", "models/m"), ("models/m", "models/m"), ("tunedModels/m", "tunedModels/m"), ("org/m", "models/org/m")],
)
def test_each_embedding_request_of_a_batch_names_the_model(model: str, name: str) -> None:
    document = {"requests": [{"model": "models/other", "content": {}}, "odd"], "model": model}
    assert gemini_embeddings.passthrough_request(document, stream=False) == {
        "requests": [{"model": name, "content": {}}, "odd"]
    }
    assert gemini_embeddings.passthrough_request({"content": {}, "model": model}, stream=False) == {"content": {}}


def test_an_embedding_request_is_not_read_as_a_conversation() -> None:
    for descriptor in (gemini_embeddings.DESCRIPTOR, gemini_embeddings.BATCH):
        assert not descriptor.is_translatable
        assert descriptor.stream_writer is None
    assert gemini.DESCRIPTOR.is_translatable
