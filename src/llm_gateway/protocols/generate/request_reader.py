"""Fields and ranges of the body of POST /api/v1/generate, and its conversion into a conversation."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from llm_gateway.domain.conversation import Conversation, ResponseFormat, Text, Turn
from llm_gateway.domain.request import ClientRequest
from llm_gateway.domain.token_estimate import equivalent_length, equivalent_length_of
from llm_gateway.errors import Invalid, NotSupported
from llm_gateway.protocols.contract import Unreadable, Unsupported
from llm_gateway.protocols.openai_chat import read_request

WITHOUT_NUL = {"pattern": r"^[^\x00]*$"}
"""JSON schema of text without NUL, for the OpenAPI document. The endpoint checks it: a pattern slows down decoding."""
LABEL_PATTERN = r"^[^\x00]*[^\x00\s][^\x00]*$"
"""Pattern of text that is not blank and without NUL, for the OpenAPI document; it is checked in the same way."""
Label = Annotated[str, msgspec.Meta(min_length=1, max_length=256, extra_json_schema={"pattern": LABEL_PATTERN})]
"""A value that usage is grouped by; the limit in characters bounds the size of usage records."""
ModelName = Annotated[str, msgspec.Meta(min_length=1, max_length=512, extra_json_schema=WITHOUT_NUL)]


class GenerateBody(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The fields of the request, with their ranges.

    `model`, `messages` and `stream` are additions to the API reference. `messages` has the format of OpenAI's chat
    completions. `prompt` is appended as the last user message; it is required if there are no `messages`. Null means
    that one of these four is absent.
    """

    user_id: Label
    service: Label
    prompt: Annotated[str, msgspec.Meta(min_length=1)] | None = None
    task_type: Label = "general"
    system: str = ""
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=8000)] = 1000
    temperature: Annotated[float, msgspec.Meta(ge=0.0, le=2.0)] = 0.7
    json_mode: bool = False
    model: ModelName | None = None
    messages: Annotated[list[dict[str, Any]], msgspec.Meta(min_length=1)] | None = None
    stream: bool | None = False


def client_request_of(body: GenerateBody) -> ClientRequest:
    """Build the conversation that a body requests; `prompt` is its last turn.

    Raises:
        Invalid: `messages` are not valid messages of chat completions.
        NotSupported: `messages` contain parts that the gateway cannot translate.
    """
    turns = [] if body.messages is None else _turns(body.messages)
    if body.system:
        turns.insert(0, Turn(role="system", parts=[Text(text=body.system)]))
    if body.prompt is not None:
        turns.append(Turn(role="user", parts=[Text(text=body.prompt)]))
    return ClientRequest.of(
        Conversation(
            turns=turns,
            max_tokens=body.max_tokens,
            temperature=body.temperature,
            format=ResponseFormat() if body.json_mode else None,
        )
    )


def _turns(messages: list[dict[str, Any]]) -> list[Turn]:
    try:
        return read_request({"model": "auto", "messages": messages}).conversation.turns
    except Unreadable as error:
        raise Invalid(error.message, loc=("body", error.field)) from None
    except Unsupported as error:
        raise NotSupported(f"{error.field}: {error.why}.", field=error.field) from None


def input_length(body: GenerateBody) -> int:
    """Return the number of ASCII characters that have as many tokens as the input (`token_estimate.py`)."""
    of_prompt = 0 if body.prompt is None else equivalent_length(body.prompt)
    of_messages = 0 if body.messages is None else equivalent_length_of({"messages": body.messages}, ("messages",))
    return of_prompt + equivalent_length(body.system) + of_messages
