"""Lists of models: each protocol's fields and pages."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pytest
from anthropic.types import ModelInfo
from openai.types import Model as OpenAIModel

from llm_gateway.domain.usage import Price
from llm_gateway.errors import Invalid
from llm_gateway.protocols.anthropic_messages import model_list as anthropic
from llm_gateway.protocols.descriptor import ListedModel
from llm_gateway.protocols.gemini import model_list as gemini
from llm_gateway.protocols.openai_chat import model_list as openai

MODELS = [ListedModel(f"m{number:03}", "acme", 1_700_000_000_000) for number in range(120)]
NAMES = [model.name for model in MODELS]
KNOWN = ListedModel(
    "gpt",
    "acme",
    1_700_000_000_000,
    context_window=128_000,
    max_output_tokens=16_384,
    price=Price(
        input=((0, 150_000_000), (200_000, 300_000_000)), output=((0, 600_000_000),), cache_read=((0, 75_000_000),)
    ),
)
UNKNOWN = ListedModel("gpt", "acme", 1_700_000_000_000)
Write = Callable[[Sequence[ListedModel], Mapping[str, str]], bytes]


def page(write: Write, **query: str) -> Any:
    return json.loads(write(MODELS, query))


class TestOpenAI:
    def test_known_facts_are_in_the_fields_that_clients_of_compatible_vendors_read(self) -> None:
        document = json.loads(openai.write_model(KNOWN))
        assert document == {
            "id": "gpt",
            "object": "model",
            "created": 1_700_000_000,
            "owned_by": "acme",
            "context_length": 128_000,
            "context_window": 128_000,
            "max_model_len": 128_000,
            "max_output_tokens": 16_384,
            "max_completion_tokens": 16_384,
            "pricing": {"prompt": "0.00000015", "completion": "0.0000006", "input_cache_read": "0.000000075"},
            "capabilities": {"chat": True},
        }
        assert OpenAIModel.model_validate(document).owned_by == "acme"

    def test_unknown_facts_are_absent(self) -> None:
        assert set(json.loads(openai.write_model(UNKNOWN))) == {"id", "object", "created", "owned_by", "capabilities"}

    def test_a_free_model_has_a_price_of_zero(self) -> None:
        free = ListedModel("toy", "local", 0, price=Price(((0, 0),), ((0, 0),)))
        assert json.loads(openai.write_model(free))["pricing"] == {"prompt": "0", "completion": "0"}

    def test_a_model_of_an_account_for_embeddings_has_no_chat(self) -> None:
        model = ListedModel("e", "acme", 0, has_chat=False, has_embeddings=True)
        assert json.loads(openai.write_model(model))["capabilities"] == {"chat": False, "embeddings": True}

    def test_all_models_are_on_one_page(self) -> None:
        assert [model["id"] for model in page(openai.write_models, limit="1")["data"]] == NAMES


class TestAnthropic:
    def test_known_limits_are_in_anthropics_fields(self) -> None:
        document = json.loads(anthropic.write_model(KNOWN))
        assert document == {
            "type": "model",
            "id": "gpt",
            "display_name": "gpt",
            "created_at": "2023-11-14T22:13:20Z",
            "lifecycle": "active",
            "max_input_tokens": 128_000,
            "max_tokens": 16_384,
        }
        assert ModelInfo.model_validate(document).max_input_tokens == 128_000
        bare = json.loads(anthropic.write_model(UNKNOWN))
        assert ModelInfo.model_validate(bare).max_tokens is None
        assert not {"max_input_tokens", "max_tokens"} & set(bare)

    def test_a_page_has_twenty_models_unless_the_client_asks_for_another_number(self) -> None:
        first = page(anthropic.write_models)
        assert [model["id"] for model in first["data"]] == NAMES[:20]
        assert (first["has_more"], first["first_id"], first["last_id"]) == (True, "m000", "m019")
        whole = page(anthropic.write_models, limit="1000")
        assert (len(whole["data"]), whole["has_more"]) == (120, False)

    def test_pages_follow_each_other_in_both_directions(self) -> None:
        second = page(anthropic.write_models, limit="50", after_id="m049")
        assert (second["first_id"], second["last_id"], second["has_more"]) == ("m050", "m099", True)
        last = page(anthropic.write_models, limit="50", after_id="m099")
        assert (last["first_id"], last["last_id"], last["has_more"]) == ("m100", "m119", False)
        before = page(anthropic.write_models, limit="50", before_id="m060")
        assert (before["first_id"], before["last_id"], before["has_more"]) == ("m010", "m059", True)
        start = page(anthropic.write_models, limit="50", before_id="m010")
        assert (start["first_id"], start["last_id"], start["has_more"]) == ("m000", "m009", False)
        end = page(anthropic.write_models, after_id="m119")
        assert end == {"data": [], "has_more": False, "first_id": None, "last_id": None}

    @pytest.mark.parametrize(
        ("query", "field"),
        [
            ({"limit": "0"}, "limit"),
            ({"limit": "1001"}, "limit"),
            ({"limit": "x"}, "limit"),
            ({"limit": "-1"}, "limit"),
            ({"limit": "9" * 5000}, "limit"),
            ({"limit": "\u0663"}, "limit"),
            ({"after_id": "gone"}, "after_id"),
            ({"before_id": "gone"}, "before_id"),
            ({"after_id": "m001", "before_id": "m002"}, "before_id"),
        ],
    )
    def test_an_invalid_parameter_is_named(self, query: dict[str, str], field: str) -> None:
        with pytest.raises(Invalid) as raised:
            anthropic.write_models(MODELS, query)
        assert raised.value.errors[0]["loc"] == ["query", field]
        assert len(raised.value.detail) < 200


class TestGemini:
    def test_known_limits_are_in_googles_fields(self) -> None:
        document = json.loads(gemini.write_model(KNOWN))
        assert (document["inputTokenLimit"], document["outputTokenLimit"]) == (128_000, 16_384)
        assert not {"inputTokenLimit", "outputTokenLimit"} & set(json.loads(gemini.write_model(UNKNOWN)))

    def test_pages_follow_each_other_by_their_tokens(self) -> None:
        found, token = [], ""
        sizes = []
        while True:
            answer = page(gemini.write_models, pageSize="50", pageToken=token)
            found += [model["name"] for model in answer["models"]]
            sizes.append(len(answer["models"]))
            if "nextPageToken" not in answer:
                break
            token = answer["nextPageToken"]
        assert found == [f"models/{name}" for name in NAMES]
        assert sizes == [50, 50, 20]

    @pytest.mark.parametrize(("asked", "given"), [("", 50), ("0", 50), ("7", 7), ("5000", 120)])
    def test_the_size_of_a_page(self, asked: str, given: int) -> None:
        assert len(page(gemini.write_models, pageSize=asked)["models"]) == given

    @pytest.mark.parametrize(
        ("query", "field"),
        [
            ({"pageSize": "-1"}, "pageSize"),
            ({"pageSize": "x"}, "pageSize"),
            ({"pageToken": "x"}, "pageToken"),
            ({"pageToken": "bm9uZQ=="}, "pageToken"),
            ({"pageToken": "\xff"}, "pageToken"),
        ],
    )
    def test_an_invalid_parameter_is_named(self, query: dict[str, str], field: str) -> None:
        with pytest.raises(Invalid) as raised:
            gemini.write_models(MODELS, query)
        assert raised.value.errors[0]["loc"] == ["query", field]
