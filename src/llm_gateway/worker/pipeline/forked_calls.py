"""Write the upstream calls of a very large request in a forked process, which decodes the document."""

from __future__ import annotations

import time
from typing import Any

import msgspec

from llm_gateway.domain.catalog import Candidate
from llm_gateway.domain.request import Request
from llm_gateway.domain.upstream_call import UpstreamCall
from llm_gateway.errors import Overloaded
from llm_gateway.forked import ForkFailed, Forks, Portable
from llm_gateway.json_outline import Buffer
from llm_gateway.protocols.contract import Unreadable, Unsupported
from llm_gateway.worker.pipeline.translation import Translation


class ForkedCalls:
    """The calls of one large document. Await `prepare` for a candidate before `call`. `digest` is the document's."""

    def __init__(self, source: Buffer, digest: bytes, forks: Forks, translation: Translation) -> None:
        self.digest = digest
        self._source = source
        self._forks = forks
        self._translation = translation
        self._calls: dict[bytes, UpstreamCall | Portable] = {}

    async def prepare(self, request: Request, candidate: Candidate) -> None:
        """Have the candidate's call written, unless it is.

        Raises:
            Overloaded: the process failed, or had no time.
        """
        if candidate.cache_part in self._calls:
            return
        try:
            written, pieces = await self._forks.run(
                lambda: self._write(request, candidate), request.deadline - time.monotonic()
            )
        except ForkFailed as error:
            raise failed(error) from None
        except (Unreadable, Unsupported) as error:
            self._calls[candidate.cache_part] = Portable(type(error), error.args, vars(error))
            return
        call, codec, conversation, request.client_request.dropped = written
        provider = candidate.provider
        codecs = [*provider.codecs.values(), provider.translation_codec, provider.required_codec]
        codec = next(each for each in codecs if id(each) == codec)
        self._calls[candidate.cache_part] = msgspec.structs.replace(call, codec=codec, pieces=pieces)
        request.client_request.put_conversation(conversation)

    def call(self, candidate: Candidate) -> UpstreamCall:
        """Return the call of a candidate for which `prepare` was awaited.

        Raises:
            Unreadable, Unsupported: as `Translation.call`.
        """
        call = self._calls[candidate.cache_part]
        if isinstance(call, UpstreamCall):
            return call
        raise call.exception()

    def _write(self, request: Request, candidate: Candidate) -> tuple[Any, bytes]:
        """Write a call (in the forked process). What it is returned with is small: no turn of the conversation."""
        client_request = request.client_request
        client_request.document = msgspec.json.decode(self._source)
        client_request.put_conversation(None)
        call = self._translation.call(request, candidate)
        conversation = None if call.is_native else client_request.known_conversation
        if conversation is not None:
            conversation = msgspec.structs.replace(conversation, turns=[])
        bare = msgspec.structs.replace(call, body=self.digest, codec=None)
        return (bare, id(call.codec), conversation, client_request.dropped), call.body


def failed(error: ForkFailed) -> Overloaded:
    """Return the error for a client whose document could not be decoded in the forked process."""
    return Overloaded(
        f"The body is large, so a process of its own reads it, and {error}: try again, or send less.", retry_after_s=1
    )
