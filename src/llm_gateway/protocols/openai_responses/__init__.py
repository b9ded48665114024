"""OpenAI's Responses API, the part that keeps nothing: https://platform.openai.com/docs/api-reference/responses."""

from llm_gateway.protocols.openai_responses.reply import read_reply, write_reply
from llm_gateway.protocols.openai_responses.request import read_request, refuse_state
from llm_gateway.protocols.openai_responses.sealed import OURS
from llm_gateway.protocols.openai_responses.stream import StreamReader
from llm_gateway.protocols.openai_responses.stream_writer import StreamWriter

__all__ = ["OURS", "StreamReader", "StreamWriter", "read_reply", "read_request", "refuse_state", "write_reply"]
