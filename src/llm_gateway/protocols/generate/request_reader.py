"""Read the body of POST /api/v1/generate."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec

from llm_gateway.domain.conversation import Conversation, Format, Text, Turn
from llm_gateway.domain.request import ClientRequest
from llm_gateway.domain.token_estimate import weigh, weight
from llm_gateway.errors import Invalid, NotSupported
from llm_gateway.protocols.contract import Unreadable, Unsupported
from llm_gateway.protocols.openai_chat import read_request

# The pattern is checked apart from decoding, which is faster; here it is for the API's description.
WITHOUT_NUL = {"pattern": r"^[^\x00]*$"}
Label = Annotated[str, msgspec.Meta(min_length=1, max_length=256, extra_json_schema=WITHOUT_NUL)]
ModelName = Annotated[str, msgspec.Meta(min_length=1, max_length=512, extra_json_schema=WITHOUT_NUL)]


class GenerateBody(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The request fields of the reference, with their ranges, then three more.

    `messages` are those of OpenAI's chat completions; `prompt`, which is required without them, is the last of them.
    """

    user_id: Label
    service: Label
    prompt: Annotated[str, msgspec.Meta(min_length=1)] | msgspec.UnsetType = msgspec.UNSET
    task_type: Label = "general"
    system: str = ""
    max_tokens: Annotated[int, msgspec.Meta(ge=1, le=8000)] = 1000
    temperature: Annotated[float, msgspec.Meta(ge=0.0, le=2.0)] = 0.7
    json_mode: bool = False
    model: ModelName | None = None
    messages: Annotated[list[dict[str, Any]], msgspec.Meta(min_length=1)] | None = None
    stream: bool = False


def client_request_of(body: GenerateBody) -> ClientRequest:
    """Read what a body asks for: a conversation whose last turn is `prompt`.

    Raises:
        Invalid, NotSupported: its `messages` are not those of chat completions, or hold what no provider is asked for.
    """
    turns = [] if body.messages is None else _turns(body.messages)
    if body.system:
        turns.insert(0, Turn(role="system", parts=[Text(text=body.system)]))
    if body.prompt is not msgspec.UNSET:
        turns.append(Turn(role="user", parts=[Text(text=body.prompt)]))
    return ClientRequest.of(
        Conversation(
            turns=turns,
            max_tokens=body.max_tokens,
            temperature=body.temperature,
            format=Format() if body.json_mode else None,
        )
    )


def _turns(messages: list[dict[str, Any]]) -> list[Turn]:
    try:
        return read_request({"model": "auto", "messages": messages}).conversation.turns
    except Unreadable as error:
        raise Invalid(error.message, loc=("body", error.field)) from None
    except Unsupported as error:
        raise NotSupported(f"{error.field}: {error.why}.", field=error.field) from None


def weight_of(body: GenerateBody) -> int:
    """Count the ASCII characters that take as many tokens as the input."""
    of_prompt = 0 if body.prompt is msgspec.UNSET else weight(body.prompt)
    of_messages = 0 if body.messages is None else weigh({"messages": body.messages}, ("messages",))
    return of_prompt + weight(body.system) + of_messages
