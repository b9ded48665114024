"""OpenAI's chat completions: https://platform.openai.com/docs/api-reference/chat."""

from llm_gateway.protocols.descriptor import PARTS, Descriptor
from llm_gateway.protocols.openai_chat.errors import write_error
from llm_gateway.protocols.openai_chat.passing import hides, pass_on
from llm_gateway.protocols.openai_chat.reply import read_reply, write_reply
from llm_gateway.protocols.openai_chat.request import read_request
from llm_gateway.protocols.openai_chat.stream import StreamReader, StreamWriter
from llm_gateway.protocols.openai_chat.writing import write_request

__all__ = ["DESCRIPTOR", "StreamReader", "StreamWriter", "read_reply", "read_request", "write_reply", "write_request"]

DESCRIPTOR = Descriptor(
    name="openai_chat",
    surface="chat_completions",
    path="/v1/chat/completions",
    read_request=read_request,
    read_reply=read_reply,
    write_reply=write_reply,
    write_error=write_error,
    stream_writer=StreamWriter,
    pass_on=pass_on,
    hides=hides,
    field_names={
        **dict.fromkeys(PARTS, "messages"),
        "reasoning": "reasoning_effort",
        "thinking": "reasoning_content",
    },
    forwarded_headers=(b"openai-beta",),
)
