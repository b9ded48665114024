"""OpenAI's chat completions: https://platform.openai.com/docs/api-reference/chat."""

from llm_gateway.protocols.openai_chat.reply import read_reply, write_reply
from llm_gateway.protocols.openai_chat.request import read_request
from llm_gateway.protocols.openai_chat.stream import StreamReader, StreamWriter
from llm_gateway.protocols.openai_chat.writing import write_request

__all__ = ["StreamReader", "StreamWriter", "read_reply", "read_request", "write_reply", "write_request"]
