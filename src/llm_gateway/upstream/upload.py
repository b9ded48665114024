"""Send a request's body in pieces while its response may arrive already, for requests that are passed on as they come.

The request's states (those of the response are drawn in `connection.py`):

    start ──▶ open: `send` pieces; each waits while the other side reads too slowly ── finish ──▶ sent

The connection is reusable once the request is sent and the response is complete.
"""

from __future__ import annotations

import httptools

from llm_gateway.upstream.connection import UpstreamConnection
from llm_gateway.upstream.response import ResponseStream


class UploadConnection(UpstreamConnection):
    """A connection for requests whose bodies are sent in pieces. Call `start`, then `send` and `finish`.

    Responses are streams and may be compressed, since they are passed on without being read.
    """

    __slots__ = ("_has_no_content", "_is_sent")
    takes_compressed = True

    def __init__(self) -> None:
        super().__init__(max_body_bytes=0)
        self._is_sent = False
        self._has_no_content = False

    def start(self, head: bytes, *, method: str) -> ResponseStream:
        """Send the head of a request, and return the stream of its response. Call `finish` after the body's last piece.

        Raises:
            IncompleteResponse: the connection is closed.
        """
        self._is_sent = False
        self._has_no_content = method == "HEAD"
        return self.open(head)

    async def send(self, piece: bytes) -> bool:
        """Send a piece of the body; returns once more may be sent, False if the connection is closed."""
        if self._transport is None or self._transport.is_closing():
            return False
        self._transport.write(piece)
        if self._caught_up is not None:
            await self._caught_up
        return self._transport is not None

    def finish(self) -> None:
        """Note that the whole request is sent."""
        self._is_sent = True

    def on_headers_complete(self) -> None:
        """Start the stream, and end it if the response has no content whatever its headers say (HEAD)."""
        super().on_headers_complete()
        parser = self._parser
        if self._has_no_content and parser is not None and parser.get_status_code() >= 200:
            self._complete(is_reusable=parser.should_keep_alive())
            self._parser = httptools.HttpResponseParser(self)  # the old one waits for the content

    def _complete(self, *, is_reusable: bool) -> None:
        super()._complete(is_reusable=is_reusable and self._is_sent)
