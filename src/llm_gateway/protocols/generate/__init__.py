"""The gateway's own protocol, of POST /api/v1/generate: a prompt, and its answer as text."""

from llm_gateway.protocols.generate.reply import GenerateAnswer
from llm_gateway.protocols.generate.request import GenerateBody, ask_of, weight_of

__all__ = ["GenerateAnswer", "GenerateBody", "ask_of", "weight_of"]
