"""The gateway's own protocol of POST /api/v1/generate: a prompt in, the answer as text out."""

from llm_gateway.protocols.generate.reply_writer import GenerateAnswer
from llm_gateway.protocols.generate.request_reader import LABEL_PATTERN, GenerateBody, client_request_of, input_length

__all__ = ["LABEL_PATTERN", "GenerateAnswer", "GenerateBody", "client_request_of", "input_length"]
